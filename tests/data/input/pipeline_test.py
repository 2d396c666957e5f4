import dataclasses
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import grain
import numpy as np
import pytest

from big_vision_like.data.input import base, pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import image
from big_vision_like.errors import BadRecordError, UserError

SIZE = 10
EXAMPLES = [
  {
    'image': np.random.default_rng(i).integers(0, 256, (8, 8, 1), dtype=np.uint8),
    'label': np.int64(i % 3),
    'id': np.int64(i),
  }
  for i in range(SIZE)
]


@dataclasses.dataclass(frozen=True)
class Double(grain.transforms.Map):
  def map(self, example):
    return example | {'label': example['label'] * 2}


@dataclasses.dataclass(frozen=True)
class Draw(grain.transforms.RandomMap):
  """Adds two random numbers under given names."""

  name: str = 'drawn'

  def random_map(self, example, rng):
    return example | {self.name: rng.uniform(size=2)}


def train_input(batch_size=4, **options):
  return pipeline.TrainInput(source=EXAMPLES, batch_size=batch_size, **options)


def rows_of(process_index, process_count):
  return lambda size: np.split(np.arange(size), process_count)[process_index]


def take(data, count, process_index=0, process_count=1):
  batches = data.batches(rows_of(process_index, process_count))
  try:
    return list(itertools.islice(batches, count))
  finally:
    batches.close()


def ids(batches) -> list[int]:
  return np.concatenate([batch['id'] for batch in batches]).tolist()


