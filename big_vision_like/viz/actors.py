"""What actors of a clip attend to, as pictures.

Axes: T frames, A actors, S slices of the feature map in time, L layers, G graphs, t h w
feature map, H W pixels, C channels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from big_vision_like.viz import boxes, images

SIDE = 160  # pixels of a frame in a sheet, about
MOST_ACTORS, MOST_SLICES = 3, 4


def attention_map(logits_LGthw: np.ndarray) -> np.ndarray:
  """Returns the mean attention of an actor over layers and graphs: (t, h, w), sum 1."""
  layers, graphs, *size = logits_LGthw.shape
  flat = np.asarray(logits_LGthw, np.float64).reshape(layers * graphs, -1)
  weights = np.exp(flat - flat.max(axis=1, keepdims=True))
  return (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0).reshape(size)


def overlaid(
  video_THWC: np.ndarray,
  boxes_S4: np.ndarray,
  map_thw: np.ndarray,
  label: str | int,
  side: int = SIDE,
) -> list[np.ndarray]:
  """Draws every frame, dark where the actor does not look, with its box; RGB uint8.

  `boxes_S4` are the actor's boxes in cells of the map, whose slices are equal parts of
  the clip. Small frames are enlarged.
  """
  pictures = []
  slices, height, width = map_thw.shape
  for number, frame_HWC in enumerate(video_THWC):
    part = number * slices // len(video_THWC)
    picture_HWC = images.fit(images.to_rgb(frame_HWC), side)
    lit_HWC = images.highlight(picture_HWC, map_thw[part] / map_thw.max())
    # Half as dark, so that the scene stays visible.
    picture_HWC = (picture_HWC.astype(np.int64) + lit_HWC) // 2
    tall, wide = picture_HWC.shape[:2]
    scale_4 = np.array([wide / width, tall / height] * 2)
    box_14 = (boxes_S4[part] * scale_4)[None]
    pictures.append(boxes.draw(picture_HWC.astype(np.uint8), box_14, [label]))
  return pictures


def boxed(
  frame_HWC: np.ndarray, boxes_A4: np.ndarray, labels: Sequence[str | int]
) -> np.ndarray:
  """Draws a frame with boxes of actors, as shares of its sides; RGB uint8."""
  picture_HWC = images.fit(images.to_rgb(visible(frame_HWC)), 2 * SIDE)
  height, width = picture_HWC.shape[:2]
  scale_14 = np.array([[width, height, width, height]])
  return boxes.draw(picture_HWC, boxes_A4 * scale_14, labels)


def sheet(
  row: Mapping[str, np.ndarray], names: Mapping[int, str] | None = None
) -> np.ndarray:
  """Draws the first actors of a clip, one row each, over slices of time; RGB uint8.

  `row` has `video`, `boxes`, `box_mask`, `logits` and `attention`, as the prediction
  `attend` of `tasks.action_detection`.
  """
  pictures, names = [], names or {}
  video_THWC = visible(row['video'])
  for actor in np.flatnonzero(row['box_mask'])[:MOST_ACTORS].tolist():
    map_thw = attention_map(row['attention'][actor])
    slices = len(map_thw)
    places = np.unique(np.linspace(0, slices - 1, min(slices, MOST_SLICES)).astype(int))
    label = int(row['logits'][actor].argmax())
    each = len(video_THWC) // slices
    pictures += overlaid(
      video_THWC[places * each + each - 1],
      row['boxes'][actor][places],
      map_thw[places],
      names.get(label, label),
    )
  if not pictures:  # a clip without actors
    pictures = [images.fit(images.to_rgb(video_THWC[0]), SIDE)]
    return pictures[0]
  return images.tile(np.stack(pictures), len(places))


def visible(video_THWC: np.ndarray) -> np.ndarray:
  """Converts a clip, uint8 or float in [-1, 1], to uint8."""
  if video_THWC.dtype == np.uint8:
    return video_THWC
  return np.round(np.clip(127.5 * (video_THWC + 1), 0, 255)).astype(np.uint8)
