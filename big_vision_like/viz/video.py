"""Clips as pictures.  Axes: T frames, H W pixels, C channels."""

import numpy as np

from big_vision_like.viz import images


def strip(video_THWC: np.ndarray, columns: int | None = None) -> np.ndarray:
  """Arranges frames in one row, or in rows of `columns`: uint8 (height, width, 3)."""
  frames_THWC = np.stack([images.to_rgb(frame_HWC) for frame_HWC in video_THWC])
  return images.tile(frames_THWC, columns or len(frames_THWC))