def assert_equal(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


# Training


def test_each_epoch_is_a_permutation_of_its_own():
  order = ids(take(train_input(batch_size=4), 10))  # batches may cross epochs
  epochs = [tuple(order[i : i + SIZE]) for i in range(0, 40, SIZE)]
  assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
  assert len(set(epochs)) == 4
  assert tuple(range(SIZE)) not in epochs


def test_the_order_depends_on_the_seed_alone():
  first = ids(take(train_input(seed=1), 5))
  assert first == ids(take(train_input(seed=1), 5))
  assert first != ids(take(train_input(seed=2), 5))
  assert first == ids(take(train_input(seed=1, batch_size=10), 2))
  assert first == ids(take(train_input(seed=1, transforms=[Draw()]), 5))


def test_batches_are_stacked_arrays():
  (batch,) = take(train_input(), 1)
  assert batch['image'].shape == (4, 8, 8, 1) and batch['image'].dtype == np.uint8
  assert batch['label'].shape == (4,) and batch['label'].dtype == np.int32
  for row, i in enumerate(batch['id']):
    np.testing.assert_array_equal(batch['image'][row], EXAMPLES[i]['image'])
    assert batch['label'][row] == i % 3


def test_transforms_are_applied_in_order():
  @dataclasses.dataclass(frozen=True)
  class Add(grain.transforms.Map):
    def map(self, example):
      return example | {'label': example['label'] + 1}

  (batch,) = take(train_input(transforms=[Double(), Add()]), 1)
  np.testing.assert_array_equal(batch['label'], batch['id'] % 3 * 2 + 1)


def test_randomness_is_new_for_each_position_and_transform():
  data = train_input(batch_size=10, transforms=[Draw('a'), Draw('b')])
  batches = take(data, 3)
  drawn = np.concatenate([batch[name] for batch in batches for name in ('a', 'b')])
  assert len(np.unique(drawn)) == drawn.size


def test_seeds_share_no_randomness():
  data = train_input(batch_size=10, transforms=[Draw('a'), Draw('b')])
  drawn = [
    batch[name]
    for seed in (0, 1, 2)
    for batch in take(dataclasses.replace(data, seed=seed), 1)
    for name in ('a', 'b')
  ]
  assert len(np.unique(drawn)) == 3 * 2 * 10 * 2


WITH_NOISE = dict(
  transforms=[image.RandomAffine(rotate=20.0, shift=0.2)], batch_size=4, seed=3
)


@pytest.fixture(scope='module')
def expected():
  return take(train_input(**WITH_NOISE, threads=1), 7)


def test_threads_change_nothing(expected):
  assert_equal(take(train_input(**WITH_NOISE, threads=4), 7), expected)


@dataclasses.dataclass(frozen=True)
class Process(grain.transforms.Map):
  """A transform that records the process it runs in."""

  def map(self, example):
    return example | {'process': np.int32(os.getpid())}


@pytest.mark.parametrize('workers', [1, 4])
def test_workers_change_nothing(workers, expected):
  transforms = [*WITH_NOISE['transforms'], Process()]
  data = train_input(**WITH_NOISE | dict(transforms=transforms), workers=workers)
  batches = iter(data)
  try:
    batches.set_state({'examples': 4})
    got = list(itertools.islice(batches, 6))
  finally:
    batches.close()
  processes = {int(i) for batch in got for i in batch.pop('process')}
  assert len(processes) == workers and os.getpid() not in processes
  assert_equal(got, expected[1:])


@pytest.mark.parametrize('used', [0, 1, 3])
def test_a_saved_position_resumes_with_the_same_batches(used, expected):
  data = train_input(**WITH_NOISE)
  batches = iter(data)
  for _ in range(used):
    next(batches)
  state = json.loads(json.dumps(batches.get_state()))
  assert state == {'step': used}
  batches.close()
  again = iter(data)
  next(again)  # has read ahead of the restored position
  again.set_state(state)
  assert again.get_state() == state
  assert_equal([next(again) for _ in range(7 - used)], expected[used:])
  again.close()


def test_closing_keeps_the_position(expected):
  batches = iter(train_input(**WITH_NOISE))
  first = [next(batches), next(batches)]
  batches.close()
  assert_equal([*first, next(batches)], expected[:3])
  batches.close()


@pytest.mark.parametrize('count', [2, 4])
def test_the_rows_of_all_processes_are_the_batch_of_one(count, expected):
  parts = [take(train_input(**WITH_NOISE), 7, i, count) for i in range(count)]
  joined = [
    {name: np.concatenate([p[name] for p in same_step]) for name in same_step[0]}
    for same_step in zip(*parts, strict=True)
  ]
  assert len(parts[0][0]['id']) == 4 // count
  assert_equal(joined, expected)


def test_processes_may_come_and_go_within_an_epoch(expected):
  """Checks steps of one process, then two, then four: nothing is lost or repeated."""
  state, got = {'examples': 0}, []
  for count, steps in ((1, 2), (2, 3), (4, 2)):
    parts = []
    for index in range(count):
      batches = train_input(**WITH_NOISE).batches(rows_of(index, count))
      batches.set_state(state)
      parts.append(list(itertools.islice(batches, steps)))
      batches.close()
      new_state = batches.get_state()
    state = new_state
    got += [
      {name: np.concatenate([p[name] for p in same_step]) for name in same_step[0]}
      for same_step in zip(*parts, strict=True)
    ]
  assert_equal(got, expected)


def test_a_saved_position_serves_another_batch_size(expected):
  batches = iter(train_input(**WITH_NOISE | dict(batch_size=6)))
  batches.set_state({'examples': 12})
  got = next(batches)
  batches.close()
  want = {k: np.concatenate([b[k] for b in expected[3:5]])[:6] for k in expected[0]}
  assert_equal([got], [want])


def test_a_position_between_two_batches_is_refused():
  batches = iter(train_input(batch_size=5))
  with pytest.raises(UserError) as error:
    batches.set_state({'examples': 12})
  assert str(error.value) == (
    'train_data.batch_size=5 does not divide the 12 examples already used: take a'
    ' divisor of that number.'
  )


def test_an_empty_source_is_refused():
  with pytest.raises(UserError, match='holds no examples'):
    iter(pipeline.TrainInput(source=[], batch_size=2))


def test_the_length_of_an_epoch():
  assert train_input().examples_per_epoch == SIZE


def test_examples_may_be_dicts_of_dicts():
  source = [{'question': {'ids': np.arange(3), 'n': i}, 'id': i} for i in range(4)]
  data = pipeline.TrainInput(source=source, batch_size=4)
  (batch,) = take(data, 1)
  assert batch['question']['ids'].shape == (4, 3)
  assert batch['question']['ids'].dtype == np.int32
  assert sorted(batch['question']['n'].tolist()) == list(range(4))
  assert data.example()['question']['ids'].shape == (3,)
  assert data.abstract()['question']['ids'].shape == (4, 3)
  assert data.signatures(9) == {(): 1.0}
  (same,) = take(dataclasses.replace(data, workers=1), 1)
  np.testing.assert_array_equal(same['question']['n'], batch['question']['n'])


@pytest.mark.parametrize(
  'odd, told',
  [
    ({'question': {'ids': np.arange(4)}}, "'question/ids' has several shapes"),
    ({'question': {}}, "some examples have 'question/ids' and some do not"),
    ({'question': 3}, "'question' is a dict in some examples and an array in others"),
    ({'question': {'ids': np.full(3, 2**40)}}, 'question/ids holds 1099511627776'),
  ],
)
def test_errors_name_the_path_within_an_example(odd, told):
  with pytest.raises(UserError, match=told):
    pipeline.stack([{'question': {'ids': np.arange(3)}}, odd])


# Bad records

BAD = (2, 7)


class Damaged(Source):
  """EXAMPLES, but two cannot be read, and a third cannot be transformed."""

  def __len__(self):
    return SIZE

  def __getitem__(self, index):
    if index in BAD:
      raise BadRecordError(f'shard {index} ends too early')
    return EXAMPLES[index]

  def __repr__(self):
    return 'the damaged data'


@dataclasses.dataclass(frozen=True)
class Choosy(grain.transforms.Map):
  def map(self, example):
    if example['id'] == 4:
      raise BadRecordError('label 4 is too large')
    return example


def damaged(**options):
  options = {'bad_share': 1.0, 'batch_size': 5, 'threads': 1} | options
  return pipeline.TrainInput(
    source=Damaged(), transforms=[Draw(), Choosy()], seed=3, **options
  )


def told(data, count):
  """Returns batches, and the messages about replaced records of each step."""
  batches, got, news = iter(data), [], []
  for _ in range(count):
    got.append(next(batches))
    news.append(batches.news())
  batches.close()
  return got, news, batches.replaced


@pytest.fixture(scope='module')
def replaced():
  return told(damaged(), 6)


def test_bad_records_are_replaced_and_reported(replaced):
  got, news, count = replaced
  clean = take(
    pipeline.TrainInput(source=EXAMPLES, batch_size=5, seed=3, transforms=[Draw()]), 6
  )
  wrong = {*BAD, 4}
  for batch, other in zip(got, clean, strict=True):
    for place in range(5):
      assert batch['id'][place] not in wrong
      if other['id'][place] not in wrong:
        assert batch['id'][place] == other['id'][place]
      # Augmentation depends on the position, not on the record.
      assert batch['drawn'][place].tolist() == other['drawn'][place].tolist()
  lines = [line for step in news for line in step]
  assert len(lines) == count >= 9  # three in each of three epochs
  assert {line.partition(':')[0] for line in lines} == {
    f'record {i} of the damaged data' for i in wrong
  }
  assert 'record 7 of the damaged data: shard 7 ends too early' in lines
  assert 'record 4 of the damaged data: label 4 is too large' in lines
  assert 'replaced' not in ''.join(got[0])


@pytest.mark.parametrize('options', [dict(threads=3), dict(workers=2)])
def test_replacements_are_the_same_each_time(options, replaced):
  got, news, count = told(damaged(**options), 6)
  assert_equal(got, replaced[0])
  assert (news, count) == replaced[1:]


def test_more_bad_records_than_allowed_stop_the_run():
  # 3 in 10 records are bad, but only 5 of the first thousand may be.
  batches = iter(damaged(bad_share=0.005))
  with pytest.raises(UserError) as error:
    for _ in range(20):
      next(batches)
  batches.close()
  assert re.fullmatch(
    r'[6-8] of 1[05] examples could not be used, more than train_data.bad_share=0.005'
    ' allows: repair the data, or raise bad_share.',
    str(error.value),
  ), error.value
  assert len(batches.news()) == batches.replaced > 5


def test_a_source_of_bad_records_alone():
  source = [{'id': np.int64(4)}] * 3
  data = pipeline.TrainInput(source=source, batch_size=1, transforms=[Choosy()])
  with pytest.raises(UserError, match='11 records in a row could not be used; record'):
    take(data, 1)


def test_evaluation_stops_at_a_bad_record():
  data = pipeline.EvalInput(source=Damaged(), batch_size=2)
  with pytest.raises(BadRecordError, match='shard 2 ends too early'):
    list(data.epoch())


PROGRAM = """
import sys
sys.path.insert(0, 'tests/data/input')
import pipeline_test as test
test.serve(made={made})
"""


def serve(made: bool) -> None:
  """Starts workers, prints their process ids and waits to be killed."""
  batches = iter(train_input(transforms=[Process()], workers=2))
  if made:
    next(batches), next(batches)
  else:
    batches._iterator = pipeline._started(batches._batches, 2, 1, 'train_data')
  print(*[process.pid for process, _ in batches._iterator._processes], flush=True)
  sys.stdin.read()


@pytest.mark.parametrize('made', [True, False])
def test_a_program_that_is_killed_leaves_nothing(made):
  # Unless a batch is `made`, the program dies before its workers have imported
  # anything.
  command = [sys.executable, '-c', PROGRAM.format(made=made)]
  pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  with subprocess.Popen(command, **pipes) as program:
    workers = [int(word) for word in program.stdout.readline().split()]
    assert len(set(workers)) == 2 and all(map(running, workers))
    # Shared memory with a name would outlive the processes.
    assert not any(map(shared_memory_of, [program.pid, *workers]))
    program.kill()
    assert program.stderr.read() == b''  # the workers have closed it
  limit = time.monotonic() + 20
  while any(map(running, workers)) and time.monotonic() < limit:
    time.sleep(0.05)
  assert not any(map(running, workers))


def running(process: int) -> bool:
  try:
    state = pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2]
  except OSError:
    return False
  return state.split()[0] != 'Z'


