"""Axes: T steps, L slots."""

import numpy as np

from big_vision_like.viz import pointers

POINTER_TL = np.array([[0.0, 1.0, 0.0], [0.9, 0.0, 0.1]])
HIDDEN_TL = np.array([[False, False, False], [False, True, False]])


def test_a_matrix_has_a_row_for_each_step():
  drawn = pointers.matrix(POINTER_TL, HIDDEN_TL, cell=4)
  assert drawn.shape == (8, 12, 3) and drawn.dtype == np.uint8
  assert (drawn[6, 5] == pointers.HIDDEN).all()
  assert drawn[0, 5].sum() > drawn[0, 0].sum()  # the slot pointed to is bright


def test_frames_of_a_sort():
  numbers_L, found_T = np.array([9, 3, 6]), np.array([3, 9])
  drawn = pointers.frames(numbers_L, HIDDEN_TL, np.array([1, 0]), found_T)
  assert drawn.shape[0] == 3 and drawn.shape[2] == 3 * pointers.BAR
  bottom = pointers.HEIGHT - 1
  slots = np.arange(3) * pointers.BAR
  first, second, last = drawn[:, bottom, slots]
  assert (first[1] == pointers.POINTED).all() and (first[0] == pointers.VISIBLE).all()
  assert (second[0] == pointers.POINTED).all() and (second[1] == pointers.HIDDEN).all()
  assert (last == pointers.HIDDEN).all()
  assert (drawn[0, -1, 0] == pointers.FOUND).all()
  assert (drawn[0, -1, pointers.BAR] == pointers.BACKGROUND).all()
  # Bars are as high as their numbers.
  blue = (drawn[0, : pointers.HEIGHT, 0] == pointers.VISIBLE).all(axis=-1)
  assert blue.sum() == pointers.HEIGHT
