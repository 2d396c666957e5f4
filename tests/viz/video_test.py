import numpy as np

from big_vision_like.viz import video


def test_frames_stand_side_by_side():
  clip = np.stack([np.full((4, 5, 1), 10 * t, np.uint8) for t in range(6)])
  row = video.strip(clip)
  assert row.shape == (4, 6 * 5 + 5 * 2, 3)
  assert row[0, ::7, 0].tolist() == [0, 10, 20, 30, 40, 50]
  rows = video.strip(clip, columns=3)
  assert rows.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
  assert rows[6, ::7, 2].tolist() == [30, 40, 50]