def shared_memory_of(process: int) -> list[str]:
  """Returns the files in /dev/shm that a process has open or mapped."""
  folder = pathlib.Path(f'/proc/{process}')
  opened = [os.readlink(link) for link in (folder / 'fd').iterdir()]
  lines = [*opened, *(folder / 'maps').read_text().splitlines()]
  return [line for line in lines if '/dev/shm/' in line]


def test_a_killed_worker_is_reported():
  batches = iter(train_input(workers=1))
  next(batches)
  ((process, _),) = batches._iterator._processes
  # Signals that a terminal sends to all processes are left to the main program.
  process.send_signal(signal.SIGINT)
  process.send_signal(signal.SIGTERM)
  next(batches)
  process.kill()
  with pytest.raises(UserError) as error:
    list(batches)
  assert str(error.value) == (
    'a worker process of train_data was killed by SIGKILL: is there enough memory for'
    ' 1 of them? Run the same command again, or set train_data.workers lower.'
  )
  batches.close()
  batches.set_state({'step': 2})
  assert next(batches)['id'].shape == (4,)
  batches.close()


class Odd(Exception):
  """An error that cannot be unpickled: `args` are not its constructor's arguments."""

  def __init__(self, first, second):
    super().__init__(f'{first} and {second}')


@dataclasses.dataclass(frozen=True)
class Fails(grain.transforms.Map):
  """Raises an error at example 3, or returns something that cannot be pickled."""

  error: str

  def map(self, example):
    if example['id'] != 3:
      return example
    if self.error == 'unsendable':
      return example | {'id': threading.Lock()}
    raise {'odd': Odd('this', 'that'), 'plain': KeyError('name')}[self.error]


