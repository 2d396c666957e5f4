"""What a report shows of a run from sequences to sequences: pairs and attention.

Axes: L layers, B examples, H heads, S source, T target tokens, N tokens found.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import spec as specs
from big_vision_like.errors import UserError, shape_text
from big_vision_like.evals import sequences, translation
from big_vision_like.report import page
from big_vision_like.report import source as report_source
from big_vision_like.report.source import Section, evenly
from big_vision_like.run import learned
from big_vision_like.tasks import seq2seq
from big_vision_like.viz import attention, token_attention

NUM_INPUTS, NUM_RIGHT, NUM_WRONG, NUM_ATTENDING = 12, 8, 16, 2
FINDS = (sequences.ExactMatch, translation.Bleu)  # evaluators of ids that are found
SEARCHES = {'greedy': 'greedy search', 'translate': 'beam search'}
EASY_LENGTH = 14  # tokens of a source whose attention is a legible picture


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Evaluation examples with what the model makes of them: ids, EOS last.

  `output` is the prediction that found them, 'greedy' or 'translate'.
  """

  evaluator: str
  output: str
  sources: Sequence[np.ndarray]
  targets: Sequence[np.ndarray]
  found: Sequence[np.ndarray]

  @property
  def right(self) -> np.ndarray:
    """Which are found without a mistake."""
    pairs = zip(self.targets, self.found, strict=True)
    return np.array([np.array_equal(target, found) for target, found in pairs])


@dataclasses.dataclass(frozen=True)
class Attention:
  """How some predicted examples (`rows`) are read, padded to the longest of them."""

  rows: Sequence[int]
  encoder_LBHSS: np.ndarray
  cross_LBHNS: np.ndarray


@dataclasses.dataclass
class Source(report_source.Source):
  """A run whose batches hold `source` and `target`, ids padded with zeros."""

  predicts = 'sequences'

  @functools.cached_property
  def vocabulary(self) -> Any:
    """The first thing in the config that knows what ids stand for, or None."""
    for path, node in specs.calls(self.log.config):
      if hasattr(specs.symbol(node, path), 'pieces'):
        vocabulary = specs.build(node, path)
        if self.run is not None:
          learned.check_tokenizer(self.run.workdir, vocabulary)
        return vocabulary
    return None

  @property
  def eos_id(self) -> int:
    """The token that ends a sequence."""
    return self.log.config['task'].get('eos_id', seq2seq.Seq2Seq.eos_id)

  def tokens(self, ids: np.ndarray) -> list[str]:
    """What ids stand for; without a vocabulary numbers."""
    if self.vocabulary is not None:
      return self.vocabulary.pieces(ids.tolist())
    return ['</s>' if i == self.eos_id else str(i) for i in ids.tolist()]

  def text(self, ids: np.ndarray) -> str:
    """Tokens as a reader would rather have them, and whether they go on without end."""
    ended = len(ids) > 0 and ids[-1] == self.eos_id
    tokens = self.tokens(ids[:-1] if ended else ids)
    if self.vocabulary is None:
      text = ' '.join(tokens)
    else:
      text = ''.join(tokens).replace('▁', ' ').strip()
    return text if ended else f'{text} (no end)'

  @functools.cached_property
  def predictions(self) -> Predictions:
    return predict(self)

  @functools.cached_property
  def attention(self) -> Attention:
    return attend(self)


