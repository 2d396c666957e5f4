import numpy as np
import pytest

from big_vision_like.viz import actors


def row(count):
  rng = np.random.default_rng(0)
  return {
    'video': rng.integers(0, 255, (8, 12, 16, 3)).astype(np.uint8),
    'boxes': np.tile(np.float32([[[1, 1, 3, 4]]]), (2, 4, 1)),
    'box_mask': np.arange(2) < count,
    'logits': np.eye(2, 3),
    'attention': rng.normal(size=(2, 1, 2, 4, 6, 8)),
  }


def test_attention_sums_to_one():
  map_thw = actors.attention_map(row(2)['attention'][0])
  assert map_thw.shape == (4, 6, 8) and map_thw.sum() == pytest.approx(1)


def test_a_row_for_each_actor():
  two, one = actors.sheet(row(2), {0: 'sleep'}), actors.sheet(row(1))
  assert two.dtype == np.uint8 and two.shape[1] == one.shape[1]
  assert two.shape[0] == 2 * one.shape[0] + 2
  assert actors.sheet(row(0)).shape == (120, 160, 3)


def test_frames_are_darker_where_nobody_looks():
  map_thw = np.zeros((1, 6, 8))
  map_thw[0, :, 4:] = 1
  white = np.full((2, 12, 16, 3), 255, np.uint8)
  frames = actors.overlaid(white, np.float32([[0, 0, 0.1, 0.1]]), map_thw, 'a')
  assert len(frames) == 2
  assert frames[1][-1, -1].min() == 255 and frames[1][-1, 0].max() < 160


def test_normalized_clips_are_visible():
  clip = np.float32([-1, 0, 1, 3]).reshape(1, 1, 4, 1)
  assert actors.visible(clip).ravel().tolist() == [0, 128, 255, 255]
