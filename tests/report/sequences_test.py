"""Tests of reports about runs from sequences to sequences."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import ml_collections as mlc
import numpy as np
import pages
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError
from big_vision_like.evals import sequences as exact
from big_vision_like.models import transformer
from big_vision_like.report import sequences as report_sequences
from big_vision_like.spec import spec
from big_vision_like.tasks import seq2seq
from big_vision_like.viz import attention
from tools import report

HEADINGS = ['Summary', 'Curves', 'Inputs', 'Predictions', 'Attention']
VOCABULARY, LENGTH, HEADS, DEPTH = 9, 6, 3, 2


@dataclasses.dataclass(frozen=True)
class Syllables:
  """A vocabulary in which every other piece begins a word."""

  ending: str

  def pieces(self, ids: list[int]) -> list[str]:
    assert all(type(i) is int for i in ids)
    return ['</s>' if i == 2 else f'{"▁" * (i % 2)}<{i}{self.ending}' for i in ids]


@dataclasses.dataclass(frozen=True)
class Texts(Source):
  """Sequences to copy; several of them share a row when `packed`."""

  length: int
  vocabulary: Syllables
  packed: bool = False

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    if not self.packed:
      ids = np.array([3 + index % 5, 4, 2, 0], np.int32)
      return {'source': ids, 'target': ids}
    row = {}
    for name in ('source', 'target'):
      row[name] = np.array([3, 2, 4, 5, 2, 0], np.int32)
      row[f'{name}_segment'] = np.array([1, 1, 2, 2, 2, 0], np.int32)
      row[f'{name}_position'] = np.array([0, 1, 0, 1, 2, 0], np.int32)
    return row


def strings(split: str, examples: int) -> mlc.ConfigDict:
  return spec(
    sequences.Reverse,
    examples=examples,
    split=split,
    vocab_size=VOCABULARY,
    min_length=2,
    max_length=LENGTH,
  )


def config_of(training: mlc.ConfigDict, testing: mlc.ConfigDict, scan: bool):
  return mlc.ConfigDict(
    dict(
      total_steps=2,
      task=spec(
        seq2seq.Seq2Seq,
        model=spec(
          transformer.Transformer,
          vocab_size=VOCABULARY,
          width=12,
          depth=DEPTH,
          num_heads=HEADS,
          mlp_dim=16,
          scan=scan,
        ),
        optimizer=spec(optim.adamw, rate=1e-2, decay_rules=[]),
        extra_length=1,
        beams=2,
      ),
      train_data=spec(pipeline.TrainInput, source=training, batch_size=8),
      evals=dict(
        nll=spec(
          exact.Perplexity,
          data=spec(pipeline.EvalInput, source=testing, batch_size=8),
        ),
        strings=spec(
          exact.ExactMatch,
          data=spec(pipeline.EvalInput, source=testing, batch_size=8),
        ),
      ),
    )
  )


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
  folder = tmp_path_factory.mktemp('runs')
  text = spec(Texts, length=16, vocabulary=spec(Syllables, ending='>'))
  configs = {
    'numbers': config_of(strings('train', 64), strings('test', 20), scan=False),
    'texts': config_of(text, text, scan=True),
  }
  return {
    name: pages.untrained(config, folder / name) for name, config in configs.items()
  }


@pytest.fixture(scope='module')
def numbers(runs):
  return pages.source_of(runs['numbers'], num_examples=13)


@pytest.fixture(scope='module')
def pair_page(runs) -> pathlib.Path:
  out = runs['numbers'].parent / 'pair.html'
  assert report.main([str(runs['numbers']), str(runs['texts']), f'--out={out}']) == 0
  return out


def test_a_page_has_sections_of_its_own(pair_page):
  reader = pages.Reader(pair_page)
  assert reader.headings == HEADINGS and 'Not shown' not in reader.text
  drawn = pair_page.read_text().count('<svg class="token-lines"')
  assert drawn == 2 * 2 * report_sequences.NUM_ATTENDING
  assert '▁<3>' in reader.text and '<3>' not in pair_page.read_text()


def test_a_browser_shows_the_page_unfolded(pair_page, tmp_path):
  unfolded = tmp_path / 'unfolded.html'
  unfolded.write_text(pair_page.read_text().replace('<details>', '<details open>'))
  found = pages.opened(unfolded, tmp_path)
  assert found['cut'] == found['overlapping'] == ''


def test_inputs_are_the_first_of_training(numbers):
  content, caption = report_sequences.sample_inputs(numbers)
  header, *rows = pages.rows_of(content)
  assert header == ['', 'source', 'target']
  assert [row[0] for row in rows] == [str(i + 1) for i in range(12)]
  for _, source, target in rows:
    source, target = source.split(), target.split()
    assert source[-1] == target[-1] == '</s>'
    assert source[:-1] == target[:-1][::-1] and 2 <= len(source[:-1]) <= LENGTH
  assert f'source {LENGTH + 1} and target {LENGTH + 1}' in caption


def test_pairs_that_share_a_row_are_separated():
  batch = {k: v[None] for k, v in Texts(1, Syllables(''), packed=True)[0].items()}
  found = [[ids.tolist() for ids in pair] for pair in report_sequences.pairs(batch)]
  assert found == [[[3, 2], [3, 2]], [[4, 5, 2], [4, 5, 2]]]


def test_predictions_match_the_search(numbers):
  found = numbers.predictions
  assert (found.evaluator, found.output) == ('strings', 'greedy')
  assert len(found.sources) == len(found.targets) == len(found.found) == 13
  data = report_sequences.specs.build(numbers.log.config['evals']['strings']['data'])
  [first, *_] = data.epoch()
  task, state = numbers.run.task, numbers.run.state
  key = jax.random.key(0)
  greedy = jax.jit(lambda *args: task.greedy(*args, key)['ids'])(state, first)
  for row in range(8):
    np.testing.assert_array_equal(found.found[row], np.trim_zeros(greedy[row], 'b'))
    np.testing.assert_array_equal(
      found.targets[row], np.trim_zeros(first['target'][row], 'b')
    )


def made(numbers, pairs: list[tuple[list[int], list[int]]]):
  """Returns the run as if it had predicted the second of each pair, not the first."""
  source = dataclasses.replace(numbers)
  targets, found = (
    [np.array(ids) for ids in side] for side in zip(*pairs, strict=True)
  )
  source.predictions = report_sequences.Predictions(
    'strings', 'translate', [ids[::-1] for ids in targets], targets, found
  )
  return source


def test_mistakes_come_first_and_where_they_begin(numbers):
  pairs = [
    ([5, 2], [5, 2]),
    ([5, 6, 2], [5, 7, 2]),
    ([5, 6, 2], [5, 6]),
    ([5, 6, 2], [5, 6, 6, 2]),
  ]
  content, _ = report_sequences.predicted(made(numbers, pairs))
  assert '1 of the first 4 examples of strings are right (25.00' in content
  assert 'found by beam search' in content
  wrong, right = content.split('Right</h3>')
  assert [(row[0], *row[2:]) for row in pages.rows_of(wrong)[1:]] == [
    ('1', '5 6', '5 7', 'token 2'),
    ('2', '5 6', '5 6 (no end)', 'token 3'),
    ('3', '5 6', '5 6 6', 'token 3'),
  ]
  assert [row[0] for row in pages.rows_of(right)[1:]] == ['0']
  content, _ = report_sequences.predicted(made(numbers, pairs[:1]))
  assert 'Wrong</h3><p class="note">There are none.' in content


def test_words_are_joined_where_their_pieces_are_known(runs):
  source = pages.source_of(runs['texts'])
  assert source.tokens(np.array([3, 4, 5, 2])) == ['▁<3>', '<4>', '▁<5>', '</s>']
  assert source.text(np.array([3, 4, 5, 2])) == '<3><4> <5>'


def test_attention_matches_an_example_alone(runs):
  source = pages.source_of(runs['texts'])
  attended, found, model = source.attention, source.predictions, source.run.task.model
  assert len(attended.rows) == report_sequences.NUM_ATTENDING
  row = attended.rows[1]
  reads, writes = found.sources[row], found.found[row]
  _, collected = jax.jit(functools.partial(model.apply, mutable=['intermediates']))(
    {'params': source.run.state.params},
    reads[None],
    np.concatenate([[1], writes[:-1]])[None],  # BOS, and without the last token
  )
  for array, *where in (
    (attended.cross_LBHNS, 'decoder', 'cross_attention'),
    (attended.encoder_LBHSS, 'encoder', 'attention'),
  ):
    alone = attention.stack_attention(collected['intermediates'], *where)[:, 0]
    assert alone.shape[:2] == (DEPTH, HEADS)
    shown = array[:, 1, :, : alone.shape[2], : alone.shape[3]]
    np.testing.assert_allclose(shown, alone, atol=1e-5)


def test_right_and_legible_examples_are_attended_to(numbers):
  pairs = [
    ([5, 2], [5, 2]),
    ([5, 6, 7, 3, 2], [5, 2]),
    ([5, 6, 3, 2], [5, 6, 3, 2]),
    ([5, 6, 2], [5, 6, 2]),
    ([5, 6, 2], []),
  ]
  assert report_sequences.legible(made(numbers, pairs).predictions) == [2, 3, 0, 1]


def test_drawings_name_both_ends_of_attention(numbers):
  source = made(numbers, [([5, 6, 3, 2], [5, 6, 7, 7, 2])])
  content, caption = report_sequences.attention_by_head(source)
  assert 'Example 0 of strings, wrong' in content and 'is generated' in caption
  cross, encoder = re.findall(r'<svg class="token-lines".*?</svg>', content)
  names = [
    re.findall(r'<title>([^<]*)</title></text>', svg) for svg in (cross, encoder)
  ]
  reads = ['&lt;/s&gt;', '3', '6', '5']
  assert names == [[*reads, *'5677', '&lt;/s&gt;'], [*reads, *reads]]
  assert cross.count('class="query on"') == 0 and encoder.count('class="query on"') == 1
  decoder_maps, encoder_maps = content.split('<details>')[1:]
  for maps in (decoder_maps, encoder_maps):
    assert re.findall('<h3>(.*?)</h3>', maps) == ['Layer 1', 'Layer 2']
    assert len(re.findall('aria-label="head', maps)) == DEPTH * HEADS


def test_the_most_attentive_token_reads_another_one():
  probs_HSS = np.zeros((2, 4, 4))
  probs_HSS[:, 0, 0] = probs_HSS[:, 1, 3] = probs_HSS[:, 3, 0] = 1.0
  probs_HSS[0, 2, 1] = 0.5
  assert report_sequences.most_attentive(probs_HSS) == 2


def test_other_tasks_give_a_reason(numbers):
  with pytest.raises(UserError, match='the training data has no sequences'):
    report_sequences.check({'image': np.zeros((1, 2, 2, 1))}, 'the training data')
  packed = dataclasses.replace(numbers)
  source = spec(Texts, length=8, vocabulary=spec(Syllables, ending=''), packed=True)
  config = json.loads(json.dumps(numbers.log.config))
  config['evals']['strings']['data']['source'] = source.to_dict()
  packed.log = dataclasses.replace(numbers.log, config=config)
  with pytest.raises(UserError, match='packed rows hold several sources: a search'):
    report_sequences.predict(packed)
  del config['evals']['strings']
  with pytest.raises(UserError, match='no evaluator .* scores generated sequences'):
    report_sequences.predict(packed)
