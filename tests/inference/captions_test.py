import types

import battery
import jax
import numpy as np
import pytest

from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions as transforms
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.inference import captions, predict_captions
from big_vision_like.models import captioning, vgg
from big_vision_like.spec import spec

VOCABULARY = words.Words(words=('a', 'dog', 'runs'))
PICTURE = (127.5 + 127.5 * battery.images(12, 20, 3)).astype(np.uint8)
PREPROCESS = captions.CaptionPreprocessing(
  size=(8, 12),
  label_names=(*words.SPECIAL, *VOCABULARY.words),
  length=4,
  alpha=5.0,  # prefers long captions
)


def small_model():
  decoder = captioning.RecurrentDecoder(
    vocab_size=VOCABULARY.size,
    **captioning.variant('tutorial') | dict(word_width=6, units=8, attention_width=5),
  )
  model = captioning.Captioner(vgg.VGG((1, 1), channels=(4, 6)), decoder, read='stage2')
  ids = np.ones((1, 2), np.int32)
  variables = battery.variables(model, battery.images(1, 8, 12, 3), ids)
  # Captions of words, which end.
  bias = np.array([-9, -9, 0.5, -9, 0, 0, 0], np.float32)
  variables['params']['decoder']['out']['head']['bias'] = bias
  return model, variables


@pytest.fixture(scope='module')
def writer():
  made = predict_captions.Writer(*small_model(), PREPROCESS, top=2)
  made.draws = True
  return made


def test_the_best_captions_with_a_picture_word_by_word(writer):
  rows, found, pictures = writer(PICTURE)
  assert len(rows) == len(found) <= 2  # as many as have ended
  assert [one['score'] for one in found] == sorted(
    (one['score'] for one in found), reverse=True
  )
  assert rows[0] == (found[0]['caption'], f'{found[0]["score"]:.3f}')
  assert {*found[0]['caption'].split()} <= {*VOCABULARY.words, *words.SPECIAL}
  # The score is the log probability of the words, given the model's own words, divided
  # by the penalty.
  model, variables = writer.model, writer.variables
  ids = [VOCABULARY.ids[word] for word in found[0]['caption'].split()]
  ids = (ids + [2])[:4]
  read = np.array([[1, *ids[:-1]]])
  logits = model.apply(variables, PREPROCESS(PICTURE)[None], read)['logits'][0]
  logp = jax.nn.log_softmax(logits)[np.arange(len(ids)), ids].sum()
  penalty = ((5 + len(ids)) / 6) ** 5.0
  assert found[0]['score'] == pytest.approx(float(logp) / penalty, abs=1e-4)
  sheet = pictures['']
  # The image and one copy for each word, next to each other.
  count = 1 + len(found[0]['caption'].split())
  assert sheet.shape[1] == count * (sheet.shape[1] + 6) // count - 6
  assert sheet.dtype == np.uint8 and sheet.ndim == 3
  writer(PICTURE[::-1])
  assert writer._search._cache_size() == writer._look._cache_size() == 1


def test_preprocessing_of_images_and_words():
  assert PREPROCESS(PICTURE).shape == (8, 12, 3)
  assert PREPROCESS.words([1, 4, 5, 2, 6]) == ['a', 'dog']
  assert PREPROCESS.with_size((4, 4))(PICTURE).shape == (4, 4, 3)
  again = captions.CaptionPreprocessing.from_json(PREPROCESS.to_json())
  assert again == PREPROCESS and str(PREPROCESS).startswith('8x12')
  with pytest.raises(UserError, match='is not a positive height and width'):
    captions.CaptionPreprocessing(size=(0, 3))
  with pytest.raises(UserError, match='--top=0 is not positive'):
    predict_captions.Writer(None, None, PREPROCESS, top=0)


def run_of(tmp_path, vocabulary):
  steps = [
    spec(image.Decode),
    spec(image.Resize, size=(8, 12), method='area'),
    spec(transforms.Encode, vocabulary=vocabulary, length=5),
  ]
  task = types.SimpleNamespace(
    inputs=('image',), bos_id=1, eos_id=2, length=7, alpha=0.5
  )
  network = types.SimpleNamespace(images=(0.5, 0.25))
  return types.SimpleNamespace(
    workdir=tmp_path,
    config={'train_data': {'transforms': steps}, 'task': {}},
    task=task,
    network=network,
    state=types.SimpleNamespace(step=3),
  )


def test_the_preprocessing_of_a_run(tmp_path, monkeypatch):
  monkeypatch.setattr(captions.classes.loading, 'trained_names', lambda *_: ())
  node = spec(words.Words, words=VOCABULARY.words)
  run = run_of(tmp_path, node)
  monkeypatch.setattr(
    captions.classes.loading, 'encoded_images', lambda config: config['train_data']
  )
  found = captions.of_run(run)
  assert found.size == (8, 12) and found.interpolation == 'area'
  assert found.label_names == (*words.SPECIAL, 'a', 'dog', 'runs')
  assert (found.length, found.alpha, found.std) == (7, 0.5, (0.25,) * 3)
  run.config['train_data']['transforms'] = []
  with pytest.raises(UserError, match='names no vocabulary'):
    captions.vocabulary_of(run)
