"""Sections of a report on relations: sentences with their entities and relations.

Axes: N sentences.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from big_vision_like import spec as specs
from big_vision_like.data.transforms import entities
from big_vision_like.errors import UserError
from big_vision_like.evals import relations as evals
from big_vision_like.report import page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly, percent

NUM_INPUTS, NUM_WRONG, NUM_RIGHT = 8, 12, 6
GOLD = ('spans', 'kinds', 'entity_mask', 'relations')
FOUND = ('spans', 'kinds', 'entity_mask', 'labels')

Entity = tuple[int, int, str]
# Two entities as texts, with the name of their relation between them.
Triple = tuple[str, str, str]


class Annotated(NamedTuple):
  """The entities and the relations of a sentence."""

  entities: Sequence[Entity]
  triples: Sequence[Triple]


class Source(report_source.Source):
  """A report on a run of `tasks.relations.Relations`."""

  predicts = 'relations'

  @property
  def tag(self) -> entities.Tag:
    """The transform of the config that makes arrays of sentences."""
    for path, node in specs.calls(self.log.config):
      if specs.symbol(node, path) is entities.Tag:
        return specs.build(node, path)
    raise UserError('the config has no transform entities.Tag.')

  def words(self, tokens_T: np.ndarray, first_W: np.ndarray, count: int) -> list[str]:
    """Returns the words of a sentence, joined from their pieces."""
    vocabulary = self.tag.vocabulary
    end = int(np.flatnonzero(tokens_T == vocabulary.sep_id)[0])
    starts = [*first_W[:count].tolist(), end]
    pieces = vocabulary.pieces(tokens_T.tolist())
    return [
      ''.join(piece.removeprefix('##') for piece in pieces[start:stop])
      for start, stop in zip(starts[:-1], starts[1:], strict=True)
    ]

  def annotated(
    self, words: Sequence[str], arrays: Mapping[str, np.ndarray], names: Sequence[str]
  ) -> Annotated:
    """Returns entities and relations in arrays, whose names are those of `GOLD`."""
    spans, kinds, there, labels = (np.asarray(arrays[name]) for name in names)
    count, tag = int(there.sum()), self.tag
    found = [
      (*span, tag.kinds[kind])
      for span, kind in zip(spans[:count].tolist(), kinds[:count].tolist(), strict=True)
    ]

    def text(number: int) -> str:
      first, last, _ = found[number]
      return ' '.join(words[first : last + 1])

    triples = [
      (text(one), tag.relations[labels[one, other] - 1], text(other))
      for one, other in np.argwhere(labels[:count, :count] > 0).tolist()
    ]
    return Annotated(found, triples)


def marked(words: Sequence[str], found: Sequence[Entity]) -> str:
  """Returns a sentence as HTML with marked entities and their kinds."""
  text = [html.escape(word) for word in words]
  for first, last, kind in found:
    text[first] = f'<mark>{text[first]}'
    text[last] = f'{text[last]}</mark><sub>{html.escape(kind)}</sub>'
  return f'<p>{" ".join(text)}</p>'


def listed(triples: Sequence[Triple]) -> str:
  """Returns relations as lines of text."""
  if not triples:
    return page.paragraph('no relation')
  return page.preformatted('\n'.join(' - '.join(triple) for triple in triples))


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training sentences."""
  _, batch = source.training_batch(NUM_INPUTS)
  content = ''
  for row in range(len(batch['tokens'])):
    arrays = {name: np.asarray(x[row]) for name, x in batch.items()}
    words = _words(source, arrays)
    true = source.annotated(words, arrays, GOLD)
    content += marked(words, true.entities) + listed(true.triples)
  return content, 'Training sentences with their entities and relations.'


def predicted(source: Source) -> tuple[str, str]:
  """Shows wrongly and rightly read sentences of the evaluator."""
  name, made = source.evaluator_of(evals.Relations, 'finds relations')

  def measure(outputs: Any, batch: Any) -> dict[str, Any]:
    arrays = {f'found_{key}': outputs[key] for key in FOUND}
    return arrays | {key: batch[key] for key in (*GOLD, 'tokens', 'first', 'word_mask')}

  values = source.joined(made, measure).values
  cases = []
  for row in range(len(values['tokens'])):
    arrays = {key: x[row] for key, x in values.items()}
    words = _words(source, arrays)
    true = source.annotated(words, arrays, GOLD)
    found = source.annotated(words, arrays, [f'found_{key}' for key in FOUND])
    cases.append((words, true, found))
  right_N = np.array([same(true, found) for _, true, found in cases])
  content = page.paragraph(
    f'{right_N.sum():,} of the first {len(right_N):,} sentences of {name} are read'
    f' without a mistake ({percent(right_N.mean())}).'
  )
  for heading, rows, most in (
    ('Wrong', np.flatnonzero(~right_N), NUM_WRONG),
    ('Right', np.flatnonzero(right_N), NUM_RIGHT),
  ):
    content += page.heading(heading)
    if not len(rows):
      content += page.paragraph('There are none.')
    for row in rows[evenly(len(rows), most)].tolist():
      content += _case(*cases[row])
  return content, (
    'Entities as the model marks them. Below: relations found, with those that are '
    'wrong and those that are missing.'
  )


def same(true: Annotated, found: Annotated) -> bool:
  """Returns whether all entities and relations are found, and no other ones."""
  return {*true.entities} == {*found.entities} and sorted(true.triples) == sorted(
    found.triples
  )


def _words(source: Source, arrays: Mapping[str, np.ndarray]) -> list[str]:
  count = int(arrays['word_mask'].sum())
  return source.words(arrays['tokens'], arrays['first'], count)


def _case(words: Sequence[str], true: Annotated, found: Annotated) -> str:
  content = marked(words, found.entities)
  if {*true.entities} != {*found.entities}:
    content += page.paragraph('True entities:') + marked(words, true.entities)
  rows = [
    [*triple, '' if triple in true.triples else 'wrong'] for triple in found.triples
  ]
  rows += [
    [*triple, 'missing'] for triple in true.triples if triple not in found.triples
  ]
  if not rows:
    return content + page.paragraph('no relation')
  return content + page.table(['subject', 'relation', 'object', ''], rows)


Source.sections = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Entities and relations', predicted, 'below'),
)