def predict(source: Source) -> Predictions:
  """Runs the search on the first examples of an evaluator's data."""
  name, made = source.evaluator_of(FINDS, 'looks at what the task finds')

  def measure(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    check(batch, f'the data of evals.{name}')
    if 'ids' not in outputs:
      raise UserError(f'the prediction {made.predict!r} of the task finds no `ids`.')
    return {'source': batch['source'], 'target': batch['target'], 'ids': outputs['ids']}

  values = source.joined(made, measure).values
  rows = (list(map(trimmed, values[k])) for k in ('source', 'target', 'ids'))
  return Predictions(name, made.predict, *rows)


def check(batch: Mapping[str, Any], what: str) -> None:
  """UserError unless a batch holds sequences."""
  if any(np.ndim(batch.get(name)) != 2 for name in ('source', 'target')):
    raise UserError(f'{what} is not sequences `source` and `target`.')


def trimmed(ids: np.ndarray) -> np.ndarray:
  """Ids without the padding behind them."""
  return np.trim_zeros(ids, 'b')


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Sequences as one array, zeros behind the shorter."""
  length = max(map(len, rows))
  return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def attend(source: Source) -> Attention:
  """Attention while the model writes what it found for a few examples."""
  network, found = source.restored.network, source.predictions
  rows = legible(found)[:NUM_ATTENDING]
  if not rows:
    raise UserError('the model writes nothing.')
  batch = {
    'source': padded([found.sources[i] for i in rows]),
    'target': padded([found.found[i] for i in rows]),
  }

  @jax.jit
  def intermediates(variables: Any, batch: Any) -> Any:
    inputs = network.inputs(batch)
    _, collected = network.module.apply(variables, *inputs, mutable=['intermediates'])
    return collected['intermediates']

  collected = intermediates(jax.device_put(source.restored.variables), batch)
  return Attention(
    rows,
    attention.stack_attention(collected),
    attention.stack_attention(collected, 'decoder', 'cross_attention'),
  )


def legible(found: Predictions) -> list[int]:
  """Examples whose output is not empty: right ones first, of medium length first."""
  away = [abs(len(ids) - EASY_LENGTH) for ids in found.sources]
  return [int(i) for i in np.lexsort((away, ~found.right)) if len(found.found[i])]


def sample_inputs(source: Source) -> tuple[str, str]:
  """The first training pairs, as tokens."""
  _, batch = source.training_batch(NUM_INPUTS)
  check(batch, 'the training data')
  rows = [
    [str(number), *(' '.join(source.tokens(ids)) for ids in pair)]
    for number, pair in zip(range(1, NUM_INPUTS + 1), pairs(batch), strict=False)
  ]
  shapes = ' and '.join(
    f'{name} {shape_text(batch[name].shape[1:])}' for name in ('source', 'target')
  )
  packed = ' Several pairs share a row.' if 'source_segment' in batch else ''
  caption = (
    f'Training pairs as tokens, without the padding that fills a row ({shapes}).'
    f'{packed} The decoder reads the target one token later, and predicts each of it.'
  )
  return page.table(['', 'source', 'target'], rows), caption


def pairs(batch: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Sources and targets one by one, also those that share a row."""
  for row, ids in enumerate(zip(batch['source'], batch['target'], strict=True)):
    if 'source_segment' not in batch:
      yield trimmed(ids[0]), trimmed(ids[1])
      continue
    segments = batch['source_segment'][row], batch['target_segment'][row]
    for number in range(1, segments[0].max() + 1):
      source, target = (
        x[segment == number] for x, segment in zip(ids, segments, strict=True)
      )
      yield source, target


def predicted(source: Source) -> tuple[str, str]:
  """What the model writes: some mistakes, then some that are right."""
  found = source.predictions
  right_B = found.right
  search = SEARCHES.get(found.output, found.output)
  text = page.paragraph(
    f'{right_B.sum():,} of the first {len(right_B):,} examples of {found.evaluator} '
    f'are right ({100 * right_B.mean():.2f}\u00a0%), found by {search}.'
  )
  for heading, rows, most in (
    ('Wrong', np.nonzero(~right_B)[0], NUM_WRONG),
    ('Right', np.nonzero(right_B)[0], NUM_RIGHT),
  ):
    text += page.heading(heading)
    if not len(rows):
      text += page.paragraph('There are none.')
      continue
    cells = [
      [
        str(row),
        *(source.text(x[row]) for x in (found.sources, found.targets, found.found)),
        *([first_difference(found, row)] if heading == 'Wrong' else []),
      ]
      for row in rows[evenly(len(rows), most)]
    ]
    header = ['example', 'source', 'reference', 'output']
    text += page.table(
      [*header, 'differs from'] if heading == 'Wrong' else header, cells
    )
  caption = (
    'Right is an output that equals the reference token by token, its end included; '
    'of many good translations only one is the reference.'
  )
  return text, caption


def first_difference(found: Predictions, row: int) -> str:
  """Where output and reference part."""
  target, output = found.targets[row], found.found[row]
  length = min(len(target), len(output))
  differing = np.flatnonzero(target[:length] != output[:length])
  return f'token {(differing[0] if len(differing) else length) + 1}'


def attention_by_head(source: Source) -> tuple[str, str]:
  """Which tokens read which, in each head."""
  attended, found = source.attention, source.predictions
  content = ''
  for number, row in enumerate(attended.rows):
    reads, writes = (source.tokens(x[row]) for x in (found.sources, found.found))
    cross_LHNS = attended.cross_LBHNS[:, number, :, : len(writes), : len(reads)]
    encoder_LHSS = attended.encoder_LBHSS[:, number, :, : len(reads), : len(reads)]
    verdict = 'right' if found.right[row] else 'wrong'
    content += page.heading(f'Example {row} of {found.evaluator}, {verdict}')
    content += page.arranged(
      [
        page.paragraph('Decoder, last layer: the output (left) reads the source')
        + token_attention.lines(cross_LHNS[-1], writes, reads),
        page.paragraph('Encoder, last layer: the source reads itself')
        + token_attention.lines(
          encoder_LHSS[-1], reads, reads, most_attentive(encoder_LHSS[-1])
        ),
      ],
      'beside',
    )
    content += page.details(
      'The decoder reads the source: every layer, head by head',
      ''.join(
        page.heading(f'Layer {layer}') + token_attention.heads(probs_HNS, writes, reads)
        for layer, probs_HNS in enumerate(cross_LHNS, start=1)
      ),
    )
    depth = len(encoder_LHSS)
    content += page.details(
      'The source reads itself: first and last layer of the encoder, head by head',
      ''.join(
        page.heading(f'Layer {layer}')
        + token_attention.heads(encoder_LHSS[layer - 1], reads, reads)
        for layer in sorted({1, depth})
      ),
    )
  caption = (
    'A line is one weight of one head: from the token on the left, which reads, to one '
    'on the right, which is read; the more opaque, the larger. The decoder reads on '
    'behalf of the token that it writes next, by whose name the line begins. Squares '
    'beside a token show what each head gives it. Point at a token, or at the number '
    'of a head, to see its lines alone. Of the encoder the token that reads another '
    'one most is shown first.'
  )
  return content, caption


def most_attentive(probs_HSS: np.ndarray) -> int:
  """The token that reads another one most, on average over heads; EOS aside."""
  mean_SS = probs_HSS.mean(axis=0)
  np.fill_diagonal(mean_SS, 0.0)
  mean_SS[-1], mean_SS[:, -1] = 0.0, 0.0
  return int(mean_SS.max(axis=1).argmax())


Source.sections = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Predictions', predicted, 'below'),
  Section('Attention', attention_by_head, 'below'),
)
