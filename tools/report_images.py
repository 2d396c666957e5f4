"""What a report shows of a run on images: examples and what a ViT learned."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import report_source
from report_source import Section, evenly

from big_vision_like import spec as specs
from big_vision_like.errors import UserError
from big_vision_like.evals.evaluator import MeanEvaluator
from big_vision_like.viz import attention, curves, filters, images, page, positions

NUM_INPUTS, NUM_RIGHT, NUM_WRONG, NUM_ROLLOUTS = 16, 8, 16, 8
NUM_FOR_DISTANCE = 128  # images, as in the paper
ATTENTION_BATCH = 8  # keeps the maps of a large model within memory
THUMBNAIL = 128  # pixels


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Evaluation examples with what the model makes of them."""

  evaluator: str
  image_BHWC: np.ndarray
  label_B: np.ndarray
  id_B: np.ndarray
  probability_BC: np.ndarray
  names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Attention:
  """Rollout of some predicted examples (`rows`), and mean distance in pixels."""

  rows: np.ndarray
  rollout_BP: np.ndarray
  distance_LH: np.ndarray


@dataclasses.dataclass
class Source(report_source.Source):
  """A run whose batches hold images."""

  @property
  def sections(self) -> Sequence[Section]:
    return SECTIONS

  @property
  def patch_kernel(self) -> np.ndarray:
    """The patch embedding's kernel (P, Q, C, D)."""
    embed = self.params.get('embed', {})
    if 'kernel' not in embed or embed['kernel'].ndim != 4:
      model = type(self.run.task.model).__name__
      raise UserError(f'{model} has no patch embedding (embed/kernel).')
    return np.asarray(embed['kernel'], np.float32)

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches in the evaluated images."""
    patch = self.patch_kernel.shape[:2]
    size = self.predictions.image_BHWC.shape[1:3]
    return size[0] // patch[0], size[1] // patch[1]

  @functools.cached_property
  def predictions(self) -> Predictions:
    return predict(self)

  @functools.cached_property
  def attention(self) -> Attention:
    return attend(self)


def predict(source: Source) -> Predictions:
  """Runs the model on the first examples of an evaluator's data."""
  task, state = source.restored.task, source.restored.state
  # Those that compare each output with its label; few-shot data has other classes.
  name, node = source.evaluation(
    lambda kind: issubclass(kind, MeanEvaluator), 'predicts labels'
  )
  data = specs.build(node['data'], f'config.evals.{name}.data')
  predict_fn, state = jax.jit(task.predict), jax.device_put(state)
  sigmoid = source.log.config['task'].get('loss_type') == 'sigmoid'
  parts, count = collections.defaultdict(list), 0
  for batch in data.epoch():
    if 'image' not in batch or np.ndim(batch.get('label')) != 1:
      raise UserError(f'the data of evals.{name} is not images with one label each.')
    outputs = predict_fn(state, batch, jax.random.key(0))
    if np.ndim(outputs.get('logits')) != 2:
      raise UserError('the task predicts no `logits` over classes.')
    logits_BC = np.asarray(outputs['logits'], np.float32)
    mask_B = np.asarray(batch.get('mask', np.ones(len(logits_BC), bool)))
    parts['image'].append(batch['image'][mask_B])
    parts['label'].append(batch['label'][mask_B])
    parts['id'].append(batch.get('id', count + np.arange(len(mask_B)))[mask_B])
    parts['probability'].append(probabilities(logits_BC, sigmoid)[mask_B])
    count += mask_B.sum()
    if count >= source.num_examples:
      break
  if not count:
    raise UserError(f'the data of evals.{name} is empty.')
  joined = {k: np.concatenate(v)[: source.num_examples] for k, v in parts.items()}
  if joined['label'].max() >= logits_BC.shape[-1]:
    raise UserError(
      f'evals.{name} has labels up to {joined["label"].max()}, the model '
      f'{logits_BC.shape[-1]} classes.'
    )
  return Predictions(
    evaluator=name,
    image_BHWC=joined['image'],
    label_B=joined['label'],
    id_B=joined['id'],
    probability_BC=joined['probability'],
    names=class_names(data, logits_BC.shape[-1]),
  )


def class_names(data: Any, count: int) -> list[str]:
  """Names of the classes 0 to `count` - 1, numbers where the data has none."""
  known = list(data.source.label_names or ())
  return [*known, *map(str, range(len(known), count))][:count]


