"""Section of a report on the tokens of soft splits (arXiv:2101.11986).

Axes: B images, H W pixels, C channels, D width, P tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.models import t2t_vit
from big_vision_like.report import page, vit
from big_vision_like.report.source import Section, Source, evenly
from big_vision_like.viz import images

NUM_IMAGES, NUM_TOKENS = 4, 3


def span() -> tuple[int, int]:
  """Returns the side in pixels of the square that the soft splits of a token cover.

  The second number is how many of these pixels come before the token's own first pixel.
  """
  pixels, before, stride = 1, 0, 1
  for size, step, padding in t2t_vit.SPLITS:
    pixels, before = pixels + (size - 1) * stride, before + padding * stride
    stride *= step
  return pixels, before


def sight(
  trained: vit.Trained, image_BHWC: np.ndarray, places: Sequence[int]
) -> np.ndarray:
  """Returns the influence of each pixel on tokens of the grid: (B, P, H, W).

  It is the absolute gradient of half the squared norm of a token, at the input of the
  first block, summed over channels.
  """
  (x_BHWC,) = trained.inputs(image_BHWC)
  first = len(trained.model.leading)

  def strength(x_BHWC: jax.Array, place: jax.Array) -> jax.Array:
    _, sown = trained.model.apply(trained.variables, x_BHWC, mutable=['intermediates'])
    token_BD = sown['intermediates']['with_position'][-1][:, first + place]
    return jnp.square(token_BD.astype(jnp.float32)).sum() / 2

  def sizes(x_BHWC: jax.Array, place: jax.Array) -> jax.Array:
    return jnp.abs(jax.grad(strength)(x_BHWC, place)).sum(axis=-1)

  jitted = jax.jit(sizes)
  maps = [np.asarray(jitted(x_BHWC, place)) for place in places]
  return np.stack(maps, axis=1)


def shares(map_HW: np.ndarray, row: int, column: int) -> tuple[float, float]:
  """Returns the shares of a map in a token's own pixels, and in its splits' pixels."""
  pixels, before = span()
  total = map_HW.sum() or 1.0
  top, left = row * t2t_vit.STRIDE, column * t2t_vit.STRIDE
  own = map_HW[top : top + t2t_vit.STRIDE, left : left + t2t_vit.STRIDE]
  rows, columns = (
    slice(max(start - before, 0), start - before + pixels) for start in (top, left)
  )
  return own.sum() / total, map_HW[rows, columns].sum() / total


def token_sight(source: Source) -> tuple[str, str]:
  """Shows which pixels the tokens of a T2T-ViT depend on."""
  trained = source.trained
  image_BHWC = trained.images()
  rows, columns = trained.model.grid(image_BHWC.shape[1:3])
  chosen = evenly(len(image_BHWC), NUM_IMAGES)
  cells = [
    (rows * (2 * i + 1) // (2 * NUM_TOKENS), columns * (2 * i + 1) // (2 * NUM_TOKENS))
    for i in range(NUM_TOKENS)
  ]
  places = [row * columns + column for row, column in cells]
  map_BPHW = sight(trained, image_BHWC[chosen], places)
  cards, found = [], []
  for image_HWC, map_PHW in zip(image_BHWC[chosen], map_BPHW, strict=True):
    if np.issubdtype(image_HWC.dtype, np.floating):
      image_HWC = 0.5 * (image_HWC + 1.0)
    parts = [page.picture(images.fit(images.to_rgb(image_HWC), vit.THUMBNAIL), 'input')]
    for map_HW, (row, column) in zip(map_PHW, cells, strict=True):
      found.append(shares(map_HW, row, column))
      # Square roots, as a few pixels have a hundred times the influence of most.
      root_HW = np.sqrt(map_HW)
      coloured_HWC = images.colormap(root_HW, 0.0, float(root_HW.max()) or 1.0)
      what = f'row {row + 1}, column {column + 1}'
      parts.append(page.text_line(what))
      picture = images.fit(coloured_HWC, vit.THUMBNAIL)
      parts.append(page.picture(picture, f'pixels that the token of {what} depends on'))
    cards.append(page.card(''.join(parts), '', ''))
  own, split = np.mean(found, axis=0)
  pixels, _ = span()
  caption = (
    f'Top: the input. Below: the influence of each pixel on tokens of the {rows} x '
    f'{columns} grid at the input of the first block, as a square root, from none '
    f'(dark blue) to most (yellow). On average {100 * own:.0f}\u00a0% of the influence '
    f'comes from the 16 x 16 pixels of the token, {100 * split:.0f}\u00a0% from the '
    f'{pixels} x {pixels} pixels that its soft splits cover, and the rest from all '
    'pixels, through the attention between the splits.'
  )
  return page.cards(cards), caption


OF_MODELS = {t2t_vit.T2TViT: (Section('What tokens see', token_sight, 'below'),)}
