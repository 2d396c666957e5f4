import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions as transforms
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import caption_scores, captions

TEXTS = (
  ('a dog runs', 'the dog is running fast'),
  ('two cats sit on a mat', 'cats on a red mat', 'a mat'),
  ('a man rides a horse', 'a person on a horse'),
  ('a dog sleeps', 'the small dog sleeps on a mat'),
  ('a horse', 'one horse stands'),
)
FOUND = ('a dog runs', 'a cat on a mat', 'a man on a a horse', '', 'a horse stands now')
VOCABULARY = words.Words(
  words=tuple(sorted({word for text in (*FOUND, 'dog') for word in text.split()}))
)


def split(texts):
  return [text.split() for text in texts]


def test_bleu_of_a_small_corpus():
  # 'the the the' against 'the cat the': two of three words, no pair of three.
  bleu = caption_scores.bleu([['the'] * 3], [[['the', 'cat', 'the', 'end', 'x']]])
  assert bleu.without_penalty[0] == pytest.approx(2 / 3)
  assert bleu.scores[0] == pytest.approx(2 / 3 * math.exp(1 - 5 / 3))
  assert bleu.without_penalty[1] < 1e-6 and bleu.length_ratio == pytest.approx(3 / 5)
  # Of lengths 2 and 4, equally close to 3, the shorter counts.
  bleu = caption_scores.bleu([list('abc')], [[list('ab'), list('abcd')]])
  assert bleu.length_ratio == pytest.approx(3 / 2) and bleu.scores[2] > 0.99


def test_rouge_l():
  assert caption_scores.rouge_l('a b c d'.split(), ['a x c d y'.split()]) == (
    pytest.approx((1 + 1.44) * 0.75 * 0.6 / (0.6 + 1.44 * 0.75))
  )
  assert caption_scores.rouge_l([], [['a']]) == 0.0
  assert caption_scores.rouge_l(['b'], [['a']]) == 0.0


def test_cider_d_prefers_rare_words():
  references = [split(own) for own in TEXTS]
  exact = caption_scores.cider_d([own[0] for own in references], references)
  assert min(exact) > 1.0
  (common, rare, *_) = caption_scores.cider_d(
    split(('a', 'mat', 'a', 'a', 'a')), references
  )
  assert rare > 10 * common
  # A word repeated to the length of the reference gains nothing from its repetition.
  repeated = caption_scores.cider_d(split(('dog dog dog', *FOUND[1:])), references)[0]
  assert repeated < exact[0] / 4


def evaluator(batch_size=2, **options):
  source = [
    {
      'image': np.full((2, 2, 1), i, np.uint8),
      'captions': np.array([text.encode() for text in own], object),
      'id': np.int32(i),
    }
    for i, own in enumerate(TEXTS)
  ]
  encode = transforms.Encode(VOCABULARY, length=9)
  data = pipeline.EvalInput(source=source, batch_size=batch_size, transforms=[encode])
  return captions.CaptionScores(data=data, vocabulary=VOCABULARY, **options)


def predict(state, batch, key):
  rows = [[*VOCABULARY.encode(text), 2] for text in FOUND]
  ids = np.zeros((len(FOUND), 9), np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
  ids[4, 4:] = 5  # without an end
  found = jnp.asarray(ids)[batch['id']]
  return {'ids': jnp.where(batch['mask'][:, None], found, 7)}


@pytest.mark.parametrize(('batch_size', 'devices'), [(2, 1), (8, 8)])
def test_the_same_scores_on_any_number_of_devices(batch_size, devices):
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  results = evaluator(batch_size).run(predict, jnp.float32(0), mesh)
  got = dict(results.scalars)
  found = [*FOUND[:4], 'a horse stands now' + ' a' * 5]
  found[4] = VOCABULARY.decode([*VOCABULARY.encode(FOUND[4]), 5, 5, 5, 5, 5])
  want = captions.scores(split(found), [split(own) for own in TEXTS])
  assert {name: got[name] for name in want} == pytest.approx(want)
  assert got['unfinished'] == pytest.approx(1 / 5) and got['exact'] == 1 / 5
  every = [word for own in TEXTS for text in own for word in text.split()]
  unknown = [word not in VOCABULARY.ids for word in every]
  assert got['unknown_words'] == pytest.approx(np.mean(unknown)) and any(unknown)
  assert results.texts['captions'][:2] == ('a dog runs', 'a cat on a mat') or (
    results.texts['captions'][:2] == ['a dog runs', 'a cat on a mat']
  )


def test_images_without_captions_are_named():
  made = evaluator()
  made.data.source[3]['captions'] = np.array([b' ...'], object)
  with pytest.raises(UserError, match='id 3 has no caption with words'):
    made.references(3)


def test_the_largest_weight_must_be_in_the_span_of_its_word():
  attention = np.zeros((2, 4, 2, 4), np.float32)
  # Cells are 4 columns wide: centers are at 2, 6, 10 and 14.
  for row, places in enumerate([(0, 3, 1, 0), (2, 2, 0, 0)]):
    for word, column in enumerate(places):
      attention[row, word, word % 2, column] = 1
  spans = np.array([[[0, 5], [10, 16], [5, 7]], [[0, 8], [10, 11], [-1, -1]]], np.int64)
  source = [
    {'image': np.zeros((2, 16, 1), np.uint8), 'spans': spans[i], 'id': np.int32(i)}
    for i in range(2)
  ]
  data = pipeline.EvalInput(source=source, batch_size=2, transforms=[])
  made = captions.AttentionPlaces(data=data)
  ids = np.array([[4, 4, 4, 2], [4, 4, 2, 0]])
  given = {'attention': jnp.asarray(attention), 'ids': jnp.asarray(ids)}
  results = made.run(lambda state, batch, key: given, jnp.float32(0))
  # Right: all three words of the first image, the second word of the other.
  assert results.scalars['right_place'] == pytest.approx(4 / 5)
  none = given | {'ids': jnp.zeros((2, 4), jnp.int32)}
  with pytest.raises(UserError, match='no word is about a part'):
    made.run(lambda state, batch, key: none, jnp.float32(0))
