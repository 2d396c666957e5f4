import dataclasses
import gc
import itertools
import pathlib
import pickle
import resource
import signal

import grain
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import memory
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import image
from big_vision_like.errors import BadRecordError, UserError


@dataclasses.dataclass
class Counted(Source):
  """A source that counts how often it is read; example 3 is broken."""

  reads: int = 0

  def __len__(self):
    return 8

  def __getitem__(self, index):
    self.reads += 1
    if index == 3:
      raise BadRecordError('example 3 is broken')
    value = np.uint8(index)
    return {'image': np.full((4 + index, 4, 1), value), 'id': np.int64(index)}


@dataclasses.dataclass(frozen=True)
class Negative(grain.transforms.Map):
  def map(self, example):
    return example | {'image': 255 - example['image']}


def test_examples_are_made_once():
  source = Counted()
  cached = memory.Cached(source, [Negative()])
  assert len(cached) == 8
  for _ in range(3):
    for index in (0, 5, 7):
      example = cached[index]
      assert example['id'] == index and type(example['id']) is np.int64
      assert example['image'].shape == (4 + index, 4, 1)
      assert (example['image'] == 255 - index).all()
      example['image'][:] = 1  # the caller owns the array
  assert source.reads == 8


def test_bad_records_are_raised_when_requested():
  with pytest.raises(BadRecordError, match='example 3 is broken'):
    memory.Cached(Counted())[3]


def test_batches_match_those_without_a_cache():
  data = pipeline.TrainInput(
    source=Counted(), transforms=[Negative(), image.Resize(4)], batch_size=4
  )
  cached = dataclasses.replace(
    data,
    source=memory.Cached(Counted(), [Negative(), image.Resize(4)]),
    transforms=[],
    workers=1,
  )
  cached = dataclasses.replace(cached, bad_share=1.0)
  found = []
  for own in (dataclasses.replace(data, bad_share=1.0), cached):
    batches = iter(own)
    found.append(list(itertools.islice(batches, 5)))
    batches.close()
  for batch, other in zip(*found, strict=True):
    np.testing.assert_array_equal(batch['image'], other['image'])


def test_copies_share_the_memory():
  source = Counted()
  cached = memory.Cached(source)
  copy = pickle.loads(pickle.dumps(cached))
  assert source.reads == 8 and copy.kept[0] == cached.kept[0]
  assert copy[5]['id'] == 5 and copy.source.reads == 8


def test_memory_is_given_back():
  cached = memory.Cached(Counted())
  file = pathlib.Path(cached.kept[0])
  assert cached[0] and file.exists()
  assert file.stat().st_nlink == 0  # has no name that could outlive a killed process
  del cached
  gc.collect()
  assert not file.exists()


def test_full_memory_is_reported(tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'SHARED', tmp_path)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
  try:
    with pytest.raises(UserError, match='[1-5] of the 8 examples of') as error:
      memory.Cached(Counted())[0]
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert f'fill {tmp_path}: make it larger' in str(error.value)


def test_wrong_arguments_are_refused():
  with pytest.raises(
    UserError, match='more memory than limit_gib=1e-08: cache smaller'
  ):
    memory.Cached(Counted(), limit_gib=1e-8)[0]
  with pytest.raises(UserError, match='Flip is random'):
    memory.Cached(Counted(), [image.Flip()])
  with pytest.raises(IndexError):
    memory.Cached(Counted())[8]
