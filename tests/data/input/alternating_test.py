import collections
import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.input.alternating import Alternating
from big_vision_like.data.input.proportions import Proportions
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import text
from big_vision_like.errors import BadRecordError, UserError

SHARES = {'detect': 0.5, 'parity': 0.3, 'copy': 0.2}


@dataclasses.dataclass(frozen=True)
class Numbers(Source):
  """A source of its index and its name, nested deep in a dict; some records are bad."""

  count: int
  offset: int = 0
  bad: tuple[int, ...] = ()

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadRecordError('damaged')
    return {'id': np.int32(index), 'question': {'ids': np.int32([self.offset, index])}}


def parts(**options):
  return {
    'detect': pipeline.TrainInput(source=Numbers(12, 100), batch_size=4, seed=1),
    'parity': pipeline.TrainInput(
      source=Numbers(30, 200), batch_size=6, seed=2, **options
    ),
    'copy': pipeline.TrainInput(source=Numbers(7, 300), batch_size=2, seed=3),
  }


def assert_equal(found, expected):
  for a, b in zip(found, expected, strict=True):
    [(name, own)], [(other, theirs)] = a.items(), b.items()
    assert name == other
    np.testing.assert_array_equal(own['id'], theirs['id'])
    np.testing.assert_array_equal(own['question']['ids'], theirs['question']['ids'])


def take(data, count, rows_of=np.arange, start=0):
  batches = data.batches(rows_of)
  batches.set_state({'step': start})
  try:
    return [next(batches) for _ in range(count)]
  finally:
    batches.close()


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
  st.lists(st.integers(1, 50), min_size=1, max_size=5),
  st.integers(0, 9),
  st.integers(1, 20),
)
def test_shares_are_exact_over_whole_windows(weights, seed, windows):
  shares = {f'p{i}': weight / sum(weights) for i, weight in enumerate(weights)}
  inputs = {name: parts()['copy'] for name in shares}
  data = Alternating(inputs=inputs, shares=shares, seed=seed)
  steps = windows * alternating.WINDOW
  counts = collections.Counter(data.part(step) for step in range(steps))
  for name, share in shares.items():
    assert abs(counts[name] - share * steps) < len(weights)
  within = steps - alternating.WINDOW // 3
  counted = collections.Counter(data.part(step) for step in range(within))
  assert data.steps_of(within) == {name: counted[name] for name in shares}


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
  st.lists(st.integers(1, 99), min_size=1, max_size=6), st.integers(0, 999)
)
def test_sources_alternate_by_their_weights(weights, turns):
  proportions = Proportions.of(weights)
  places = [proportions.place(i) for i in range(turns)]
  counts = proportions.counts(turns)
  for part, count in enumerate(counts):
    assert [number for own, number in places if own == part] == list(range(count))
    assert abs(count - turns * weights[part] / sum(weights)) < len(weights)


def test_shares_default_to_the_numbers_of_examples():
  data = Alternating(inputs=parts())
  assert data.exact_shares == {'detect': 12 / 49, 'parity': 30 / 49, 'copy': 7 / 49}
  assert data.batch_size == pytest.approx((12 * 4 + 30 * 6 + 7 * 2) / 49)
  assert data.examples_per_epoch == 49


def test_the_length_of_an_epoch_comes_from_one_input():
  data = Alternating(inputs=parts(), shares=SHARES, epoch_of='parity')
  assert data.batch_size == pytest.approx(0.5 * 4 + 0.3 * 6 + 0.2 * 2)
  steps = data.examples_per_epoch / data.batch_size
  assert steps * 0.3 * 6 == pytest.approx(30, abs=1)


def test_the_order_is_drawn_from_the_seed():
  orders = [
    [Alternating(inputs=parts(), shares=SHARES, seed=seed).part(i) for i in range(128)]
    for seed in (0, 0, 1)
  ]
  assert orders[0] == orders[1] != orders[2]
  assert orders[0][:64] != orders[0][64:]
  assert set(orders[0]) == set(SHARES)


def test_the_stream_of_each_input_is_complete_and_in_its_order():
  data = Alternating(inputs=parts(), shares=SHARES, seed=5)
  found = take(data, 100)
  for name, part in data.inputs.items():
    own = [batch for batch in found if name in batch]
    assert len(own) > 10
    batches = iter(part)
    assert_equal(own, [{name: next(batches)} for _ in own])
    batches.close()


@pytest.mark.parametrize('start', [1, 37, 64, 90])
def test_the_stream_resumes_at_any_step(start):
  data = Alternating(inputs=parts(), shares=SHARES, seed=5)
  whole = take(data, 100)
  assert_equal(take(data, 100 - start, start=start), whole[start:])
  batches = iter(data)
  for _ in range(start):
    next(batches)
  state = batches.get_state()
  assert state == {'step': start}
  batches.set_state({'step': 3})
  assert_equal([next(batches)], [whole[3]])
  batches.set_state(state)
  assert_equal([next(batches)], [whole[start]])
  batches.close()