@pytest.mark.parametrize(
  'error, kind, told',
  [
    ('odd', RuntimeError, 'Odd: this and that'),
    ('plain', KeyError, 'name'),
    ('unsendable', TypeError, 'pickle'),
  ],
)
def test_errors_of_workers_are_raised_with_their_traceback(error, kind, told):
  data = pipeline.EvalInput(
    source=EXAMPLES, batch_size=1, workers=1, transforms=[Fails(error)]
  )
  batches = data.batches()
  assert [next(batches)['id'].item() for _ in range(3)] == [0, 1, 2]
  with pytest.raises(kind, match=told) as caught:
    next(batches)
  assert 'In a worker process:\nTraceback' in caught.value.__notes__[-1]
  batches.close()


def test_values_that_workers_send():
  record = {
    'empty': np.zeros((0, 3), np.float32),
    'columns': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'text': np.str_('words'),
    'nested': {'flag': np.bool_(True), 'objects': np.array([None, {}], object)},
  }
  epochs = [
    list(pipeline.EvalInput(source=[record] * 3, batch_size=2, workers=count).epoch())
    for count in (0, 3)  # with 0, one of the workers has nothing to do
  ]
  for batch, other in zip(*epochs, strict=True):
    for one, same in zip(base.leaves(batch), base.leaves(other), strict=True):
      assert one.dtype == same.dtype and one.tolist() == same.tolist()
      same[...] = same  # arrays are writable


