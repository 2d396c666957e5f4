"""Clips with the attention of a model, as sheets and as animations.

Axes: T frames, H W pixels, C channels, h w map of patches.
"""

import io

import numpy as np
from PIL import Image

from big_vision_like.viz import images

BAR = 10  # pixels of the bar below a frame
MOST_COLUMNS = 8
BLUE, GREY = (0x00, 0x72, 0xB2), (0xDD, 0xDD, 0xDD)


def attended(
  frames_THWC: np.ndarray, maps_Thw: np.ndarray, weight_T: np.ndarray, side: int
) -> np.ndarray:
  """Draws each frame, the frame lit by attention, and a bar with its weight in time.

  Returns RGB uint8, (T, height, width, 3). The longest bar belongs to the frame with
  the largest weight; a grey mark shows where all bars would end if all were equal.
  """
  drawn = []
  equal = 1 / len(weight_T) / max(weight_T.max(), 1e-9)
  for frame_HWC, map_hw, weight in zip(
    frames_THWC, maps_Thw, weight_T / max(weight_T.max(), 1e-9), strict=True
  ):
    frame_HWC = images.fit(images.to_rgb(frame_HWC), side)
    parts = np.concatenate([frame_HWC, images.highlight(frame_HWC, map_hw)], axis=0)
    width = parts.shape[1]
    bar_HWC = np.full((BAR, width, 3), 255, np.uint8)
    bar_HWC[2:, : max(round(weight * width), 1)] = BLUE
    mark = min(round(equal * width), width - 1)
    bar_HWC[:, mark : mark + 1] = GREY
    drawn.append(np.concatenate([parts, bar_HWC], axis=0))
  return np.stack(drawn)


def sheet(drawn_THWC: np.ndarray) -> np.ndarray:
  """Arranges the frames of `attended` in rows: RGB uint8 (height, width, 3)."""
  return images.tile(drawn_THWC, columns=min(len(drawn_THWC), MOST_COLUMNS), gap=4)


def gif(frames_THWC: np.ndarray, seconds: float = 0.4) -> bytes:
  """Encodes RGB uint8 frames (T, H, W, 3) as an endless GIF, `seconds` per frame."""
  # One palette for all frames, so that colours do not flicker.
  tall = frames_THWC.reshape(-1, *frames_THWC.shape[2:])
  palette = Image.fromarray(tall).quantize(colors=256, method=Image.Quantize.MEDIANCUT)
  first, *others = [
    Image.fromarray(frame_HWC).quantize(palette=palette, dither=Image.Dither.NONE)
    for frame_HWC in frames_THWC
  ]
  out = io.BytesIO()
  first.save(
    out,
    'GIF',
    save_all=True,
    append_images=others,
    duration=round(1000 * seconds),
    loop=0,
    disposal=1,
  )
  return out.getvalue()
