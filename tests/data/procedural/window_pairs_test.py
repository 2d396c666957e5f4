import cv2
import numpy as np
import pytest

from big_vision_like.data.procedural import window_pairs
from big_vision_like.errors import UserError


def values(example):
  """Returns the image in RGB, with the values that the model gets."""
  encoded = np.frombuffer(example['image'], np.uint8)
  image_HWC = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
  return (image_HWC / 255 - 0.5) * 6


def test_labels_say_whether_patches_have_one_colour():
  source = window_pairs.WindowPairs(examples=200, split='train')
  labels = []
  for example in source:
    x_HWC = values(example).reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    color_88 = x_HWC[..., 0] - x_HWC[..., 1]
    rows, columns = np.nonzero(np.abs(color_88) > 2)
    assert columns.tolist() == [3, 4] and rows[0] == rows[1]
    left, right = color_88[rows, columns]
    assert np.allclose(np.abs([left, right]), 4, atol=0.5)
    assert example['label'] == (left * right > 0)
    labels.append(example['label'])
  assert 0.4 < np.mean(labels) < 0.6
  noise = values(source[0])[..., 2]
  assert abs(noise.std() - window_pairs.NOISE) < 0.05


def test_examples_depend_on_split_seed_and_index_alone():
  make = window_pairs.WindowPairs
  train = make(examples=3, split='train')
  assert train[1]['image'] == make(examples=9, split='train')[1]['image']
  others = make(examples=3, split='test')[1], train[2]
  others += (make(examples=3, split='train', seed=1)[1],)
  assert all(other['image'] != train[1]['image'] for other in others)
  assert train.label_names == ('other colour', 'same colour')
  with pytest.raises(IndexError):
    train[3]
  with pytest.raises(UserError, match="split='val' is not one of train, test"):
    make(examples=3, split='val')
