"""Sections of a report on a run that generates images.

Axes: B N images, H W pixels, C channels, K components, h w grid of attention, T steps.
"""

import dataclasses
import functools

import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import generating
from big_vision_like.report import page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section
from big_vision_like.viz import generation

COLUMNS = 12  # of samples in a sheet
PSI = (1.0, 0.7, 0.5, 0.25, 0.0)
ATTENDED = 6  # images whose attention is shown
PLAYED, STEPS, SECONDS = 6, 8, 0.1  # of interpolations
SWAPPED = 3  # pairs of images


@dataclasses.dataclass
class Generation(report_source.Source):
  """A report on a run that generates images."""

  predicts = 'images'

  @functools.cached_property
  def synthesis(self) -> generating.Synthesis:
    """The generator of the run."""
    return generating.of_run(self.restored.task, self.restored.state)

  @functools.cached_property
  def outputs(self) -> dict[str, np.ndarray]:
    """The outputs for the first latents."""
    return self.synthesis.images(self.synthesis.styles(ATTENDED))


def has_styles(source: Generation) -> bool:
  """Returns whether components of the generator can be changed, as far as known."""
  return source.run is None or generating.fits(source.run.task)


def attends(source: Generation) -> bool:
  """Returns whether the generator attends to components, as far as known."""
  return has_styles(source) and (source.run is None or 'attention' in source.outputs)


def samples(source: Generation) -> tuple[str, str]:
  """Shows samples as an evaluator sees them, for a task with any generator."""
  run = source.restored
  _, batch = source.training_batch(3 * COLUMNS)
  predict = jax.jit(run.task.prediction('generate'))
  image_BHWC = predict(run.state, dict(batch), jax.random.key(0))['image']
  sheet_HWC = generation.grid(jax.device_get(image_BHWC), COLUMNS)
  caption = 'Samples without truncation, in the order in which they were drawn.'
  return page.picture(sheet_HWC, 'samples'), caption


def truncation(source: Generation) -> tuple[str, str]:
  """Shows the same latents with styles that approach their average."""
  w_BKW = source.synthesis.styles(COLUMNS)
  sheet_HWC = generation.by_truncation(source.synthesis.by_truncation(w_BKW, PSI))
  values = ', '.join(f'{psi:g}' for psi in PSI)
  caption = (
    f'The same latents in each column. From top to bottom, styles are moved towards'
    f' their average, with psi = {values}. Noise is constant.'
  )
  return page.picture(sheet_HWC, 'samples by truncation'), caption


def attention(source: Generation) -> tuple[str, str]:
  """Shows which component each pixel attends to."""
  found = source.outputs
  sheet_HWC = generation.attention(found['image'], found['attention'])
  count = found['attention'].shape[1]
  caption = (
    'Attention of the last layer, the mean over its heads. From left to right: the'
    ' image, the component with the greatest attention of each pixel, both blended, and'
    f' the image where pixels attend to component 1 to {count}, pale where they attend'
    ' to it least.'
  )
  return page.picture(sheet_HWC, 'attention to components'), caption


def interpolation(source: Generation) -> tuple[str, str]:
  """Plays interpolations of several images at once."""
  w_BKW = source.synthesis.styles(2 * PLAYED)
  pairs = [
    source.synthesis.interpolated(w_BKW[[i, i + PLAYED]], STEPS) for i in range(PLAYED)
  ]
  frames = generation.interpolation(np.stack(pairs, axis=1), PLAYED)
  caption = (
    f'Linear interpolation of the styles of {PLAYED} pairs of images, there and back.'
  )
  return page.animation(np.stack(frames), 'interpolation', SECONDS), caption


def components(source: Generation) -> tuple[str, str]:
  """Shows images with one component of another image each."""
  synthesis, parts = source.synthesis, []
  w_BKW = synthesis.styles(2 * SWAPPED)
  if w_BKW.shape[1] < 2:
    raise UserError('the generator has a single component.')
  image_BHWC = synthesis.images(w_BKW)['image']
  for i in range(SWAPPED):
    other = i + SWAPPED
    found_KHWC = synthesis.swapped(w_BKW[i], w_BKW[other])
    sheet = generation.swapped(image_BHWC[i], image_BHWC[other], found_KHWC)
    parts.append(page.picture(sheet, 'components swapped'))
  last = ' The last is the global component.' if synthesis.module.has_global else ''
  caption = (
    'From left to right: an image, another one, and the first with the style of one'
    f' component of the second.{last} Below: how much that changes each pixel, from'
    ' black to yellow.'
  )
  return page.arranged(parts, 'below'), caption


Generation.sections = (
  Section('Samples', samples, 'below'),
  Section('Truncation', truncation, 'below', has_styles),
  Section('Attention to components', attention, 'below', attends),
  Section('Interpolation', interpolation, 'below', has_styles),
  Section('Components swapped', components, 'below', has_styles),
)