# Evaluation


def eval_input(batch_size, **options):
  return pipeline.EvalInput(source=EXAMPLES, batch_size=batch_size, **options)


@pytest.mark.parametrize('batch_size', [1, 4, 5, 10, 16])
def test_every_example_comes_once_and_in_order(batch_size):
  batches = list(eval_input(batch_size).epoch())
  assert len(batches) == -(-SIZE // batch_size)
  for batch in batches:
    assert batch['mask'].shape == (batch_size,) and batch['mask'].dtype == bool
    assert batch['image'].shape == (batch_size, 8, 8, 1)
  masks = np.concatenate([batch['mask'] for batch in batches])
  assert masks.tolist() == [True] * SIZE + [False] * (len(masks) - SIZE)
  index_N, real_N = eval_input(batch_size).order
  assert index_N.dtype == np.int64 and index_N.tolist() == ids(batches)
  assert real_N.dtype == bool and real_N.tolist() == masks.tolist()
  assert np.array(ids(batches))[masks].tolist() == list(range(SIZE))


def test_an_epoch_can_be_read_again():
  data = eval_input(4, transforms=[Double()])
  first, second = list(data.epoch()), list(data.epoch())
  assert_equal(first, second)
  np.testing.assert_array_equal(first[0]['label'], [0, 2, 4, 0])


def test_evaluation_can_start_at_a_batch():
  batches = eval_input(4).batches()
  batches.set_state({'step': 1})
  assert_equal(list(batches), list(eval_input(4).epoch())[1:])
  assert batches.get_state() == {'step': 3} and batches.news() == []
  batches.close()
  assert_equal([eval_input(4).first()], [next(eval_input(4).epoch())])


def test_an_epoch_may_be_left_early():
  epoch = eval_input(2, threads=4).epoch()
  np.testing.assert_array_equal(next(epoch)['id'], [0, 1])
  epoch.close()


@pytest.mark.parametrize('count', [2, 4])
def test_every_example_comes_once_over_all_processes(count):
  want = list(eval_input(4).epoch())
  parts = [list(eval_input(4).epoch(rows_of(i, count))) for i in range(count)]
  joined = [
    {name: np.concatenate([p[name] for p in same_step]) for name in same_step[0]}
    for same_step in zip(*parts, strict=True)
  ]
  assert_equal(joined, want)


def test_random_transforms_are_refused():
  with pytest.raises(UserError, match='RandomAffine is random, which evaluation does'):
    eval_input(4, transforms=[Double(), image.RandomAffine(rotate=10.0)])


@pytest.mark.parametrize(
  'field, value',
  [('batch_size', 0), ('workers', -1), ('threads', -1), ('seed', -1), ('repeats', 0)],
)
def test_numbers_that_are_too_small_are_named(field, value):
  with pytest.raises(UserError, match=f'{field}={value} is too small: it must be'):
    train_input(**WITH_NOISE | {field: value})