def probabilities(logits_BC: np.ndarray, sigmoid: bool) -> np.ndarray:
  if sigmoid:
    return 0.5 * (1.0 + np.tanh(logits_BC / 2))
  exp_BC = np.exp(logits_BC - logits_BC.max(axis=-1, keepdims=True))
  return exp_BC / exp_BC.sum(axis=-1, keepdims=True)


def attend(source: Source) -> Attention:
  """Attention of the model to examples spread over the predicted ones."""
  patch, grid = source.patch_kernel.shape[:2], source.grid
  image_BHWC = source.predictions.image_BHWC
  task, state = source.restored.task, source.restored.state
  variables = jax.device_put({'params': source.params, **state.mutable})
  has_class_token = 'cls' in source.params

  @jax.jit
  def intermediates(variables: Any, image_BHWC: jax.Array) -> Any:
    inputs = task.model_inputs({'image': image_BHWC})
    _, collected = task.model.apply(variables, *inputs, mutable=['intermediates'])
    return collected['intermediates']

  def attention_to(rows: np.ndarray) -> np.ndarray:
    try:
      return attention.stack_attention(intermediates(variables, image_BHWC[rows]))
    except ValueError as error:
      raise UserError(f'{error}.') from error

  shown = evenly(len(image_BHWC), NUM_ROLLOUTS)
  rollout_BP = attention.rollout(attention_to(shown), has_class_token)
  rows = evenly(len(image_BHWC), NUM_FOR_DISTANCE)
  total_LH = 0.0
  for part in np.split(rows, range(ATTENTION_BATCH, len(rows), ATTENTION_BATCH)):
    mean_LH = attention.attention_distance(
      attention_to(part), grid, patch, has_class_token
    )
    total_LH += mean_LH * len(part)
  return Attention(shown, rollout_BP, total_LH / len(rows))


def sample_inputs(source: Source) -> tuple[str, str]:
  """The first training examples, augmented."""
  data, batch = source.training_batch(NUM_INPUTS)
  if 'image' not in batch or np.ndim(batch.get('label')) != 1:
    raise UserError('the training batches are not images with one label each.')
  names = class_names(data, int(batch['label'].max()) + 1)
  cards = [
    page.card(thumbnail(image_HWC), names[label], page.text_line(names[label]))
    for image_HWC, label in zip(
      batch['image'][:NUM_INPUTS], batch['label'][:NUM_INPUTS], strict=True
    )
  ]
  size = ' x '.join(map(str, batch['image'].shape[1:]))
  caption = (
    f'Training images after all transforms, as {size} arrays enter the model, each '
    'with its label; what the task does on the device (mixup) comes after.'
  )
  return page.cards(cards), caption


def predicted(source: Source) -> tuple[str, str]:
  """Examples that the model gets right, and its most confident mistakes."""
  found = source.predictions
  order = np.argmax(found.probability_BC, axis=-1)
  right_B = order == found.label_B
  confidence_B = found.probability_BC.max(axis=-1)
  wrong = np.nonzero(~right_B)[0]
  wrong = wrong[np.argsort(-confidence_B[wrong], kind='stable')][:NUM_WRONG]
  right = np.nonzero(right_B)[0]
  right = right[evenly(len(right), NUM_RIGHT)]
  text = page.paragraph(
    f'{right_B.sum():,} of the first {len(right_B):,} examples of '
    f'{found.evaluator} are right ({100 * right_B.mean():.2f}\u00a0%).'
  )
  content = ''
  for heading, rows in (('Most confident mistakes', wrong), ('Right', right)):
    cards = [prediction_card(found, row) for row in rows]
    content += page.heading(heading)
    content += page.cards(cards) if cards else page.paragraph('There are none.')
  caption = (
    'Below each image its true class, then the most probable classes with their '
    'probabilities; the true class is green.'
  )
  return text + content, caption


def prediction_card(found: Predictions, row: int) -> str:
  probability_C, label = found.probability_BC[row], found.label_B[row]
  best = [int(c) for c in np.argsort(-probability_C, kind='stable')[:3]]
  if label not in best:
    best.append(int(label))
  bars = ''.join(
    page.bar(found.names[c], float(probability_C[c]), c == label) for c in best
  )
  title = page.text_line(f'true: {found.names[label]}')
  picture = thumbnail(found.image_BHWC[row])
  return page.card(picture, f'example {found.id_B[row]}', title + bars)


