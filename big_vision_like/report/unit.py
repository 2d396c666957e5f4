"""Sections of a report on UniT: its tasks, and what their queries attend to.

Axes: H W image, C channels, h w cells of the image, B = 1 example, Q queries, M tokens
of the memory: cells, then words.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.data.transforms import attributes, compose
from big_vision_like.errors import UserError
from big_vision_like.models import unit
from big_vision_like.report import page
from big_vision_like.report.source import Section
from big_vision_like.viz import attention

NUM_QUERIES = 3
SIDE = 160  # pixels of a picture, about


def of_tasks(source: Any) -> tuple[str, str]:
  """Lists the tasks with their inputs, queries and own parameters."""
  task, params = source.restored.task, source.restored.state.params
  rows = []
  for name, part in task.tasks.items():
    model = part.model
    reads = ('image',) if model.backbone is not None else ()
    reads += ('text',) if model.text is not None else ()
    own = sum(x.size for x in jax.tree.leaves(params.get(name, {})))
    token = '' if model.task is None else str(model.task)
    numbers = f'{model.num_queries:,}', f'{model.num_classes:,}', f'{own:,}'
    rows.append([name, ' and '.join(reads), *numbers, token])
  header = ['task', 'reads', 'queries', 'classes', 'own parameters', 'task token']
  shared = sum(x.size for x in jax.tree.leaves(params['shared']))
  return page.table(header, rows), (
    f'Each task has its own queries and head. {shared:,} parameters are shared.'
  )


def attended(source: Any) -> tuple[str, str]:
  """Shows what queries of each task attend to in the first example of its data."""
  content = ''
  for key, node in source.log.config.get('evals', {}).items():
    name = str(node.get('predict', '')).partition('.')[0]
    if name in source.restored.task.tasks:
      content += page.heading(name)
      try:
        content += _of_task(source, name, specs.build(node, f'config.evals.{key}').data)
      except UserError as reason:
        content += page.paragraph(str(reason), 'absent')
  if not content:
    raise UserError('no evaluator of the config belongs to a task.')
  return content, (
    'Cross-attention of the last layer of the decoder, averaged over heads: the query '
    'of an answer, or those of the surest objects. Images are brighter where '
    'a query attends; numbers are the weights of words.'
  )


def _of_task(source: Any, name: str, data: Any) -> str:
  """Returns the attention of a task for the first example of its data, as HTML."""
  run = source.restored
  part = run.task.tasks[name]
  record = data.source[0]
  example = compose.applied(data.transforms, record, np.random.default_rng(0))
  batch = {key: np.asarray(x)[None] for key, x in example.items()}
  state = run.task.state_of(name, run.state)
  outputs, sown = jax.jit(
    lambda variables, inputs: part.model.apply(
      variables, *inputs, mutable=['intermediates']
    )
  )(state.variables, part.model_inputs(batch))
  layers = attention.stack_attention(
    sown['intermediates'], 'decoder', 'cross_attention'
  )
  weights_QM = layers[-1].mean(axis=1)[0]
  words = _words(data.transforms, record, example, part.model)
  queries, titles = [0], ['the query of the answer']
  if part.model.text is None:
    probs_QC = np.asarray(jax.nn.softmax(outputs['logits'][0]))[:, :-1]
    queries = np.argsort(-probs_QC.max(-1), kind='stable')[:NUM_QUERIES].tolist()
    titles = [f'query {q}, class {probs_QC[q].argmax()}' for q in queries]
  cards = []
  for query, title in zip(queries, titles, strict=True):
    cells = weights_QM.shape[1] - len(words)
    picture = ''
    if part.model.backbone is not None:
      lit_HWC = lit(batch['image'][0], weights_QM[query, :cells])
      picture = page.picture(lit_HWC, f'attention of {title}')
    own = weights_QM[query, cells:]
    lines = [page.text_line(title)] + [
      page.text_line(f'{word}: {100 * weight:.1f} %')
      for word, weight in zip(words, own, strict=True)
    ]
    cards.append(page.card(picture, title, ''.join(lines)))
  return page.cards(cards)


def _words(
  transforms: Sequence[Any], record: Any, example: Any, model: unit.UniT
) -> list[str]:
  """Returns the word pieces that the decoder attends to, with padding."""
  if model.text is None:
    return []
  found = [x for x in transforms if isinstance(x, attributes.TextPair)]
  ids = np.asarray(example['tokens']).tolist()
  pieces = found[0].vocabulary.pieces(ids) if found else [*map(str, ids)]
  return pieces[:1] if model.first_token_only else pieces


def lit(image_HWC: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
  """Returns an image (uint8) that is brighter where the weights of cells are larger."""
  height, width = image_HWC.shape[:2]
  stride = round(math.sqrt(height * width / len(weight_N)))
  grid = -(-height // stride), -(-width // stride)
  if math.prod(grid) != len(weight_N):
    raise UserError(f'{len(weight_N)} cells do not fit an image of {height}x{width}')
  map_hw = weight_N.reshape(grid) / weight_N.max()
  map_HW = map_hw.repeat(stride, 0).repeat(stride, 1)[:height, :width]
  lit_HWC = image_HWC[..., :3] * (0.2 + 0.8 * map_HW[..., None])
  factor = max(SIDE // max(height, width), 1)
  return lit_HWC.astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


OF_MODELS = {
  unit.UniT: (
    Section('Tasks', of_tasks, 'below'),
    Section('What queries attend to', attended, 'below'),
  )
}