def test_workers_give_the_same():
  data = Alternating(inputs=parts(), shares=SHARES, seed=5)
  other = Alternating(inputs=parts(workers=1), shares=SHARES, seed=5)
  assert_equal(take(other, 20), take(data, 20))


def test_all_hosts_take_the_same_input_and_their_own_rows():
  data = Alternating(inputs=parts(), shares=SHARES, seed=5)
  hosts = [take(data, 70, lambda size, i=i: np.arange(size)[i::2]) for i in range(2)]
  for step, batch in enumerate(take(data, 70)):
    [(name, own)] = batch.items()
    for i, host in enumerate(hosts):
      np.testing.assert_array_equal(host[step][name]['id'], own['id'][i::2])


def test_the_first_batch_of_each_and_shapes():
  data = Alternating(inputs=parts(), shares=SHARES)
  first, abstract = data.first(), data.abstract()
  assert first.keys() == abstract.keys() == SHARES.keys()
  assert first['parity']['question']['ids'].shape == (6, 2)
  assert abstract['parity']['question']['ids'].shape == (6, 2)
  assert abstract['parity']['question']['ids'].dtype == np.int32
  assert data.abstract(('copy', ())).keys() == {'copy'}
  assert data.parts.keys() == SHARES.keys() and parts()['copy'].parts.keys() == {''}


def test_signatures_are_those_of_the_inputs():
  pairs = [{'source': np.full(n, 5), 'target': np.full(n, 6)} for n in (2, 3, 7, 8)]
  inputs = {
    'parity': parts()['parity'],
    'texts': pipeline.TrainInput(
      source=pairs, batch_size=2, transforms=[text.Buckets([(4, 4), (8, 8)])]
    ),
  }
  data = Alternating(inputs=inputs, shares={'parity': 0.75, 'texts': 0.25})
  steps = 8 * alternating.WINDOW
  found = data.signatures(steps)
  assert found == {
    ('parity', ()): 0.75,
    ('texts', (4, 4)): 0.125,
    ('texts', (8, 8)): 0.125,
  }
  labels = [data.label(signature) for signature in sorted(found)]
  assert labels == ['parity', 'texts 4x4', 'texts 8x8']
  shape = data.abstract(('texts', (4, 4)))['texts']['source'].shape
  assert shape == (2, 4)
  assert data.padded_share(steps) == inputs['texts'].padded_share(steps // 4)


def test_bad_records_are_reported_with_their_input():
  inputs = parts() | {
    'copy': pipeline.TrainInput(source=Numbers(7, bad=(3,)), batch_size=7, bad_share=0)
  }
  batches = iter(Alternating(inputs=inputs, shares=SHARES))
  with pytest.raises(UserError) as error:
    for _ in range(40):
      next(batches)
  assert str(error.value).startswith('1 of 7 examples could not be used')
  assert 'train_data.inputs.copy.bad_share=0' in str(error.value)
  (line,) = batches.news()
  assert line.startswith('copy: record 3 of Numbers(') and batches.replaced == 1
  batches.close()


@pytest.mark.parametrize(
  'options, told',
  [
    (
      dict(shares={'detect': 0.5, 'parity': 0.3, 'copy': 0.1}),
      'shares sum to 0.9, not',
    ),
    (dict(shares={'detect': 0.5, 'parity': 0.5}), "no share for the input 'copy'"),
    (dict(shares=SHARES | {'coco': 0.0}), "names 'coco', which is not an input; the"),
    (dict(shares=SHARES | {'copy': 0.0}), 'shares.copy=0.0 is not above 0'),
    (dict(epoch_of='coco'), "epoch_of='coco' is not one of detect, parity, copy"),
    (dict(inputs={}), 'Alternating needs inputs'),
    (dict(inputs={'a': 3}), 'inputs.a must be a TrainInput, not int'),
  ],
)
def test_wrong_arguments_are_reported(options, told):
  with pytest.raises(UserError) as error:
    Alternating(**dict(inputs=parts()) | options)
  assert told in str(error.value)


def test_shares_may_be_rounded():
  thirds = dict.fromkeys(SHARES, 0.333333)
  assert Alternating(inputs=parts(), shares=thirds).exact_shares == {
    name: 1 / 3 for name in SHARES
  }


def test_a_position_of_one_input_is_refused():
  batches = iter(Alternating(inputs=parts()))
  with pytest.raises(UserError, match='from a run with one input, not with several'):
    batches.set_state({'examples': 8})
