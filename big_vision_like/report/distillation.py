"""What a report shows of a student and its teacher, and of a student's two heads.

Axes: B examples, C classes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.evals.evaluator import MeanEvaluator
from big_vision_like.inference import loading
from big_vision_like.report import page
from big_vision_like.report.source import Source, percent
from big_vision_like.tasks import distillation

NUM_DIFFERING = 16
MOST_CLASSES = 20  # of which the table has a row
# The outputs of a student that predict classes, and what they are called.
HEADS = {
  'logits': 'student',
  'class_logits': 'class head alone',
  'distilled_logits': 'distillation head alone',
}


@dataclasses.dataclass(frozen=True)
class Answers:
  """The probabilities of classes (B, C) by who gives them: `teacher`, and `HEADS`."""

  label_B: np.ndarray
  probability_BC: dict[str, np.ndarray]

  def answer(self, name: str) -> np.ndarray:
    """Returns the most probable classes, (B,)."""
    return self.probability_BC[name].argmax(axis=-1)

  def accuracy(self, name: str, rows: np.ndarray | slice = slice(None)) -> float:
    """Returns the share of these examples whose most probable class is the true one."""
    return float((self.answer(name) == self.label_B)[rows].mean())

  def agreement(self, name: str, rows: np.ndarray | slice = slice(None)) -> float:
    """Returns the share of examples that are of one class to a head and the teacher."""
    return float((self.answer(name) == self.answer('teacher'))[rows].mean())


def distils(source: Source) -> bool:
  """Returns whether a run has a student and a teacher."""
  task = specs.symbol(source.log.config['task'], 'config.task')
  return isinstance(task, type) and issubclass(task, distillation.Distillation)


def answers(source: Source) -> Answers:
  """Runs the student and its teacher on examples of an evaluator's data."""
  _, made = source.spread_of(MeanEvaluator, 'predicts labels')
  run = source.restored
  task, teacher = run.task, run.task.networks()[distillation.TEACHER]
  frozen = loading.frozen(run, made.data.abstract())

  def predict(state: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
    inputs, variables = teacher.inputs(batch), teacher.variables(state)
    theirs = teacher.module.apply(variables, *inputs)
    return task.predict(state, batch, key) | {'teacher': theirs['logits']}

  def measure(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    found = {name: outputs[name] for name in ('teacher', *HEADS) if name in outputs}
    return {'label': batch['label']} | {
      name: jax.nn.softmax(logits_BC.astype(jnp.float32))
      for name, logits_BC in found.items()
    }

  state, limit = run.state.replace(frozen=frozen), source.num_examples
  values = made.joined(measure, predict, state, limit=limit).values
  return Answers(values.pop('label'), values)


def compared(
  found: Answers,
  names: Sequence[str],
  id_B: np.ndarray,
  pictures: Sequence[Callable[[], str]],
  evaluator: str,
) -> tuple[str, str]:
  """Shows how often both agree, by head and class, and examples where they do not.

  `names` are those of the classes; `pictures` make the thumbnails of the examples.
  """
  rows = [
    [
      HEADS.get(name, name),
      percent(found.accuracy(name)),
      percent(found.agreement(name)),
    ]
    for name in (*HEADS, 'teacher')
    if name in found.probability_BC
  ]
  content = page.table(['', 'accuracy', 'agreement with the teacher'], rows)
  content += page.heading('By class') + by_class(found, names)
  differ = np.nonzero(found.answer('logits') != found.answer('teacher'))[0]
  count = len(found.label_B)
  content += page.heading(f'Where they differ: {len(differ):,} of {count:,} examples')
  certain_B = found.probability_BC['logits'].max(axis=-1)
  differ = differ[np.argsort(-certain_B[differ], kind='stable')][:NUM_DIFFERING]
  cards = []
  for row in differ:
    lines = page.text_line(f'true: {names[found.label_B[row]]}')
    lines += ''.join(opinion(found, who, row, names) for who in ('logits', 'teacher'))
    cards.append(page.card(pictures[row](), f'example {id_B[row]}', lines))
  content += page.cards(cards) if cards else page.paragraph('Nowhere.')
  caption = (
    f'{count:,} examples of {evaluator}. The student answers with the mean of'
    ' its heads if it has two. Below each image its true class, then what the student'
    ' and the teacher take it for, with probabilities, the most certain student first;'
    ' the true class is green.'
  )
  return content, caption


def by_class(found: Answers, names: Sequence[str]) -> str:
  """Tabulates the classes on which student and teacher agree least."""
  classes = np.unique(found.label_B)
  rows_of = {int(label): found.label_B == label for label in classes}
  order = sorted(rows_of, key=lambda label: found.agreement('logits', rows_of[label]))
  shown = order if len(order) <= MOST_CLASSES else order[:MOST_CLASSES]
  table = page.table(
    ['class', 'examples', 'student', 'teacher', 'agreement'],
    [
      [
        names[label],
        f'{rows_of[label].sum():,}',
        percent(found.accuracy('logits', rows_of[label])),
        percent(found.accuracy('teacher', rows_of[label])),
        percent(found.agreement('logits', rows_of[label])),
      ]
      for label in shown
    ],
  )
  if len(shown) < len(order):
    table += page.paragraph(f'The least of {len(order):,} classes.')
  return table


def opinion(found: Answers, name: str, row: int, names: Sequence[str]) -> str:
  """Names the class that somebody takes an example for, and its probability."""
  label = int(found.answer(name)[row])
  who = HEADS.get(name, name)
  share = float(found.probability_BC[name][row, label])
  return page.bar(f'{who}: {names[label]}', share, label == found.label_B[row])
