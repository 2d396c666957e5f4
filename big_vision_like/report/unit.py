"""Sections of a report on UniT: its tasks, and what their queries attend to.

Axes: H W image, C channels or classes, h w cells of the image, N = h * w, B = 1
example, Q queries, M tokens of the memory: cells, then words.
"""

import math
from collections.abc import Mapping, Sequence
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

NUM_EXAMPLES, NUM_QUERIES, NUM_ANSWERS = 2, 2, 3
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
  """Shows predictions of each task, and what the queries attend to."""
  content = ''
  for key, node in source.log.config.get('evals', {}).items():
    name = str(node.get('predict', '')).partition('.')[0]
    if name in source.restored.task.tasks:
      content += page.heading(name)
      try:
        content += _of_task(source, name, specs.build(node, f'config.evals.{key}'))
      except UserError as reason:
        content += page.paragraph(str(reason), 'absent')
  if not content:
    raise UserError('no evaluator of the config belongs to a task.')
  return content, (
    'The first examples of each task. Images are brighter where the last layer of the '
    'decoder attends, averaged over heads: the query of an answer, or those of the '
    'surest objects.'
  )


def _of_task(source: Any, name: str, evaluator: Any) -> str:
  """Returns the first examples of a task, as HTML."""
  run, data = source.restored, evaluator.data
  part = run.task.tasks[name]
  state = run.task.state_of(name, run.state)
  apply = jax.jit(
    lambda variables, inputs: part.model.apply(
      variables, *inputs, mutable=['intermediates']
    )
  )
  kind = 'box_labels' if part.model.text is None else 'label'
  names = dict(enumerate(getattr(evaluator, 'names', None) or ())) or next(
    (x.names.get(kind, {}) for k, x in source.known.items() if _named(k) == name), {}
  )
  cards, rows = [], []
  for index in range(min(NUM_EXAMPLES, len(data.source))):
    record = data.source[index]
    example = compose.applied(data.transforms, record, np.random.default_rng(0))
    batch = {key: np.asarray(x)[None] for key, x in example.items()}
    outputs, sown = apply(state.variables, part.model_inputs(batch))
    layers = attention.stack_attention(
      sown['intermediates'], 'decoder', 'cross_attention'
    )
    weight_QM = layers[-1].mean(axis=1)[0]
    prob_QC = np.asarray(jax.nn.softmax(outputs['logits'][0]))  # (C,) of an answer
    if part.model.text is None:
      cards += _of_objects(example['image'], prob_QC[:, :-1], weight_QM, names)
      continue
    words = _words(data.transforms, example)
    whole = not part.model.first_token_only
    row, lit_HWC = _of_answer(example, prob_QC, weight_QM[0], words, whole, names)
    rows.append(row)
    if lit_HWC is not None:
      picture = page.picture(lit_HWC, f'attention for {row[0]!r}')
      cards.append(page.card(picture, row[0], page.text_line(row[0])))
  content = page.cards(cards) if cards else ''
  if rows:
    content += page.table(['text', 'answers', 'right answer', 'attention'], rows)
  return content


def _named(key: str) -> str:
  """Returns the task of an input, from the name of the input in the config."""
  return key.rpartition('.')[-1]


def _of_objects(
  image_HWC: np.ndarray,
  prob_QC: np.ndarray,
  weight_QN: np.ndarray,
  names: Mapping[int, str],
) -> list[str]:
  """Returns a card for each of the surest objects of an image."""
  cards = []
  for q in np.argsort(-prob_QC.max(-1), kind='stable')[:NUM_QUERIES].tolist():
    label = int(prob_QC[q].argmax())
    name = f'{names.get(label, f"class {label}")}, {100 * prob_QC[q, label]:.0f} %'
    picture = page.picture(lit(image_HWC, weight_QN[q]), f'attention for {name}')
    cards.append(page.card(picture, f'query {q}', page.text_line(name)))
  return cards


def _of_answer(
  example: Mapping[str, Any],
  prob_C: np.ndarray,
  weight_M: np.ndarray,
  words: Sequence[str],
  whole: bool,
  names: Mapping[int, str],
) -> tuple[list[str], np.ndarray | None]:
  """Returns a row about the answer to a text, and the image lit by attention, if any.

  `whole` tells whether the memory has all words, with padding, or only the first.
  """
  count = len(words) if whole else 1
  cells = len(weight_M) - count
  valid = [
    word for word, there in zip(words, example['token_mask'], strict=True) if there
  ]
  text = ' '.join(valid).replace('[CLS] ', '').replace('[SEP]', '|').rstrip('| ')
  best = np.argsort(-prob_C, kind='stable')[:NUM_ANSWERS].tolist()
  answers = [f'{names.get(x, f"class {x}")} {100 * prob_C[x]:.0f} %' for x in best]
  true = int(example['label']) if 'label' in example else -1
  right = names.get(true, f'class {true}') if true >= 0 else ''
  shares = [*zip(valid[:count], weight_M[cells:], strict=False)]
  if cells:
    shares = [('the image', weight_M[:cells].sum()), *shares]
  attended = ', '.join(f'{word} {100 * share:.0f} %' for word, share in shares)
  picture_HWC = lit(example['image'], weight_M[:cells]) if cells else None
  return [text, ', '.join(answers), right, attended], picture_HWC


def _words(transforms: Sequence[Any], example: Mapping[str, Any]) -> list[str]:
  """Returns the word pieces of an example, with padding."""
  ids = np.asarray(example['tokens']).tolist()
  found = [x for x in transforms if isinstance(x, attributes.TextPair)]
  return found[0].vocabulary.pieces(ids) if found else [*map(str, ids)]


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
