import json
import pickle

import cv2
import numpy as np
import pytest

from big_vision_like.data.sources import captions
from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions as transforms
from big_vision_like.errors import BadRecordError, UserError

VOCABULARY = words.Words(words=('a', 'dog', 'cat', 'runs'))


def entry(name, split, *texts, **more):
  sentences = [{'raw': f'{t.capitalize()}.', 'tokens': t.split()} for t in texts]
  return {'filename': name, 'split': split, 'sentences': sentences, 'imgid': 7} | more


def write(root, *entries, missing=()):
  for one in entries:
    if one['filename'] not in missing:
      path = root / 'images' / one.get('filepath', '') / one['filename']
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(cv2.imencode('.png', np.zeros((2, 3, 3), np.uint8))[1].tobytes())
  file = root / 'dataset.json'
  file.write_text(json.dumps({'images': entries, 'dataset': 'ours'}))
  return dict(file=str(file), images=str(root / 'images'))


@pytest.fixture
def where(tmp_path):
  return write(
    tmp_path,
    entry('1.png', 'train', 'a dog', 'a cat runs', filepath='val2014', cocoid=42),
    entry('2.png', 'val', 'a cat'),
    entry('3.png', 'restval', '', 'a dog runs a cat runs'),
    entry('4.png', 'train'),
  )


def test_images_with_their_captions(where):
  source = captions.Captions(**where)
  assert len(source) == 1 and source.left_out == {'images without captions': 1}
  example = source[0]
  assert example['captions'].tolist() == [b'a dog', b'a cat runs']
  assert example['id'] == 42 and example['image'][1:4] == b'PNG'
  raw = captions.Captions(**where, text='raw')
  assert raw[0]['captions'].tolist() == [b'A dog.', b'A cat runs.']
  assert raw.fingerprint() != source.fingerprint()
  again = pickle.loads(pickle.dumps(source))
  assert again.fingerprint() == source.fingerprint() and not source.problems()
  assert {*source.features} == {'image', 'captions', 'id'}


def test_captions_as_examples_of_joined_splits(where):
  source = captions.Captions(
    **where, split='train+restval', each='caption', max_words=5
  )
  assert [row.captions for row in source.rows] == [('a dog',), ('a cat runs',)]
  assert source.left_out == {
    'captions without words': 1,
    'captions of more than 5 words': 1,
    'images without captions': 2,
  }


def test_plans_without_the_data(where, tmp_path):
  source = captions.Captions(**where)
  assert source.planned() is source
  gone = captions.Captions(file='nowhere.json', images='x', examples=9).planned()
  encode = transforms.Encode(words.Words(path='nowhere'), length=5)
  assert len(gone) == 9 and encode.map(gone[8])['target'].tolist() == [4, 5, 6, 2, 0]
  with pytest.raises(UserError, match='source.examples=N'):
    len(captions.Captions(file='nowhere.json', images='x').planned())


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"annotations": []}', "no list 'images', but annotations"),
    ('{"images": [{"filename": "a"}]}', r"images\[0\] has no 'split'"),
    ('{"images": [3]}', r"images\[0\] has no 'filename'"),
    (
      '{"images": [{"filename": "a", "split": "val", "sentences": []}]}',
      r"no images of the split 'train'; it has val \(1\)",
    ),
    (
      '{"images": [{"filename": "a", "split": "train", "sentences": [{}]}]}',
      "no image of 'train' has a caption",
    ),
  ],
)
def test_files_that_are_no_split_file(content, message, tmp_path):
  file = tmp_path / 'dataset.json'
  file.write_text(content)
  with pytest.raises(UserError, match=message):
    len(captions.Captions(file=str(file), images=''))


def test_missing_images(tmp_path):
  where = write(tmp_path, entry('1.png', 'train', 'a dog'), missing=['1.png'])
  source = captions.Captions(**where)
  assert 'does not exist: correct `images`' in source.problems()[0]
  with pytest.raises(BadRecordError, match='1.png cannot be read'):
    source[0]
  with pytest.raises(UserError, match="each='word' is not one of image, caption"):
    captions.Captions(**where, each='word')


def test_captions_become_ids():
  encode = transforms.Encode(VOCABULARY, length=5)
  example = {'image': 0, 'captions': np.array([b'A dog sees.'], object), 'id': 3}
  assert encode.map(example)['target'].tolist() == [4, 5, 3, 2, 0]
  assert {*encode.map(example)} == {'image', 'target', 'id'}
  long = example | {'captions': [b'a a a a a']}
  with pytest.raises(BadRecordError, match='id 3 has 5 words, but length=5 leaves'):
    encode.map(long)
  cut = transforms.Encode(VOCABULARY, length=5, truncate=True)
  assert cut.map(long)['target'].tolist() == [4, 4, 4, 4, 2]
  for empty in ([b' .'], []):
    with pytest.raises(BadRecordError, match='id 3 has no caption with words'):
      encode.map(example | {'captions': empty})
  with pytest.raises(UserError, match='no `captions`; they have image'):
    encode.map({'image': 0})
  with pytest.raises(UserError, match='length=1 leaves no room'):
    transforms.Encode(VOCABULARY, length=1)


def test_one_caption_is_chosen_at_random():
  example = {'captions': np.array([b'a', b'dog', b'cat'], object)}
  rng = np.random.default_rng(0)
  choose = transforms.Choose()
  drawn = [choose.random_map(example, rng)['captions'][0] for _ in range(300)]
  assert all(80 < drawn.count(text) < 120 for text in (b'a', b'dog', b'cat'))
  with pytest.raises(BadRecordError, match='has no captions'):
    choose.random_map({'captions': []}, rng)
