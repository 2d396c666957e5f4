import contextlib
import dataclasses
import itertools
import pickle
from concurrent import futures

import grain
import numpy as np
import pytest

from big_vision_like.data.input import mixture, pipeline, prepared
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import BadRecordError, UserError

COUNT = 12


class Counted(Source):
  """Images that count how often each is read; one image cannot be read."""

  def __init__(self, bad: int | None = None, sizes: int = 1):
    self.bad, self.sizes = bad, sizes
    self.reads: list[int] = []
    self.bulks: list[int] = []

  def __len__(self):
    return COUNT

  def __getitem__(self, index):
    self.reads.append(index)
    if index == self.bad:
      raise BadRecordError(f'record {index} is damaged')
    side = 4 + index % self.sizes
    image = np.full((side, side, 1), index, np.uint8)
    return {'image': image, 'label': index % 3, 'name': f'file {index}', 'id': index}

  def __getitems__(self, indices):
    self.bulks.append(len(indices))
    return [self[index] for index in indices]


@dataclasses.dataclass(frozen=True)
class Brighter(grain.transforms.Map):
  def map(self, example):
    return example | {'image': example['image'] + 100}


@dataclasses.dataclass(frozen=True)
class Encoded(grain.transforms.Map):
  def map(self, example):
    return example | {'image': example['image'].tobytes()}


@dataclasses.dataclass(frozen=True)
class Scribble(grain.transforms.RandomMap):
  """Changes the image in place, as careless transforms do."""

  def random_map(self, example, rng):
    example['image'] += rng.integers(0, 100, dtype=np.uint8)
    return example


def take(data, count):
  with contextlib.closing(iter(data)) as batches:
    return list(itertools.islice(batches, count))


def train_input(source, **options):
  options = dict(batch_size=4, transforms=[Brighter()], threads=1) | options
  return pipeline.TrainInput(source=source, **options)


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_records_of_a_batch_are_read_at_once():
  source = Counted()
  take(train_input(source, keep_mib=0), 3)
  assert set(source.bulks) == {4}


def test_large_batches_are_read_in_pieces(monkeypatch):
  monkeypatch.setattr(pipeline, 'AT_ONCE', 3)
  source = Counted()
  batches = take(train_input(source, batch_size=8), 3)
  assert set(source.bulks) <= {1, 2, 3}
  assert_equal(batches, take(train_input(Counted(), batch_size=8, keep_mib=0), 3))


@pytest.mark.parametrize('random', [False, True])
def test_each_record_is_read_once_and_batches_stay_the_same(random):
  transforms = [Brighter(), Scribble(), Brighter()] if random else [Brighter()]
  source = Counted()
  got = take(train_input(source, transforms=transforms), 12)
  assert sorted(source.reads) == list(range(COUNT))
  again = Counted()
  assert_equal(got, take(train_input(again, transforms=transforms, keep_mib=0), 12))
  assert len(again.reads) > 3 * COUNT


def test_copies_of_one_record_in_a_batch_share_no_memory():
  options = dict(transforms=[Brighter(), Scribble()], repeats=3, batch_size=6)
  got = take(train_input(Counted(), **options), 12)
  assert_equal(got, take(train_input(Counted(), keep_mib=0, **options), 12))


def test_an_evaluation_reads_each_record_once():
  source = Counted()
  data = pipeline.EvalInput(source=source, batch_size=8, transforms=[Brighter()])
  first, second = list(data.epoch()), list(data.epoch())
  assert_equal(first, second)
  assert sorted(source.reads[:COUNT]) == list(range(COUNT))
  # A record that fills the last batch may be read before it is kept.
  assert len(source.reads) <= COUNT + 4
  assert [batch['mask'].sum() for batch in first] == [8, 4]


@pytest.mark.parametrize(
  'options, source',
  [
    (dict(keep_mib=COUNT * 16 / 2**20), Counted()),  # too large with their names
    (dict(transforms=[Encoded()]), Counted()),
    (dict(transforms=[Scribble()]), Counted()),
    (dict(transforms=[]), Counted()),
  ],
)
def test_inputs_that_are_not_kept(options, source):
  data = train_input(source, **options)
  with contextlib.closing(iter(data)) as batches:
    for _ in range(6):
      next(batches)
  assert len(source.reads) >= 2 * COUNT


