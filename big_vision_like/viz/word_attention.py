"""A picture for each word of a caption, lit where the model looked.

Axes: H W image, C channels, T words, h w map of the model.
"""

from collections.abc import Sequence

import numpy as np

from big_vision_like.viz import captions, images

COLUMNS = 6
GAP = 6


def sheet(
  image_HWC: np.ndarray,
  words: Sequence[str],
  attention_Thw: np.ndarray,
  side: int = 224,
) -> np.ndarray:
  """Returns the image and a copy of it for each word (arXiv:1502.03044, figure 3).

  Each word stands above its copy, which is lit by its attention. `image_HWC` is uint8
  or float in [0, 1]; the longer side of each part has about `side` pixels.
  """
  shown_HWC = images.fit(images.to_rgb(image_HWC[..., :3]), side)
  parts = [captions.captioned(shown_HWC, '')]
  for word, map_hw in zip(words, attention_Thw, strict=True):
    lit_HWC = images.highlight(shown_HWC, np.asarray(map_hw, np.float32))
    parts.append(captions.captioned(lit_HWC, word))
  columns = min(COLUMNS, len(parts))
  return images.tile(np.stack(parts), columns=columns, gap=GAP)
