"""Tests of the one path through evaluation data: keys, masks, order, pictures."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import texts

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import boxes
from big_vision_like.data.transforms import text as text_transforms
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import classification, evaluator, translation
from big_vision_like.run import experiment

SHAPES = ((16, 32), (32, 16))


@dataclasses.dataclass(kw_only=True)
class Noted(evaluator.Evaluator):
  """An evaluator that returns the predictions of each example."""

  def reports(self):
    return {}

  def measure(self, outputs, batch):
    return {name: x for name, x in outputs.items() if name != 'picture'}

  def run(self, predict, state, mesh=None):
    return self.joined(self.measure, predict, state, mesh)


def examples(count=11):
  return [{'number': np.int32(3 * i)} for i in range(count)]


def noted(batch_size=4, source=None, transforms=()):
  data = pipeline.EvalInput(
    source=examples() if source is None else source,
    batch_size=batch_size,
    transforms=transforms,
  )
  return Noted(data=data)


def noise(state, batch, key):
  return {
    'noise': jax.random.normal(key, (len(batch['number']),)),
    'number': batch['number'],
  }


@pytest.mark.parametrize('devices', [1, 8])
def test_each_batch_has_noise_of_its_own(devices):
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  found = noted(8, examples(43)).run(noise, None, mesh)
  assert len(np.unique(found.values['noise'])) == 43
  again = noted(8, examples(43)).run(noise, None, mesh)
  np.testing.assert_array_equal(again.values['noise'], found.values['noise'])


@pytest.mark.parametrize('batch_size, devices', [(11, 1), (4, 1), (16, 8)])
def test_padding_rows_are_left_out_and_examples_known(batch_size, devices):
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  found = noted(batch_size).run(noise, None, mesh)
  np.testing.assert_array_equal(found.index_N, np.arange(11))
  np.testing.assert_array_equal(found.values['number'], 3 * np.arange(11))


def test_some_examples_may_not_count():
  even = noted()

  def measure(outputs, batch):
    return outputs | {'count': batch['number'] % 2 == 0}

  draw = lambda outputs, batch: {'picture': batch['number']}  # noqa: E731
  found = even.joined(measure, noise, None, draw=draw, pictures=3)
  np.testing.assert_array_equal(found.index_N, [0, 2, 4, 6, 8, 10])
  assert [row['picture'] for row in found.drawn] == [0, 6, 12]
  limited = even.joined(measure, noise, None, limit=3)
  np.testing.assert_array_equal(limited.index_N, [0, 2, 4])
  chosen = even.chosen(measure, noise, None, [8, 2])
  assert [row['number'] for row in chosen] == [24, 6]
  whole = dict(zip(found.index_N, found.values['noise'], strict=True))
  assert [row['noise'] for row in chosen] == [whole[8], whole[2]]


def test_a_limit_reads_no_further():
  read = collections.Counter()

  class Watched(list):
    def __getitem__(self, index):
      read[index] += 1
      return super().__getitem__(index)

  made = noted(4, Watched(examples(40)))
  rows = list(made.rows(made.measure, noise, None, limit=5))
  assert sum(len(part.index_N) for part in rows) == 8
  assert max(read) < 40 - 8  # some examples are prefetched, but not the last ones


def pictures():
  """Returns landscapes and portraits alternately; padded, they have two shapes."""
  return [
    {
      'image': np.full((10, 20, 3) if i % 2 else (20, 10, 3), i, np.uint8),
      'objects': {'bbox': np.zeros((0, 4), np.float32), 'label': np.zeros(0, int)},
      'number': np.int32(i),
    }
    for i in range(9)
  ]


def test_batches_of_several_shapes_are_joined_in_order_of_the_source():
  pad = boxes.Pad(sizes=SHAPES, max_boxes=2)
  made = noted(4, pictures(), [boxes.Objects(), pad])

  def look(state, batch, key):
    return {'number': batch['number'], 'first': batch['image'][:, 0]}

  seen = [p.index_N.tolist() for p in made.rows(made.measure, look, None)]
  assert [i for part in seen for i in part] != sorted(i for part in seen for i in part)
  found = made.run(look, None)
  np.testing.assert_array_equal(found.values['number'], np.arange(9))
  # Rows of pixels are padded to the longest one.
  assert found.values['first'].shape == (9, 32, 3)
  np.testing.assert_array_equal(found.values['first'][:, 0, 0], np.arange(9))


def test_translations_of_reordered_batches_meet_their_references(vocabulary):
  """Checks sequences of several lengths, whose batches are not in source order."""
  pairs = sorted(texts.PAIRS[:11], key=lambda pair: -len(pair['de']))
  pairs = pairs[::2] + pairs[1::2]
  source = [
    {'de': p['de'].encode(), 'en': p['en'].encode(), 'id': np.int32(i)}
    for i, p in enumerate(pairs)
  ]
  ids = np.zeros((11, 40), np.int32)
  for row, pair in zip(ids, pairs, strict=True):
    found = [*vocabulary.encode(pair['en']), vocabulary.eos_id]
    row[: len(found)] = found

  def translate(state, batch, key):
    return {'ids': jnp.asarray(ids)[batch['id']]}

  tokenize = text_transforms.Tokenize(vocabulary, source='de', target='en')
  short = int(np.median([len(vocabulary.encode(pair['de'])) + 1 for pair in pairs]))
  lengths = ((short, 40), (40, 40))
  data = pipeline.EvalInput(
    source=source,
    batch_size=4,
    transforms=[tokenize, text_transforms.Buckets(lengths, tokenize=tokenize)],
  )
  index, _ = data.order
  assert index.tolist() != sorted(index.tolist())
  bleu = translation.Bleu(data=data, vocabulary=vocabulary, target='en')
  assert bleu.run(translate, None).scalars['bleu'] == pytest.approx(100.0)


def test_only_the_prediction_that_is_named_is_traced():
  traced = []

  def method(name):
    def predict(state, batch, key, scale=1.0):
      traced.append((name, scale))
      return {'number': scale * batch['number']}

    return predict

  @dataclasses.dataclass
  class Task:
    def prediction(self, name, **arguments):
      return lambda *args: method(name)(*args, **arguments)

  task, made = Task(), noted()
  made.predict, made.predict_args = 'generate', {'scale': 2.0}
  for _ in range(2):  # the second pass reuses the compiled program
    found = made.run(made.prediction(task), None)
  np.testing.assert_array_equal(found.values['number'], 6.0 * np.arange(11))
  assert traced == [('generate', 2.0)]


def test_which_of_two_values_is_better():
  data = pipeline.EvalInput(source=examples(), batch_size=4)
  evaluators = {'val': classification.Accuracy(data=data)}
  assert experiment.best_is('val/top1', evaluators) == 'max'
  assert experiment.best_is('val/loss', evaluators) == 'min'
  for name in ('val/top', 'test/top1', 'top1', 'val/top1x'):
    with pytest.raises(UserError, match='by no evaluator; there are val/top1, val/t'):
      experiment.best_is(name, evaluators)
