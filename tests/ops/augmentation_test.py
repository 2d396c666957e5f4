"""Tests of the augmentation of images, and of clips whose frames are treated alike."""

import jax
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.ops import images
from big_vision_like.ops.augmentation import Augment

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def clips():
  rng = np.random.default_rng(0)
  frames = rng.normal(size=(8, 1, 12, 10, 3)).astype(np.float32)
  target = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 8)]
  return np.repeat(frames, 3, axis=1), target


@pytest.mark.parametrize(
  'augment',
  [
    Augment(flip=True),
    Augment(erasing=1.0),
    Augment(mixup=0.8),
    Augment(cutmix=1.0),
    Augment(mixup=0.8, cutmix=1.0, switch=0.5, partner='reversed'),
  ],
)
def test_frames_of_a_clip_are_treated_as_an_image(augment, clips, monkeypatch):
  # The noise of erasing differs between frames; the box is the same.
  monkeypatch.setattr(jax.random, 'normal', lambda key, shape, dtype: 7.0)
  video, target = clips
  clip, clip_target = jax.jit(augment)(KEY, video, target)
  image, image_target = jax.jit(augment)(KEY, video[:, 0], target)
  for frame in range(3):
    np.testing.assert_allclose(clip[:, frame], image, atol=1e-6)
  np.testing.assert_allclose(clip_target, image_target, atol=1e-6)
  assert np.abs(image - video[:, 0]).max() > 0.1


@pytest.mark.parametrize('leading', [(4,), (4, 3), (2, 3, 4)])
def test_normalization_applies_to_the_last_axis(leading):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (*leading, 5, 6, 3), dtype=np.uint8)
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  got = jax.jit(lambda x: images.normalize(x, mean, std))(image)
  want = (image / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(got, want, atol=1e-5)
  before = images.normalize(image)
  again = images.renormalize(
    before, images.Normalization(), images.Normalization(mean, std)
  )
  np.testing.assert_allclose(again, want, atol=1e-5)
  np.testing.assert_array_equal(images.normalize(got), got)


def test_wrong_fields_are_reported():
  with pytest.raises(UserError, match="partner='any' is not one of rolled, reversed"):
    Augment(partner='any')
  with pytest.raises(UserError, match='switch=-0.1 is not a probability, 0 to 1'):
    Augment(switch=-0.1)
