"""Sections of a report on engines of algorithms: pointers and masks, step by step.

Axes: B examples, T steps, L slots.
"""

from typing import Any

import numpy as np

from big_vision_like.evals import algorithms
from big_vision_like.models import neural_execution
from big_vision_like.report import page
from big_vision_like.report.source import Section
from big_vision_like.viz import pointers

NUM_LISTS = 3
MOST = 128  # numbers of a list whose bars are drawn
KINDS = algorithms.Sorting, algorithms.ShortestPaths, algorithms.SpanningTrees
TRACE = ('pointer', 'hidden', 'mask_logits', 'number')
# Fields of a trace with the numbers that are compared in each step.
LISTS = ('numbers', 'value')


def traced(source: Any) -> tuple[str, dict[str, np.ndarray]]:
  """Returns the name of an evaluator of a program, and its trace of a few examples."""
  name, made = source.spread_of(KINDS, 'runs a program')

  def measure(outputs: Any, batch: Any) -> dict[str, Any]:
    del batch
    return {k: outputs[k] for k in (*TRACE, *LISTS) if k in outputs}

  return name, source.joined(made, measure).values


def executed(source: Any) -> tuple[str, str]:
  """Shows the pointer and the mask of each step, and sorts as animations."""
  name, trace = traced(source)
  content = ''
  for row in range(min(NUM_LISTS, len(trace['number']))):
    own = {k: x[row] for k, x in trace.items()}
    hidden_TL, found_T = own['hidden'].astype(bool), own['number']
    matrix = page.figure(
      page.picture(pointers.matrix(own['pointer'], hidden_TL), 'pointers by step'),
      'pointers: a row for each step, a column for each number',
    )
    masks = page.figure(
      page.picture(pointers.matrix(own['mask_logits'] > 0, hidden_TL), 'masks by step'),
      'masks found for the next step; bright slots are hidden, grey ones were before',
    )
    parts = [matrix, masks]
    if 'numbers' in own and len(own['numbers']) <= MOST:
      pointer_T = own['pointer'].argmax(axis=-1)
      # The end token would dwarf all other bars.
      numbers_L = np.where(own['numbers'] > 255, 0, own['numbers'])
      found_T = np.where(found_T > 255, 0, found_T)
      drawn = pointers.frames(numbers_L, hidden_TL, pointer_T, found_T)
      played = page.animation(drawn, 'the steps, played')
      parts.append(page.figure(played, 'above: the list; below: what was found'))
    title = f'Example {row + 1}'
    content += page.heading(title) + page.arranged(parts, 'beside')
    content += page.paragraph(f'found: {", ".join(map(str, own["number"].tolist()))}')
  return content, (
    f'Examples of {name}, executed freely: each mask follows from the pointers before.'
    ' Numbers that are hidden are grey, the one pointed to is orange. The last column'
    ' is the end token.'
  )


def _has_program(source: Any) -> bool:
  """Returns whether the config evaluates a program, and not only single steps."""
  nodes = source.log.config.get('evals', {}).values()
  names = {kind.__name__ for kind in KINDS}
  return any(str(node['_fn']).rpartition(':')[2] in names for node in nodes)


OF_MODELS = {
  neural_execution.Engine: (
    Section('Pointers and masks, step by step', executed, 'below', _has_program),
  )
}
