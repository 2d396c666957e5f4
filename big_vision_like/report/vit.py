"""Sections of a report on a vision transformer: filters, positions and attention.

These are figures 6, 7 and 11 of arXiv:2010.11929, for any trained model.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import loading
from big_vision_like.layers import resnet
from big_vision_like.models import vit
from big_vision_like.ops import positions as position_tables
from big_vision_like.report import page
from big_vision_like.report.source import Section
from big_vision_like.viz import attention, curves, filters, images, positions

ATTENTION_BATCH = 8
ATTENTION_BYTES = 2**29  # of attention maps, in a batch of more than one image
THUMBNAIL = 128  # pixels
MATRIX = 126  # pixels


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with its variables, and images to run it on.

  `inputs` (jittable) returns the arguments of the model for `images()`, (B, H, W, C).
  The model need not be a ViT: parts that it lacks raise a `UserError` on access.
  """

  model: nn.Module
  variables: Mapping[str, Any]
  inputs: Callable[[jax.Array], tuple[jax.Array, ...]]
  images: Callable[[], np.ndarray]

  @property
  def params(self) -> Mapping[str, Any]:
    return self.variables['params']

  @property
  def grid(self) -> tuple[int, int]:
    """The number of rows and columns of patches in an image."""
    if not loading.attends(self.model):
      raise UserError(f'{type(self.model).__name__} has no patches that attend.')
    return self.model.grid(self.images().shape[1:3])

  @property
  def patch(self) -> tuple[float, float]:
    """The height and width of a step of the grid, in pixels of the image."""
    (rows, columns), (height, width) = self.grid, self.images().shape[1:3]
    return height / rows, width / columns

  @property
  def num_prefix(self) -> int:
    """The number of tokens before the patches."""
    return self.model.registers + len(self.model.leading)

  def reads(self, sown: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the readouts of the model: weights of the last tokens by name, (B, N).

    A model that reads several tokens, for example of class and distillation, has one
    entry for each.
    """
    pool, registers, leading = self.model.pool, self.model.registers, self.model.leading
    output_BN = attention.output_weights(sown, pool, registers, len(leading))
    if len(leading) < 2:
      return {READS[pool]: output_BN}
    each_N = np.eye(output_BN.shape[1])[registers : registers + len(leading)]
    return {
      READS[name]: np.broadcast_to(weight_N, output_BN.shape)
      for name, weight_N in zip(leading, each_N, strict=True)
    }

  def collect(self, variables: Any, image_BHWC: jax.Array) -> Mapping[str, Any]:
    """Returns the intermediates that the model sows; jittable."""
    _, collected = self.model.apply(
      variables, *self.inputs(image_BHWC), mutable=['intermediates']
    )
    return collected['intermediates']


@dataclasses.dataclass(frozen=True)
class Attention:
  """Rollouts of some images (`shown`), and mean distance in pixels over `count`.

  There is one rollout (B, P) for each readout of the model.
  """

  shown: np.ndarray
  rollouts: Mapping[str, np.ndarray]
  distance_LH: np.ndarray
  count: int

  def of(self, place: int) -> dict[str, np.ndarray]:
    """Returns the rollouts (P,) of one of the images that are shown."""
    return {name: rollout_BP[place] for name, rollout_BP in self.rollouts.items()}


def attend(trained: Trained, rows: np.ndarray, shown: np.ndarray) -> Attention:
  """Computes mean distances over images `rows`, and rollouts for those in `shown`."""
  grid, patch, num_prefix = trained.grid, trained.patch, trained.num_prefix
  image_BHWC, variables = trained.images(), jax.device_put(trained.variables)
  if not len(rows):
    raise UserError('there are no images to compute attention for.')
  sown = jax.eval_shape(trained.collect, variables, image_BHWC[:1])
  size = 4 * sum(leaf.size for leaf in jax.tree.leaves(sown))
  batch = int(np.clip(ATTENTION_BYTES // size, 1, ATTENTION_BATCH))
  collect = jax.jit(trained.collect)
  rollouts: dict[str, list[np.ndarray]] = {}
  total_LH = 0.0
  for part in np.split(rows, range(batch, len(rows), batch)):
    sown = collect(variables, image_BHWC[part])
    probs_LBHNN = attention.stack_attention(sown)
    mean_LH = attention.attention_distance(probs_LBHNN, grid, patch, num_prefix)
    total_LH += mean_LH * len(part)
    is_shown = np.isin(part, shown)
    if is_shown.any():
      for name, output_BN in trained.reads(sown).items():
        rollouts.setdefault(name, []).append(
          attention.rollout(probs_LBHNN[:, is_shown], output_BN[is_shown], num_prefix)
        )
  whole = {name: np.concatenate(parts) for name, parts in rollouts.items()}
  return Attention(shown, whole, total_LH / len(rows), len(rows))


def first_filters(source: Any) -> tuple[str, str]:
  """Shows the principal components of the filters of the first layer."""
  kernel_PQCD, what = first_kernel(source.trained)
  if kernel_PQCD.shape[2] not in (1, 3):
    raise UserError(
      f'its first layer reads {kernel_PQCD.shape[2]} channels, which make no picture.'
    )
  filters_KPQC, share_K = filters.principal_filters(kernel_PQCD)
  tiles = [
    page.picture(
      images.fit(images.to_rgb(filter_PQC), 64),
      f'component {rank}: {100 * share:.1f} % of the variance',
    )
    for rank, (filter_PQC, share) in enumerate(
      zip(filters_KPQC, share_K, strict=True), start=1
    )
  ]
  caption = (
    f'The first {len(tiles)} principal components of the {kernel_PQCD.shape[-1]} '
    f'{what}, in descending order of variance ({100 * share_K.sum():.0f}\u00a0% '
    'together). Weights of zero are mid-grey.'
  )
  return page.tiles(tiles), caption


def first_kernel(trained: Trained) -> tuple[np.ndarray, str]:
  """Returns the kernel of the first layer, (P, Q, C, D), and a name for its filters."""
  params = trained.params
  if 'resnet' in params:
    kernel_PQCD = params['resnet']['conv_root']['kernel']
    kernel_PQCD = np.asarray(resnet.standardised(kernel_PQCD, 1e-5, 'std'))
    return kernel_PQCD, "filters of the ResNet's first convolution, standardised"
  kernel_PQCD = params.get('embed', {}).get('kernel')
  if np.ndim(kernel_PQCD) != 4:
    model = type(trained.model).__name__
    raise UserError(f'{model} has no patch embedding (embed/kernel).')
  return np.asarray(kernel_PQCD, np.float32), 'patch filters'


def position_embeddings(source: Any) -> tuple[str, str]:
  """Shows the cosine similarity of each position with all others."""
  embedding_ND, what = grid_positions(source.trained)
  grid = source.trained.grid
  similarity_hwhw = positions.position_similarity(embedding_ND, grid)
  between = positions.along_rows_and_columns(similarity_hwhw)
  names = ('rows', 'columns')
  cards, lines = [], []
  for name, matrix_NN in zip(names, between, strict=True):
    coloured_NNC = images.colormap(matrix_NN, -1.0, 1.0)
    picture = page.picture(images.fit(coloured_NNC, MATRIX), f'similarity of {name}')
    cards.append(page.card(picture, '', page.text_line(f'{name} with {name}')))
    distance = np.arange(len(matrix_NN))
    similarity_N = positions.by_distance(matrix_NN)
    lines.append(curves.Curve(name, distance, similarity_N, dash=len(lines)))
  chart = curves.chart(
    lines,
    'Similarity by distance',
    x_label='patches apart',
    y_label='cosine similarity',
  )
  caption = (
    f'Each panel belongs to the patch at its place in the {grid[0]} x {grid[1]} grid. '
    'It shows the cosine similarity of the position embedding of this patch with all '
    f'others, from -1 (dark blue) to 1 (yellow). {what} If the model has learned the '
    'grid, a bright spot, row and column move with the panel. Below: the mean '
    'similarity of rows within a column, and of columns within a row.'
  )
  picture = page.picture(
    positions.similarity_picture(similarity_hwhw), 'position similarity'
  )
  return picture + page.arranged([page.cards(cards), chart], 'beside'), caption


def grid_positions(trained: Trained) -> tuple[np.ndarray, str]:
  """Returns the embedding of each place of the grid, (N, D), with a note on it."""
  params, model = trained.params, trained.model
  params = {**params, **trained.variables.get('constants', {})}  # fixed tables
  if 'relative_keys' in params:
    raise UserError(
      'the model has keys for distances between tokens (relative_keys), but no position'
      ' embedding.'
    )
  if 'pos_embedding' in params:
    tables_LND, (rows, columns) = params['pos_embedding'], trained.grid
    embedding_ND, what = tables_LND[0, -rows * columns :], first_of(len(tables_LND))
  elif 'pos_rows' in params:
    rows, columns = params['pos_rows'], params['pos_columns']
    what = 'Rows and columns have separate tables, with half of the features each.'
    if rows.ndim == 3:
      what += first_of(len(rows))
      rows, columns = rows[0], columns[0]
    [embedding_ND] = position_tables.grid2d(rows, columns)
  elif isinstance(model, vit.ViT) and model.posemb == 'sincos2d':
    what = 'The embeddings are computed, not learned (sincos2d).'
    [embedding_ND] = position_tables.sincos2d(*trained.grid, model.width)
  else:
    raise UserError('the model has no position embedding.')
  return np.asarray(embedding_ND, np.float32), what


def first_of(layers: int) -> str:
  """Returns a note for the caption if blocks have their own tables."""
  return f' This is the table of the first of {layers} blocks.' if layers > 1 else ''


def attention_distances(source: Any) -> tuple[str, str]:
  """Shows the mean attention distance of each head, by depth."""
  attended, trained = source.attention, source.trained
  distance_LH, grid = attended.distance_LH, trained.grid
  num_prefix = trained.num_prefix
  layers, heads = distance_LH.shape
  tokens = grid[0] * grid[1] + num_prefix
  uniform = attention.attention_distance(
    np.full((1, 1, 1, tokens, tokens), 1 / tokens), grid, trained.patch, num_prefix
  ).item()
  depth_LH = np.broadcast_to(np.arange(1, layers + 1)[:, None], distance_LH.shape)
  notes = [
    f'layer {layer + 1}, head {head + 1}: {distance_LH[layer, head]:.1f} pixels'
    for layer in range(layers)
    for head in range(heads)
  ]
  svg = curves.chart(
    [
      curves.Curve(
        'a head', depth_LH.ravel(), distance_LH.ravel(), points=True, notes=notes
      ),
      curves.Curve('mean of the heads', depth_LH[:, 0], distance_LH.mean(axis=1)),
      curves.Curve(
        'if attention were uniform', [1, layers], [uniform] * 2, colour=6, dash=1
      ),
    ],
    'Mean attention distance',
    x_label='layer',
    y_label='pixels',
    from_zero=True,
  )
  count = attended.count
  images_seen = f'{count} images' if count > 1 else 'one image'
  caption = (
    'Each dot is a head: the mean distance between a patch and the patches that it '
    f'attends to, over {images_seen}. Heads with a small distance act locally, like a '
    'convolution.'
  )
  return svg, caption


def rollout_pictures(
  image_HWC: np.ndarray, rollouts: Mapping[str, np.ndarray], grid: tuple[int, int]
) -> str:
  """Renders an image (RGB uint8), and below it each rollout (P,) over it and alone."""
  image_HWC = images.fit(image_HWC, THUMBNAIL)
  parts = [page.picture(image_HWC, 'input')]
  for name, rollout_P in rollouts.items():
    map_hw = rollout_P.reshape(grid)
    coloured_hwC = images.colormap(map_hw, map_hw.min(), map_hw.max())
    coloured_HWC = images.stretch(coloured_hwC, image_HWC.shape[:2])
    if len(rollouts) > 1:
      parts.append(page.text_line(name))
    parts += [
      page.picture(images.highlight(image_HWC, map_hw), f'input lit by {name}'),
      page.picture(coloured_HWC, f'attention of {name}'),
    ]
  return ''.join(parts)


READS = {
  'token': 'the class token',
  'gap': 'the mean of all patches',
  'map': 'attention pooling',
  # Of models with several readouts.
  'cls': 'class token',
  'dist': 'distillation token',
}


def how_to_read_rollouts(trained: Trained) -> str:
  """Returns the caption of `rollout_pictures`."""
  leading = trained.model.leading
  if len(leading) > 1:
    names = ' and '.join(f'the {READS[name]}' for name in leading)
    return (
      f'Top: the input. Below, for {names}: the input brightened by the attention of '
      'the token, rolled out through all layers (black: the least), and the attention '
      'alone, from least (dark blue) to most (yellow).'
    )
  reads = READS[trained.model.pool]
  return (
    f'Top: the input. Middle: the input brightened by the attention of the output '
    f'({reads}), rolled out through all layers (black: the least). Bottom: the '
    'attention alone, from least (dark blue) to most (yellow).'
  )


FILTERS = Section('Patch filters', first_filters, 'beside')
POSITIONS = Section('Position embeddings', position_embeddings, 'beside')
DISTANCES = Section('Attention distance', attention_distances, 'beside')