def patch_filters(source: Source) -> tuple[str, str]:
  """Principal components of the patch embedding."""
  kernel_PQCD = source.patch_kernel
  channels = kernel_PQCD.shape[2]
  if channels not in (1, 3):
    raise UserError(f'its patches have {channels} channels, which is no picture.')
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
    f'patch filters, most variance first ({100 * share_K.sum():.0f}\u00a0% together); '
    'mid-grey is weight zero.'
  )
  return page.tiles(tiles), caption


def position_embeddings(source: Source) -> tuple[str, str]:
  """Cosine similarity of each position with all others."""
  params = source.params
  if 'pos_embedding' not in params:
    raise UserError('the model has no learned position embedding (pos_embedding).')
  embedding_ND = np.asarray(params['pos_embedding'][0], np.float32)
  embedding_ND = embedding_ND[int('cls' in params) :]
  grid = source.grid
  similarity_hwhw = positions.position_similarity(embedding_ND, grid)
  caption = (
    f'One panel per patch, in its place in the {grid[0]} x {grid[1]} grid: cosine '
    'similarity of its position embedding with all others, from -1 (dark blue) to 1 '
    '(yellow). A model that found the grid shows a bright spot, row and column that '
    'move with the panel.'
  )
  picture = positions.similarity_picture(similarity_hwhw)
  return page.picture(picture, 'position similarity'), caption


def attention_rollout(source: Source) -> tuple[str, str]:
  """Where the output reads the image."""
  attended, found = source.attention, source.predictions
  cards = []
  for row, rollout_P in zip(attended.rows, attended.rollout_BP, strict=True):
    map_hw = rollout_P.reshape(source.grid)
    image_HWC = images.fit(visible(found.image_BHWC[row]), THUMBNAIL)
    coloured_hwC = images.colormap(map_hw, map_hw.min(), map_hw.max())
    stack = [
      page.picture(image_HWC, 'input'),
      page.picture(images.highlight(image_HWC, map_hw), 'input lit by attention'),
      page.picture(images.fit(coloured_hwC, THUMBNAIL), 'attention'),
    ]
    name = found.names[found.label_B[row]]
    cards.append(page.card(''.join(stack), name, page.text_line(name)))
  caption = (
    'Top: the input. Middle: the input lit where the output (the class token, or else '
    'the mean of all tokens) draws from through all layers, the least used patch '
    'black. Bottom: the same weights alone, least dark blue, most yellow.'
  )
  return page.cards(cards), caption


def attention_distances(source: Source) -> tuple[str, str]:
  """How far each head looks, by depth."""
  distance_LH = source.attention.distance_LH
  layers, heads = distance_LH.shape
  has_class_token, grid = 'cls' in source.params, source.grid
  tokens = grid[0] * grid[1] + has_class_token
  uniform = attention.attention_distance(
    np.full((1, 1, 1, tokens, tokens), 1 / tokens),
    grid,
    source.patch_kernel.shape[:2],
    has_class_token,
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
  count = min(NUM_FOR_DISTANCE, len(source.predictions.image_BHWC))
  caption = (
    f'A dot is a head: the mean distance between a patch and what it attends to, over '
    f'{count} images. Low heads look nearby, as a convolution does.'
  )
  return svg, caption


def visible(image_HWC: np.ndarray) -> np.ndarray:
  """An input, uint8 or float in [-1, 1], as RGB uint8; UserError if it is no image."""
  if np.issubdtype(image_HWC.dtype, np.floating):
    image_HWC = 0.5 * (image_HWC + 1.0)
  try:
    return images.to_rgb(image_HWC)
  except ValueError as error:
    raise UserError(f'{error}.') from error


def thumbnail(image_HWC: np.ndarray) -> str:
  """An input image at the size of a card."""
  return page.picture(images.fit(visible(image_HWC), THUMBNAIL), 'example')


SECTIONS = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Predictions', predicted, 'below'),
  Section('Patch filters', patch_filters, 'beside'),
  Section('Position embeddings', position_embeddings, 'beside'),
  Section('Attention rollout', attention_rollout, 'below'),
  Section('Attention distance', attention_distances, 'beside'),
)
