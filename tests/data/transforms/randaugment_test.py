import collections
import re

import numpy as np
import pytest

from big_vision_like.data.transforms import randaugment
from big_vision_like.errors import UserError


def test_golden_files_have_all_operations(golden):
  with np.load(golden / 'randaugment_tf_ops.npz') as file:
    names = {match[1] for name in file if (match := re.match(r'output/(\w+)', name))}
  assert names == {*randaugment.NAMES} - {'Cutout'}


# Tests of the published code outside its ranges, as TensorFlow 2.15 with NumPy 1.26
# behaves.

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


@pytest.mark.parametrize(
  'threshold, first', [(230, 230), (256, 0), (384, 128), (512, 0)]
)
def test_the_threshold_of_solarize_wraps_around(threshold, first):
  got = randaugment.solarize(LEVELS, threshold)
  want = np.where(LEVELS < first, LEVELS, 255 - LEVELS)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('bits, kept', [(0, 1), (1, 1), (4, 4), (8, 8), (10, 1)])
def test_posterize_keeps_bits(bits, kept):
  got = randaugment.posterize(LEVELS, bits)
  step = 2 ** (8 - kept)
  np.testing.assert_array_equal(got, LEVELS // step * step)


@pytest.mark.parametrize('side, grey', [(16, 1), (48, 9), (320, 255)])
def test_the_grey_of_contrast_is_a_number_of_pixels(side, grey):
  image = np.full((side, side, 3), 200, np.uint8)
  assert (randaugment.contrast(image, 0.0) == grey).all()
  assert (randaugment.contrast(image, 1.0) == 200).all()


def test_images_of_one_colour_keep_it():
  image = np.full((6, 7, 3), (0, 77, 255), np.uint8)
  for name in ('AutoContrast', 'Equalize'):
    np.testing.assert_array_equal(randaugment.PLAIN[name](image), image)


@pytest.mark.parametrize('factor', [0.1, 1.0, 3.7])
def test_sharpness_leaves_the_border(picture, factor):
  got = randaugment.sharpness(picture, factor)
  inner = np.zeros(picture.shape[:2], bool)
  inner[1:-1, 1:-1] = True
  np.testing.assert_array_equal(got[~inner], picture[~inner])
  assert (got[inner] != picture[inner]).any() == (factor != 1.0)


def test_moving_uncovers_grey(picture):
  left = randaugment.translate_x(picture, 5.0)
  np.testing.assert_array_equal(left[:, :-5], picture[:, 5:])
  assert (left[:, -5:] == 128).all()
  up = randaugment.translate_y(picture, 3.0)
  np.testing.assert_array_equal(up[:-3], picture[3:])
  assert (randaugment.translate_x(picture, -100.0) == 128).all()
  sheared = randaugment.shear_x(picture, 1.0)
  np.testing.assert_array_equal(sheared[4, :-4], picture[4, 4:])
  square = picture[:, :20]
  np.testing.assert_array_equal(randaugment.rotate(square, 90.0), np.rot90(square))


def test_cutout_greys_a_square_cut_at_the_borders(picture):
  got = randaugment.cutout(picture, 4, row=2, column=20)
  grey = np.zeros(picture.shape[:2], bool)
  grey[0:6, 16:24] = True
  assert (got[grey] == 128).all()
  np.testing.assert_array_equal(got[~grey], picture[~grey])


@pytest.mark.parametrize('name', randaugment.NAMES)
@pytest.mark.parametrize('magnitude', [0, 9.5, 27])
def test_every_operation_gives_a_new_image(name, magnitude, picture):
  before = picture.copy()
  rng = np.random.default_rng(1)
  got = randaugment.distort(name, picture, magnitude, rng)
  np.testing.assert_array_equal(picture, before)
  assert got.shape == picture.shape and got.dtype == np.uint8
  by_nothing = magnitude == 0 and name in (*randaugment.MOVING, 'Cutout', 'SolarizeAdd')
  assert (got != picture).any() == (not by_nothing)


@pytest.mark.parametrize('name', randaugment.MOVING)
def test_both_signs_are_drawn(name, picture):
  rng = np.random.default_rng(2)
  amount = randaugment.argument(name, 1)
  operation = randaugment.MOVING[name]
  positive = sum(
    np.array_equal(
      randaugment.distort(name, picture, 1, rng), operation(picture, amount)
    )
    for _ in range(100)
  )
  assert 30 < positive < 70


def test_cutout_is_drawn_anywhere(picture):
  rng = np.random.default_rng(3)
  dark = np.zeros_like(picture)
  hits = sum(randaugment.distort('Cutout', dark, 0.5, rng) > 0 for _ in range(999))
  assert hits.min() > 0 and hits.max() < 60


def test_layers_are_drawn_from_all_and_always_applied(picture, monkeypatch):
  drawn = collections.Counter()

  def distort(name, image, magnitude, rng, at_ten):
    assert magnitude == 7 and at_ten == randaugment.AT_TEN
    drawn[name] += 1
    return image + 1

  monkeypatch.setattr(randaugment, 'distort', distort)
  augment = randaugment.RandAugment(layers=4, magnitude=7)
  rng = np.random.default_rng(0)
  for _ in range(400):
    got = augment.random_map({'image': picture, 'label': 3}, rng)
    np.testing.assert_array_equal(got['image'], picture + 4)
    assert got['label'] == 3
  assert drawn.keys() == {*randaugment.NAMES} and len(drawn) == 16
  assert 60 < min(drawn.values()) and max(drawn.values()) < 145


def test_randomness_comes_from_the_generator(picture):
  augment = randaugment.RandAugment(layers=2, magnitude=15)
  first, again, other = (
    [augment.random_map({'image': picture}, rng)['image'] for _ in range(5)]
    for rng in map(np.random.default_rng, (0, 0, 1))
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize(
  'image', [np.zeros((4, 5, 1), np.uint8), np.zeros((4, 5, 3), np.float32)]
)
def test_images_of_another_kind_are_refused(image):
  with pytest.raises(UserError, match=r'takes uint8 \(H, W, 3\), not .* \(id 8\)'):
    randaugment.RandAugment().random_map(
      {'image': image, 'id': 8}, np.random.default_rng(0)
    )


def test_pixels_that_images_move_by(picture):
  at_ten = randaugment.at_ten_with(translate=4, cutout=3)
  got = randaugment.argument('TranslateY', 5, at_ten)
  assert got == 2.0 and isinstance(got, float)
  assert randaugment.argument('Cutout', 5, at_ten) == 1
  augment = randaugment.RandAugment(1, 20, ('TranslateX',), translate=4)
  got = augment.random_map({'image': picture}, np.random.default_rng(0))['image']
  uncovered = (got == 128).all(axis=(0, 2))
  assert uncovered.sum() == 8


def test_names_are_the_operations_drawn(picture):
  augment = randaugment.RandAugment(3, 0, randaugment.WITHOUT_CUTOUT)
  assert len(augment.names) == 15 and 'Cutout' not in augment.names
  inverted = randaugment.RandAugment(3, 10, ('Invert',))
  got = inverted.random_map({'image': picture}, np.random.default_rng(0))['image']
  np.testing.assert_array_equal(got, 255 - picture)


@pytest.mark.parametrize(
  'names, words',
  [(('Invert', 'Blur'), 'not Blur$'), ((), 'names=.*: choose from Auto')],
)
def test_unknown_names_are_refused(names, words):
  with pytest.raises(UserError, match=words):
    randaugment.RandAugment(names=names)


def test_places_are_kept_and_stay(picture):
  first = randaugment.rotate(picture, 20.0)
  places = randaugment.nearest(3, 4, (1, 0, 0), (0, 1, 0))
  assert places is randaugment.nearest(3, 4, (1, 0, 0), (0, 1, 0))
  with pytest.raises(ValueError, match='read-only'):
    places[0] = 7
  for degrees in range(-40, 40):
    randaugment.rotate(picture, degrees)
  np.testing.assert_array_equal(randaugment.rotate(picture, 20.0), first)


def test_greys_at_the_edge_of_rounding():
  # As TensorFlow 2.21; a sum in another order would round the other way.
  colors = [(16, 218, 140), (23, 195, 100), (24, 133, 189), (67, 239, 82)]
  got = randaugment.luma(np.array([colors], np.uint8))
  np.testing.assert_array_equal(got, [[148, 132, 107, 170]])


@pytest.mark.parametrize('options', [dict(layers=-1), dict(magnitude=-5)])
def test_negative_numbers_are_refused(options):
  with pytest.raises(UserError, match='must not be negative'):
    randaugment.RandAugment(**options)
