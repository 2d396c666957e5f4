"""Sections of a report on pairs of texts and images, and what words and regions see.

Axes: N examples, H heads, T tokens, R regions; 2 is aligned or not.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator
from big_vision_like.evals import pretraining as evals
from big_vision_like.models import vilbert
from big_vision_like.report import answering, page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly, percent
from big_vision_like.viz import token_attention

NUM_WRONG = NUM_RIGHT = 8
NUM_PAIRS = 3


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run that is pretrained on pairs of texts and images."""

  predicts = 'pairs'

  @property
  def sections(self) -> Sequence[Section]:
    return (Section('Pairs', told_apart, 'below'),)


def vocabulary_of(source: report_source.Source) -> Any:
  """Returns the first vocabulary in the config of a run; None if there is none."""
  for path, node in specs.calls(source.log.config):
    if hasattr(specs.symbol(node, path), 'pieces'):
      return specs.build(node, path)
  return None


def pieces_of(source: report_source.Source, tokens_T: np.ndarray) -> list[str]:
  """Returns the pieces of ids, or the ids as text without a vocabulary."""
  vocabulary = vocabulary_of(source)
  ids = tokens_T.tolist()
  return list(map(str, ids)) if vocabulary is None else vocabulary.pieces(ids)


def told_apart(source: Source) -> tuple[str, str]:
  """Shows pairs that were told right and wrong, with the probability of aligned."""
  name, made = source.evaluator_of(evals.Alignment, 'tells pairs apart')

  def measured(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    return {
      'share': jax.nn.softmax(outputs['logits'])[:, 0],
      **{key: batch[key] for key in ('tokens', 'token_mask', 'aligned')},
    }

  found = source.joined(made, measured).values
  right_N = (found['share'] >= 0.5) == found['aligned'].astype(bool)
  content = page.paragraph(
    f'{percent(right_N.mean())} of the first {len(right_N):,} pairs of {name} are told'
    ' right.'
  )
  for heading, rows, most in (
    ('Wrong', np.flatnonzero(~right_N), NUM_WRONG),
    ('Right', np.flatnonzero(right_N), NUM_RIGHT),
  ):
    content += page.heading(heading)
    if not len(rows):
      content += page.paragraph('There are none.')
      continue
    cells = []
    for row in rows[evenly(len(rows), most)].tolist():
      seen_T = found['token_mask'][row].astype(bool)
      words = ' '.join(pieces_of(source, found['tokens'][row][seen_T]))
      truth = 'aligned' if found['aligned'][row] else 'not aligned'
      cells.append([str(row), words, truth, percent(float(found['share'][row]))])
    content += page.table(['example', 'text', 'truth', 'probability of aligned'], cells)
  return content, (
    'Half of the texts do not belong to their image. A pair counts as aligned if the '
    'model gives this at least 50\u00a0%.'
  )


def coattention(source: report_source.Source) -> tuple[str, str]:
  """Shows which regions words attend to, and which words regions attend to."""
  network = source.restored.network
  _, made = source.spread_of(evaluator.Evaluator, 'has pairs')
  batch = next(iter(made.data.epoch()))
  if 'regions' not in batch or not len(network.module.text_places):
    raise UserError('the data of its first evaluator have no pairs that meet.')
  batch = {name: x[:NUM_PAIRS] for name, x in batch.items()}
  inputs = network.inputs(batch)

  @jax.jit
  def collected(variables: Any, inputs: Any) -> Any:
    _, found = network.module.apply(variables, *inputs, mutable=['intermediates'])
    return found['intermediates']

  sown = jax.device_get(collected(jax.device_put(source.restored.variables), inputs))
  tokens, _, seen, _, locations, seen_regions = map(np.asarray, inputs[:6])
  content = ''
  for row in range(min(NUM_PAIRS, len(tokens))):
    words = pieces_of(source, tokens[row][seen[row].astype(bool)])
    if network.module.num_tasks:
      words.insert(1, '(task)')
    count = int(seen_regions[row].sum())
    regions = ['image', *(f'region {i}' for i in range(1, count))]
    arrays = {'region_mask': seen_regions.astype(bool), 'locations': locations}
    content += page.heading(' '.join(words))
    content += page.picture(answering.sketch(arrays, row), 'boxes of regions')
    content += drawn(sown, row, words, regions, len(network.module.text_places))
  return content, (
    'Each line is one weight of one head in a connection between the streams: words on '
    'the left read regions, then regions on the left read words; larger weights are '
    'more opaque. Point at a word or a region to see only its lines. "image" is the '
    'global region.'
  )


def drawn(
  sown: Mapping[str, Any],
  row: int,
  words: Sequence[str],
  regions: Sequence[str],
  connections: int,
) -> str:
  """Draws the attention of an example in both directions, the last connection first."""
  content = ''
  for number in reversed(range(connections)):
    parts = sown[f'connection_{number}']
    to_regions_HTR = probabilities(parts, 'text', row, len(words), len(regions))
    to_words_HRT = probabilities(parts, 'image', row, len(regions), len(words))
    both = page.arranged(
      [
        page.paragraph('Words read regions')
        + token_attention.lines(to_regions_HTR, words, regions),
        page.paragraph('Regions read words')
        + token_attention.lines(to_words_HRT, regions, words),
      ],
      'beside',
    )
    title = f'Connection {number + 1}'
    if number == connections - 1:
      content += page.paragraph(f'{title}, the last one') + both
    else:
      content += page.details(title, both)
  return content


def probabilities(
  parts: Mapping[str, Any], stream: str, row: int, queries: int, keys: int
) -> np.ndarray:
  """Returns the attention sown for a stream of a connection, without padding."""
  probs = np.asarray(parts[stream]['cross_attention']['probs'][-1], np.float32)
  return probs[row, :, :queries, :keys]


OF_MODELS = {vilbert.ViLBERT: (Section('Words and regions', coattention, 'below'),)}
