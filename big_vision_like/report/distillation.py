"""Sections of a report on a student and its teacher, and on the student's two heads.

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
MOST_CLASSES = 20  # classes with a row in the table
# The outputs of a student that predict classes, with their titles.
HEADS = {
  'logits': 'student',
  'class_logits': 'class head alone',
  'distilled_logits': 'distillation head alone',
}


@dataclasses.dataclass(frozen=True)
class Answers:
  """True labels, and class probabilities (B, C) by source: `teacher`, and `HEADS`."""

  label_B: np.ndarray
  probability_BC: dict[str, np.ndarray]

  def answer(self, name: str) -> np.ndarray:
    """Returns the most probable classes, (B,)."""
    return self.probability_BC[name].argmax(axis=-1)

  def accuracy(self, name: str, rows: np.ndarray | slice = slice(None)) -> float:
    """Returns the top-1 accuracy of a head or the teacher on these examples."""
    return float((self.answer(name) == self.label_B)[rows].mean())

  def agreement(self, name: str, rows: np.ndarray | slice = slice(None)) -> float:
    """Returns the share of examples on which a head and the teacher agree."""
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
  """Shows how often student and teacher agree, and examples where they differ.

  `names` are the names of the classes; `pictures` make the thumbnails of the examples.
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
  content += page.cards(cards) if cards else page.paragraph('There are none.')
  caption = (
    f'{count:,} examples of {evaluator}. A student with two heads predicts '
    'the mean of both. Below each image are its true class and the predictions of '
    'student and teacher with probabilities; green marks the true class. Examples on '
    'which the student is most certain come first.'
  )
  return content, caption


def by_class(found: Answers, names: Sequence[str]) -> str:
  """Returns a table of the classes on which student and teacher agree least."""
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
    table += page.paragraph(
      f'The classes with the least agreement, out of {len(order):,}.'
    )
  return table


def opinion(found: Answers, name: str, row: int, names: Sequence[str]) -> str:
  """Returns a bar with the predicted class of an example and its probability."""
  label = int(found.answer(name)[row])
  who = HEADS.get(name, name)
  share = float(found.probability_BC[name][row, label])
  return page.bar(f'{who}: {names[label]}', share, label == found.label_B[row])
