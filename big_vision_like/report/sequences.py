"""Sections of a report on sequence to sequence models: pairs and attention.

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
FINDS = (sequences.ExactMatch, translation.Bleu)  # evaluators of generated ids
SEARCHES = {'greedy': 'greedy search', 'translate': 'beam search'}
EASY_LENGTH = 14  # source length whose attention makes a legible picture


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Evaluation examples with the outputs of the model: ids that end in EOS.

  `output` is the prediction that generated them, 'greedy' or 'translate'.
  """

  evaluator: str
  output: str
  sources: Sequence[np.ndarray]
  targets: Sequence[np.ndarray]
  found: Sequence[np.ndarray]

  @property
  def right(self) -> np.ndarray:
    """A mask of the outputs that equal their targets, bool (B,)."""
    pairs = zip(self.targets, self.found, strict=True)
    return np.array([np.array_equal(target, found) for target, found in pairs])


@dataclasses.dataclass(frozen=True)
class Attention:
  """The attention on some predicted examples (`rows`), padded to the longest one."""

  rows: Sequence[int]
  encoder_LBHSS: np.ndarray
  cross_LBHNS: np.ndarray


@dataclasses.dataclass
class Source(report_source.Source):
  """A report on a run with batches of `source` and `target`, ids padded with zeros."""

  predicts = 'sequences'

  @functools.cached_property
  def vocabulary(self) -> Any:
    """The first vocabulary in the config, or None."""
    for path, node in specs.calls(self.log.config):
      if hasattr(specs.symbol(node, path), 'pieces'):
        vocabulary = specs.build(node, path)
        if self.run is not None:
          learned.check_tokenizer(self.run.workdir, vocabulary)
        return vocabulary
    return None

  @property
  def eos_id(self) -> int:
    """The id of the token that ends a sequence."""
    return self.log.config['task'].get('eos_id', seq2seq.Seq2Seq.eos_id)

  def tokens(self, ids: np.ndarray) -> list[str]:
    """Returns the pieces of ids, or the ids as text if there is no vocabulary."""
    if self.vocabulary is not None:
      return self.vocabulary.pieces(ids.tolist())
    return ['</s>' if i == self.eos_id else str(i) for i in ids.tolist()]

  def text(self, ids: np.ndarray) -> str:
    """Returns tokens as readable text, marked if they do not end in EOS."""
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
  name, made = source.evaluator_of(FINDS, 'scores generated sequences')

  def measure(outputs: Any, batch: Any) -> dict[str, jax.Array]:
    check(batch, f'the data of evals.{name}')
    if 'ids' not in outputs:
      raise UserError(f'the prediction {made.predict!r} of the task returns no `ids`.')
    return {'source': batch['source'], 'target': batch['target'], 'ids': outputs['ids']}

  values = source.joined(made, measure).values
  rows = (list(map(trimmed, values[k])) for k in ('source', 'target', 'ids'))
  return Predictions(name, made.predict, *rows)


def check(batch: Mapping[str, Any], what: str) -> None:
  """Raises a `UserError` unless a batch has sequences."""
  if any(np.ndim(batch.get(name)) != 2 for name in ('source', 'target')):
    raise UserError(f'{what} has no sequences `source` and `target`.')


def trimmed(ids: np.ndarray) -> np.ndarray:
  """Returns ids without trailing padding."""
  return np.trim_zeros(ids, 'b')


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Stacks sequences into one array, padded with zeros at the end."""
  length = max(map(len, rows))
  return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def attend(source: Source) -> Attention:
  """Computes the attention of the model for its own outputs on a few examples."""
  network, found = source.restored.network, source.predictions
  rows = legible(found)[:NUM_ATTENDING]
  if not rows:
    raise UserError('all outputs of the model are empty.')
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
  """Returns examples with an output, right ones first, then by ease of the source."""
  away = [abs(len(ids) - EASY_LENGTH) for ids in found.sources]
  return [int(i) for i in np.lexsort((away, ~found.right)) if len(found.found[i])]


def sample_inputs(source: Source) -> tuple[str, str]:
  """Shows the first training pairs, as tokens."""
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
    f'Training pairs as tokens, without the padding at the end of a row ({shapes}).'
    f'{packed} The decoder reads the target shifted by one token, and predicts each of'
    ' its tokens.'
  )
  return page.table(['', 'source', 'target'], rows), caption


def pairs(batch: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields pairs of source and target, one by one, also if several share a row."""
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
  """Shows some wrong outputs of the model, then some right ones."""
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
    'An output is right if it equals the reference token by token, including the '
    'end. There may be many good translations, but only one is the reference.'
  )
  return text, caption


def first_difference(found: Predictions, row: int) -> str:
  """Returns the first token in which output and reference differ."""
  target, output = found.targets[row], found.found[row]
  length = min(len(target), len(output))
  differing = np.flatnonzero(target[:length] != output[:length])
  return f'token {(differing[0] if len(differing) else length) + 1}'


def attention_by_head(source: Source) -> tuple[str, str]:
  """Shows which tokens attend to which, in each head."""
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
    'Each line is one weight of one head, from the attending token on the left to the '
    'attended token on the right; larger weights are more opaque. In the decoder, a '
    'line starts at the token that is generated from it. Squares next to a token show '
    'the weight that each head gives it. Point at a token, or at the number of a head, '
    'to see only its lines. For the encoder, the token that attends most to another '
    'one is shown first.'
  )
  return content, caption


def most_attentive(probs_HSS: np.ndarray) -> int:
  """Returns the token, except EOS, that attends most to another, as a mean of heads."""
  mean_SS = probs_HSS.mean(axis=0)
  np.fill_diagonal(mean_SS, 0.0)
  mean_SS[-1], mean_SS[:, -1] = 0.0, 0.0
  return int(mean_SS.max(axis=1).argmax())


Source.sections = (
  Section('Inputs', sample_inputs, 'below'),
  Section('Predictions', predicted, 'below'),
  Section('Attention', attention_by_head, 'below'),
)
