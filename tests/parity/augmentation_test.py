"""Tests of augmentation against timm."""

import random
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing

from big_vision_like.data.transforms import autoaugment, timm_randaugment
from big_vision_like.ops import erasing, mixing

FILL = (124, 116, 104)
LEVELS = (0.0, 0.7, 3.3, 5.0, 8.4, 9.0, 9.99)


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
  smooth = Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)
  return [
    np.asarray(smooth),
    rng.integers(0, 256, (33, 57, 3), dtype=np.uint8),
    rng.integers(60, 190, (50, 21, 3), dtype=np.uint8),
  ]


def theirs(name: str) -> str:
  return f'{name}Rel' if name.startswith('Translate') else name


def direction(sign: float):
  """Makes their generator draw this sign."""
  return mock.patch.object(random, 'random', lambda: 0.2 if sign > 0 else 0.8)


@pytest.mark.parametrize('name', timm_randaugment.KNOWN)
def test_operations(name, images):
  operation = auto_augment.NAME_TO_OP[theirs(name)]
  level_to_argument = auto_augment.LEVEL_TO_ARG[theirs(name)]
  for level in LEVELS if level_to_argument else (9.0,):
    for sign in (1.0, -1.0):
      arguments = ()
      if level_to_argument:
        with direction(sign):
          arguments = level_to_argument(level, {})
        assert arguments == (timm_randaugment.argument(name, level, sign),)
      if name == 'Posterize' and not arguments[0]:
        continue  # Pillow 13 refuses
      for method, kernel in timm_randaugment.pillow.METHODS.items():
        for image in images:
          want = operation(
            Image.fromarray(image), *arguments, fillcolor=FILL, resample=kernel
          )
          rng = mock.Mock(random=lambda s=sign: 0.2 if s > 0 else 0.8)
          got = timm_randaugment.distort(name, image, level, rng, FILL, method)
          np.testing.assert_array_equal(got, np.asarray(want))


@pytest.mark.parametrize('increasing', [False, True])
def test_the_operations_drawn(increasing):
  policy = auto_augment.rand_augment_transform(f'rand-m9-mstd0.5-inc{increasing:d}')
  ours = timm_randaugment.INCREASING if increasing else timm_randaugment.NAMES
  assert {op.name for op in policy.ops} == {*map(theirs, ours)}
  default = timm_randaugment.RandAugment()
  assert policy.num_layers == default.layers and policy.choice_weights is None
  for op in policy.ops:
    assert (op.prob, op.magnitude) == (default.probability, default.magnitude)
    assert op.magnitude_std == default.std


def test_images_change_as_much(images, monkeypatch):
  """Compares means over many draws: the change of pixels, the share of equal images."""

  def posterize(picture, bits):  # as before Pillow 13, which refuses 0 bits
    return picture.point(
      [value >> (8 - bits) << (8 - bits) for value in range(256)] * 3
    )

  monkeypatch.setattr(auto_augment.ImageOps, 'posterize', posterize)
  policy = auto_augment.rand_augment_transform(
    'rand-m9-mstd0.5-inc1',
    dict(img_mean=FILL, interpolation=Image.Resampling.BICUBIC),
  )
  image, rng = images[0], np.random.default_rng(0)
  random.seed(0)
  np.random.seed(0)
  picture, ours = Image.fromarray(image), timm_randaugment.RandAugment()
  changes = []
  for augment in (
    lambda: np.asarray(policy(picture)),
    lambda: ours.random_map({'image': image}, rng)['image'],
  ):
    results = [augment().astype(int) - image for _ in range(3000)]
    changes.append([np.abs(result).mean() for result in results])
  first, second = (np.array(change) for change in changes)
  error = np.hypot(first.std(), second.std()) / 3000**0.5
  assert abs(first.mean() - second.mean()) < 4 * error
  assert abs((first == 0).mean() - (second == 0).mean()) < 0.05
  for share in (0.4, 0.6, 0.8, 0.9):
    want, got = np.quantile(first, share), np.quantile(second, share)
    assert abs(got - want) < 0.15 * want + 1


@pytest.mark.parametrize('name, ours', [('original', 'imagenet'), ('v0', 'v0')])
def test_policies(name, ours):
  policy = [
    tuple((op.name, op.prob, op.magnitude) for op in parts)
    for parts in auto_augment.auto_augment_policy(name)
  ]
  assert policy == [
    tuple((theirs(name), *rest) for name, *rest in parts)
    for parts in autoaugment.POLICIES[ours]
  ]


def test_erased_boxes():
  size, count, probability = (40, 56), 6000, 0.25
  random.seed(0)
  tensor = torch.zeros((count, 1, *size))
  random_erasing.RandomErasing(probability, mode='pixel', device='cpu')(tensor)
  erase = jax.jit(erasing.erase)
  image = jnp.zeros((count, *size, 1))
  got = np.asarray(erase(jax.random.key(0), image, probability))[..., 0]
  statistics = []
  for mask in (tensor[:, 0].numpy() != 0, got != 0):
    mask = mask[mask.any(axis=(1, 2))]
    rows, columns = mask.any(axis=2), mask.any(axis=1)
    height, width = rows.sum(axis=1), columns.sum(axis=1)
    area, aspect = height * width / (size[0] * size[1]), np.log(height / width)
    top, left = rows.argmax(axis=1) / size[0], columns.argmax(axis=1) / size[1]
    statistics.append([area, aspect, np.abs(aspect), area**2, top, left])
    assert abs(len(mask) / count - probability) < 0.025
  for first, second in zip(*statistics, strict=True):
    error = np.hypot(first.std() / len(first) ** 0.5, second.std() / len(second) ** 0.5)
    assert abs(first.mean() - second.mean()) < 4 * error
  assert abs(got[got != 0].std() - 1) < 0.01


def test_cutmix_and_mixup():
  """Compares the weights of a batch's own labels over many batches."""
  count, classes = 1500, 4
  np.random.seed(0)
  both = mixup.Mixup(0.8, 1.0, num_classes=classes, label_smoothing=0.1)
  image = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
  image = np.broadcast_to(image, (4, 1, 12, 20))
  labels = torch.arange(4)
  rows = []
  for _ in range(count):
    mixed, target = both(torch.tensor(image), labels)
    rows.append([target[0, 0].item(), len(np.unique(mixed[0])) == 2])
  want = np.array(rows, float)

  @jax.jit
  @jax.vmap
  def mix(key):
    target = jnp.eye(classes) * 0.9 + 0.1 / classes
    return mixing.mixup_or_cutmix(key, image.transpose(0, 2, 3, 1), target, 0.8, 1.0)

  images, targets = mix(jax.random.split(jax.random.key(0), count))
  cut = [len(np.unique(x)) == 2 for x in np.asarray(images[:, 0])]
  got = np.stack([targets[:, 0, 0], np.array(cut, float)], axis=1)
  for first, second in zip(want.T, got.T, strict=True):
    error = np.hypot(first.std(), second.std()) / count**0.5
    assert abs(first.mean() - second.mean()) < 4 * error
  deciles = np.quantile(want[:, 0], np.arange(1, 10) / 10)
  np.testing.assert_allclose(
    np.quantile(got[:, 0], np.arange(1, 10) / 10), deciles, atol=0.05
  )