def test_images_of_several_sizes_are_not_kept():
  kept = prepared.Kept(COUNT, 2**20)
  source = Counted(sizes=2)
  kept.put(0, source[0])
  assert kept.size == 1 and kept.take([0])[0]['name'] == 'file 0'
  kept.put(1, source[1])
  assert kept.size == 0 and kept.take([0, 1]) == [None, None]
  kept.put(2, source[2])  # nothing is kept any more
  assert kept.size == 0


def test_values_come_back_as_they_were():
  kept = prepared.Kept(3, 2**20)
  values = {
    'a': 3, 'b': 2.5, 'c': True, 'd': b'text\0', 'e': None, 'f': np.int16(7),
    'g': np.arange(3, dtype=np.int16), 'h': 2**40,
  }  # fmt: skip
  kept.put(1, values)
  absent, got = kept.take([0, 1])
  assert absent is None
  for name, value in values.items():
    assert type(got[name]) is type(value), name
    np.testing.assert_array_equal(got[name], value)
  got['g'][:] = 0
  assert kept.take([1])[0]['g'].tolist() == [0, 1, 2]


def test_threads_see_no_example_before_it_is_written():
  kept, wrong = prepared.Kept(2000, 2**28), []

  def write():
    for index in range(2000):
      kept.put(index, {'image': np.full(1000, index % 200 + 1, np.uint8)})

  with futures.ThreadPoolExecutor(1) as pool:
    writing = pool.submit(write)
    while not writing.done():
      for index, got in enumerate(kept.take(range(2000))):
        if got and (got['image'] != index % 200 + 1).any():
          wrong.append(index)
    writing.result()
  assert wrong == [] and kept.size == 2000


@pytest.mark.parametrize('value', [[1, 2], {'x': 1}, np.array(['a'], object)])
def test_values_that_may_change_are_not_kept(value):
  kept = prepared.Kept(3, 2**20)
  kept.put(0, {'x': value})
  assert kept.size == 0


@pytest.mark.parametrize('count', [10**7, 10**15])
def test_no_memory_is_taken_for_a_data_set_that_is_too_large(count):
  kept = prepared.Kept(count, 2**28)
  kept.put(0, {'image': np.zeros((500, 500, 3), np.uint8)})
  assert kept.size == 0 and kept.take([0]) == [None]


def test_copies_for_workers_are_empty():
  kept = prepared.Kept(3, 2**20)
  kept.put(1, {'x': 1})
  copy = pickle.loads(pickle.dumps(kept))
  copy.put(1, {'x': 1})
  assert (kept.size, copy.size) == (1, 0) and copy.take([1]) == [None]


def test_a_bad_record_affects_no_other_and_is_reported_each_time():
  source = Counted(bad=5)
  data = train_input(source, bad_share=1.0)
  with contextlib.closing(iter(data)) as batches:
    news = [(next(batches), batches.news())[1] for _ in range(9)]
  lines = [line for step in news for line in step]
  assert len(lines) == 3 and all('record 5 is damaged' in line for line in lines)
  want = take(train_input(Counted(bad=5), bad_share=1.0, keep_mib=0), 9)
  assert_equal(take(train_input(source, bad_share=1.0), 9), want)


def test_parts_of_a_mixture_are_kept_apart():
  def data(keep_mib):
    parts = {
      'a': mixture.Part(source=Counted(), weight=1, transforms=[Brighter()]),
      'b': mixture.Part(source=Counted(), weight=2, transforms=[Scribble()]),
    }
    mixed = mixture.Mixture(parts=parts, epoch_of='a')
    return train_input(mixed, keep_mib=keep_mib, batch_size=6, transforms=[Scribble()])

  kept = data(256)
  assert_equal(take(kept, 10), take(data(0), 10))
  assert len(kept.source.parts['a'].source.reads) == COUNT
  assert len(kept.source.parts['b'].source.reads) > 2 * COUNT


def test_cpu_time_of_threads_and_workers_is_counted():
  @dataclasses.dataclass(frozen=True)
  class Slow(grain.transforms.Map):
    def map(self, example):
      return example | {'n': sum(range(20_000))}

  for workers in (0, 2):
    data = train_input(Counted(), transforms=[Slow()], workers=workers)
    batches = iter(data)
    assert batches.cpu_seconds == 0.0
    seen = [(next(batches), batches.cpu_seconds)[1] for _ in range(3)]
    assert 0.0 < seen[0] <= seen[1] <= seen[2]
    batches.close()
    assert batches.cpu_seconds >= seen[2]


def test_a_negative_limit_is_refused():
  with pytest.raises(UserError, match='keep_mib=-1 is too small'):
    train_input(Counted(), keep_mib=-1)
