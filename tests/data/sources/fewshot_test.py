import pickle

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import fewshot, tfds
from big_vision_like.errors import UserError


@pytest.fixture(scope='module')
def digits(data_dir):
  return tfds.Tfds('digits', 'train', data_dir=str(data_dir))


def test_as_many_of_each_class(digits):
  few = fewshot.PerClass(digits, count=3)
  assert len(few) == 30
  labels = [few[i]['label'] for i in range(len(few))]
  assert np.bincount(labels).tolist() == [3] * 10


def test_another_seed_draws_others(digits):
  def ids(seed):
    few = fewshot.PerClass(digits, count=2, seed=seed)
    return [few[i]['id'] for i in range(len(few))]

  assert ids(0) == ids(0)
  assert len({*ids(0)} & {*ids(1)}) < 10


def test_rare_classes_give_all_their_examples_and_are_reported(digits):
  every = fewshot.PerClass(digits, count=135)
  counts = np.bincount([digits[i]['label'] for i in range(len(digits))])
  assert len(every) == np.minimum(counts, 135).sum() < 1350
  told = [f'class {k} has {n} of 135 examples' for k, n in enumerate(counts) if n < 135]
  more = f' and {len(told) - 3} more' if len(told) > 3 else ''
  assert told and every.remarks() == [', '.join(told[:3]) + more]
  assert fewshot.PerClass(digits, count=3).remarks() == []


def test_no_examples_are_refused(digits):
  with pytest.raises(UserError, match='count=0 .* shots must be at least 1'):
    len(fewshot.PerClass(digits, count=0))


def test_small_classes_fill_large_batches_in_workers_too(digits):
  few = pickle.loads(pickle.dumps(fewshot.PerClass(digits, count=1)))
  data = pipeline.TrainInput(source=few, batch_size=25)
  labels = next(iter(data))['label']
  assert set(np.bincount(labels[:10])) == {1} == set(np.bincount(labels[10:20]))


def test_planned_without_data(digits, tmp_path):
  few = fewshot.PerClass(digits, count=2, classes=10)
  assert few.planned() is few
  absent = tfds.Tfds('cifar10', data_dir=str(tmp_path), examples=50_000)
  assert len(fewshot.PerClass(absent, count=2, classes=10).planned()) == 20
