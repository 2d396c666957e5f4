import contextlib
import dataclasses

import numpy as np
import pytest

from big_vision_like.data.input import joined, pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import boxes
from big_vision_like.errors import BadRecordError, UserError


@dataclasses.dataclass(frozen=True)
class Numbers(Source):
  """A source of its index and its name; some records are bad."""

  count: int
  offset: int = 0
  bad: tuple[int, ...] = ()

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.bad:
      raise BadRecordError('damaged')
    return {'id': np.int32(self.offset + index)}


def inputs(**options):
  return {
    'labelled': pipeline.TrainInput(source=Numbers(10, 100), batch_size=4, seed=1),
    'unlabelled': pipeline.TrainInput(
      source=Numbers(50, 200, **options), batch_size=8, seed=2
    ),
  }


def take(data, count, rows_of=np.arange, start=0):
  batches = data.batches(rows_of)
  batches.set_state({'step': start})
  try:
    return [next(batches) for _ in range(count)], batches.get_state(), batches.news()
  finally:
    batches.close()


def assert_equal(found, expected):
  for batch, other in zip(found, expected, strict=True):
    assert batch.keys() == other.keys() == {'labelled', 'unlabelled'}
    for name, part in batch.items():
      np.testing.assert_array_equal(part['id'], other[name]['id'])


def test_each_step_has_the_own_batch_of_every_input():
  batches, state, _ = take(joined.Joined(inputs=inputs()), 7)
  assert state == {'step': 7}
  for name, data in inputs().items():
    with contextlib.closing(data.batches()) as own:
      for batch in batches:
        np.testing.assert_array_equal(batch[name]['id'], next(own)['id'])


def test_a_stream_resumes_anywhere():
  data = joined.Joined(inputs=inputs())
  whole, *_ = take(data, 9)
  rest, state, _ = take(data, 5, start=4)
  assert_equal(rest, whole[4:])
  assert state == {'step': 9}


def test_processes_read_the_same_share_of_every_part():
  data = joined.Joined(inputs=inputs())
  whole, *_ = take(data, 3)

  def rows_of(process):
    return lambda size: np.arange(size)[size // 2 * process : size // 2 * (process + 1)]

  halves = [take(data, 3, rows_of(process))[0] for process in range(2)]
  together = [
    {
      name: {'id': np.concatenate([half[step][name]['id'] for half in halves])}
      for name in data.inputs
    }
    for step in range(3)
  ]
  assert_equal(together, whole)


def test_epochs_come_from_one_input():
  data = joined.Joined(inputs=inputs(), epoch_of='labelled')
  assert data.batch_size == 12
  assert data.examples_per_epoch / data.batch_size == 10 / 4
  assert joined.Joined(inputs=inputs()).examples_per_epoch == 60
  assert data.exact_shares == {'labelled': 1.0, 'unlabelled': 1.0}
  shapes = data.abstract()
  assert shapes['labelled']['id'].shape == (4,)
  assert shapes['unlabelled']['id'].shape == (8,)


def test_bad_records_are_reported_with_their_input():
  _, _, news = take(joined.Joined(inputs=inputs(bad=(3,))), 7)
  assert len(news) == 1 and news[0].startswith('unlabelled: record 3 of')


@pytest.mark.parametrize(
  'made, words',
  [
    (lambda: {}, 'needs inputs'),
    (lambda: {'labelled': [1]}, 'inputs.labelled must be a TrainInput, not list'),
    (
      lambda: {
        'boxes': pipeline.TrainInput(
          source=Numbers(4),
          batch_size=2,
          transforms=[boxes.Pad(sizes=((8, 8), (8, 16)), max_boxes=2)],
        )
      },
      'inputs.boxes pads to several shapes',
    ),
  ],
)
def test_inputs_that_cannot_be_joined_are_reported(made, words):
  with pytest.raises(UserError, match=words):
    joined.Joined(inputs=made())


def test_a_run_with_one_input_does_not_resume():
  batches = joined.Joined(inputs=inputs()).batches()
  with pytest.raises(UserError, match='not with several together'):
    batches.set_state({'examples': 4})
