"""Transforms of images to graphs of superpixels, arXiv:2002.05544 (published code).

A node is a superpixel of SLIC with its mean colour and position, an edge joins two that
touch. Needs the package scikit-image.

Axes: H W height and width, C channels, N nodes, E edges, F features.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from big_vision_like.errors import BadRecordError, UserError

Example = dict[str, Any]
COMPACTNESS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Superpixels(grain.transforms.Map):
  """Replaces `image` by a graph: `nodes`, `edges`, `weights` and `node_mask`.

  `nodes` float32 (max_nodes, channels + 2) has the mean of each channel over the pixels
  of a superpixel, in [0, 1], and the mean column and row divided by width and height;
  `edges` int32 (max_edges, 2) pairs (source, target): each two neighbours in both
  directions, then a loop of each node, which counts twice in `weights` (max_edges,), as
  in the published code; `node_mask` (max_nodes,) is False for padding. Values of colour
  are multiplied by `scale`; published weights for MNIST need 255. Then `mean` is
  subtracted and the result divided by `std`: a number, or one for each feature.

  `segments` is the number that SLIC aims at. With `wrap`, the left and right border of
  a panorama of 360 degrees touch, and positions are means on a circle. Images of one
  colour have the regular grid that SLIC starts from. An image with more superpixels or
  edges than there is room for raises `BadRecordError`.
  """

  max_nodes: int = 96
  max_edges: int = 544
  segments: int = 75
  scale: float = 1.0
  mean: float | Sequence[float] = 0.0
  std: float | Sequence[float] = 1.0
  wrap: bool = False

  def map(self, example: Example) -> Example:
    image_HWC = example['image']
    label_HW = segmented(image_HWC, self.segments)
    nodes_NF, pairs_E2 = graph(image_HWC, label_HW, self.wrap)
    nodes_NF[:, : image_HWC.shape[2]] *= self.scale / 255
    nodes_NF = (nodes_NF - np.asarray(self.mean)) / np.asarray(self.std)
    edges_E2, weight_E = directed(pairs_E2, len(nodes_NF))
    for what, count, most in (
      ('superpixels', len(nodes_NF), self.max_nodes),
      ('edges', len(edges_E2), self.max_edges),
    ):
      if count > most:
        raise BadRecordError(
          f'the image of example {example.get("id", "?")} has {count} {what}, and there'
          f' is room for {most}: raise max_nodes or max_edges, or take fewer segments.'
        )
    result = {k: v for k, v in example.items() if k != 'image'}
    return result | {
      'nodes': _padded(nodes_NF.astype(np.float32), self.max_nodes),
      'edges': _padded(edges_E2.astype(np.int32), self.max_edges),
      'weights': _padded(weight_E, self.max_edges),
      'node_mask': np.arange(self.max_nodes) < len(nodes_NF),
    }


def segmented(image_HWC: np.ndarray, segments: int = 75) -> np.ndarray:
  """Returns the superpixel of each pixel (H, W), numbered from 0, by SLIC-zero.

  SLIC of today stretches images to [0, 1] first, which would make the graphs of all
  grey images the same regular grid. A compactness of 10 divided by the range of values
  undoes this (scikit-image did not stretch in 2019).
  """
  try:
    from skimage import segmentation
  except ImportError as error:
    raise UserError(
      'superpixels need the package scikit-image: pip install'
      " 'big_vision_like[graphs]' (or '.[graphs]' in a clone)"
    ) from error
  span = float(image_HWC.max()) - float(image_HWC.min())
  grey = image_HWC.shape[2] == 1
  label_HW = segmentation.slic(
    image_HWC.astype(np.float64) if grey else image_HWC,
    n_segments=segments,
    compactness=COMPACTNESS / span if grey and span else COMPACTNESS,
    slic_zero=True,
    start_label=0,
    channel_axis=-1,
  )
  # SLIC may leave numbers out.
  return np.unique(label_HW, return_inverse=True)[1].reshape(label_HW.shape)


def graph(
  image_HWC: np.ndarray, label_HW: np.ndarray, wrap: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Returns features of superpixels (N, C + 2) and pairs of neighbours (E, 2).

  Colours keep their range. Of each pair, the smaller number comes first.
  """
  height, width, channels = image_HWC.shape
  flat, count = label_HW.ravel(), int(label_HW.max()) + 1
  size_N = np.bincount(flat, minlength=count)

  def mean(values_HW: np.ndarray) -> np.ndarray:
    return np.bincount(flat, values_HW.astype(np.float64).ravel(), count) / size_N

  column_HW = np.broadcast_to(np.arange(width)[None], label_HW.shape)
  row_HW = np.broadcast_to(np.arange(height)[:, None], label_HW.shape)
  if wrap:
    angle_HW = 2 * np.pi * column_HW / width
    angle_N = np.arctan2(mean(np.sin(angle_HW)), mean(np.cos(angle_HW)))
    column_N = angle_N / (2 * np.pi) % 1.0 * width
  else:
    column_N = mean(column_HW)
  colours = [mean(image_HWC[..., channel]) for channel in range(channels)]
  nodes_NF = np.stack([*colours, column_N / width, mean(row_HW) / height], axis=1)
  touching = [
    (label_HW[:, :-1], label_HW[:, 1:]),
    (label_HW[:-1], label_HW[1:]),
    *([(label_HW[:, -1], label_HW[:, 0])] if wrap else []),
  ]
  pairs_E2 = np.concatenate(
    [np.stack([one.ravel(), other.ravel()], axis=1) for one, other in touching]
  )
  pairs_E2 = np.sort(pairs_E2[pairs_E2[:, 0] != pairs_E2[:, 1]], axis=1)
  return nodes_NF, np.unique(pairs_E2, axis=0)


def directed(pairs_E2: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns both directions of each pair, then loops, and how often each counts."""
  loops_N2 = np.arange(nodes)[:, None].repeat(2, axis=1)
  edges_E2 = np.concatenate([pairs_E2, pairs_E2[:, ::-1], loops_N2])
  once = 2 * len(pairs_E2)
  return edges_E2, np.repeat([1.0, 2.0], [once, nodes]).astype(np.float32)


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
  room = [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)]
  return np.pad(array, room)
