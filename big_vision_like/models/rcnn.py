"""Two-stage detectors: Faster, Mask and Cascade R-CNN with a feature pyramid.

A network proposes regions of an image (arXiv:1506.01497), and heads classify each
region, refine its box, and predict a mask (arXiv:1703.06870). A cascade of heads
(arXiv:1712.00726) refines the boxes of one head by the next. Features of regions come
from a pyramid (arXiv:1612.03144). The backbone is any module that returns the maps
`stage1` to `stage4` of strides 4 to 32.

Axes: B batch, H W image, I its channels or those of a map, h w a map, C channels or
classes and background, last, D classes, N regions or anchors of an image, n those of
all images, R candidates, K detections or proposals, G groups of deltas (classes, or one
for all), P Q bins of a region, r s of a kernel, F E features of a region, O outputs, M
pixels of a side of a mask.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.layers import convolution, fpn
from big_vision_like.ops import boxes, nms, precision, regions, roi

STRIDES = (4, 8, 16, 32, 64)
# Anchors have this size in strides.
ANCHOR_SCALE = 8
STDS = ((0.1, 0.1, 0.2, 0.2),)
CASCADE_STDS = (*STDS, (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
BOX_BINS, MASK_BINS = 7, 14
# Smallest sides in pixels of proposals and of detections.
SMALLEST_PROPOSAL, SMALLEST = 1e-3, 1e-2

# Takes the number of a head and the boxes (B, N, 4) that it would get; those without
# area are padding. Returns the boxes that it gets instead, and those that its mask head
# gets.
Sampler = Callable[[int, jax.Array], tuple[jax.Array, jax.Array]]


class RCNN(nn.Module):
  """A two-stage detector of objects in normalized images (B, H, W, C).

  Returns, for each image, up to `detections` objects by falling score: `boxes_xyxy`
  (B, K, 4) in pixels, the same as `boxes`, cxcywh in [0, 1] of the picture, `scores`
  (B, K) in [0, 1], `labels` (B, K) int32, -1 for rows without an object, and with
  `masks` `masks` (B, K, M, M), the probability of each pixel of a box. `proposals`
  (B, N, 4) and `proposal_scores` (B, N) are the regions; anchors and their outputs are
  those of `RPN`. Floats are float32. `learn` returns what losses need.

  `size_B2` holds the height and width of the pictures, at the top left of the images;
  boxes are clipped to them. It defaults to the whole images.

  There are as many heads as `stds`, the units of the deltas of each. Each head has its
  own features, `convs` 3x3 convolutions with batch norm and `fcs` dense layers of
  `hidden` units, or with `shared` all have the first one's. Deltas belong to classes,
  or with `agnostic` to all classes alike. Scores are of the mean logits of all heads.
  `enhance` is a module that adds features to regions in all heads but the first. It is
  called with the levels of the pyramid, the features of the regions (B, N, F), the
  kernel (F, C) and the bias (C) of the previous head's classifier, and the class logits
  (B, N, C) that the previous head gives these same regions, and returns further
  features (B, N, E). With `stale`, these logits are in training those of the regions
  that the previous head learned from, row by row, although the regions are others; this
  is only to compare with published code.

  `samples` and `aligned` are those of `roi.align`. Objects have a score above
  `least_score`, and overlap others of their class with an IoU of at most `overlap`.
  """

  num_classes: int
  backbone: nn.Module
  rpn: nn.Module
  channels: int = 256
  stds: Sequence[Sequence[float]] = STDS
  convs: int = 0
  fcs: int = 2
  hidden: int = 1024
  agnostic: bool = False
  shared: bool = False
  enhance: nn.Module | None = None
  stale: bool = False
  masks: bool = False
  samples: int = 0
  aligned: bool = True
  detections: int = 100
  least_score: float = 0.05
  overlap: float = 0.5
  dtype: str = 'float32'

  tiny = dict(channels=16, hidden=32, convs=1, detections=10)

  def setup(self) -> None:
    self.pyramid = fpn.FPN(self.channels, dtype=self.dtype)
    groups = 1 if self.agnostic else self.num_classes
    count = len(self.stds)
    self.features = [
      BoxFeatures(self.channels, self.convs, self.fcs, self.hidden, self.dtype)
      for _ in range(1 if self.shared else count)
    ]
    self.box_heads = [
      BoxHead(self.num_classes + 1, groups, self.dtype) for _ in range(count)
    ]
    if self.masks:
      self.mask_heads = [
        MaskHead(self.num_classes, self.channels, self.dtype) for _ in range(count)
      ]

  def __call__(
    self, image_BHWI: jax.Array, size_B2: jax.Array | None = None, train: bool = False
  ) -> dict[str, jax.Array]:
    size_B2 = whole(image_BHWI, size_B2)
    levels, found = self.proposed(image_BHWI, size_B2, train)
    proposals_BN4 = found['proposals']
    logits, boxes_BNG4 = [], None
    boxes_BN4 = proposals_BN4
    for head in range(len(self.stds)):
      logits_BNC, deltas_BNG4 = self.judged(head, levels, boxes_BN4, train)
      logits.append(logits_BNC)
      boxes_BNG4 = self.refined(head, boxes_BN4, deltas_BNG4, size_B2)
      boxes_BN4 = likeliest(boxes_BNG4, logits_BNC)
    probability_BND = jax.nn.softmax(sum(logits) / len(logits))[..., :-1]
    # Proposals that are padding have no area.
    there_BN1 = (boxes.area(proposals_BN4) > 0)[..., None]
    probability_BND = jnp.where(there_BN1, probability_BND, 0.0)
    outputs = found | self.detected(probability_BND, boxes_BNG4)
    corners_BK4 = outputs['boxes_xyxy'] / boxes.corner_scale(size_B2)
    outputs['boxes'] = boxes.xyxy_to_cxcywh(corners_BK4)
    if self.masks:
      outputs['masks'] = self.drawn(levels, outputs['boxes_xyxy'], outputs['labels'])
    return outputs

  def learn(
    self, image_BHWI: jax.Array, size_B2: jax.Array, sample: Sampler
  ) -> dict[str, Any]:
    """Returns the outputs for training, with regions that `sample` chooses.

    These are `anchors` (N, 4), `anchor_logits` (B, N) and `anchor_deltas` (B, N, 4),
    and lists with an entry for each head: `boxes` (B, N, 4), `logits` (B, N, C),
    `deltas` (B, N, G, 4), and `mask_logits` (B, N, M, M, C). Boxes have no gradient.
    """
    levels, found = self.proposed(image_BHWI, size_B2, train=True)
    boxes_BN4 = found['proposals']
    outputs = {name: [] for name in ('boxes', 'logits', 'deltas', 'mask_logits')}
    for head in range(len(self.stds)):
      boxes_BN4, mask_boxes_BN4 = sample(head, boxes_BN4)
      boxes_BN4 = jax.lax.stop_gradient(boxes_BN4)
      before = outputs['logits'][-1] if head and self.stale else None
      logits_BNC, deltas_BNG4 = self.judged(head, levels, boxes_BN4, True, before)
      outputs['boxes'].append(boxes_BN4)
      outputs['logits'].append(logits_BNC)
      outputs['deltas'].append(deltas_BNG4)
      if self.masks:
        outputs['mask_logits'].append(self.masked(head, levels, mask_boxes_BN4))
      boxes_BNG4 = self.refined(head, boxes_BN4, deltas_BNG4, size_B2)
      boxes_BN4 = jax.lax.stop_gradient(likeliest(boxes_BNG4, logits_BNC))
    names = ('anchors', 'anchor_logits', 'anchor_deltas')
    return outputs | {name: found[name] for name in names}

  def proposed(
    self, image_BHWI: jax.Array, size_B2: jax.Array, train: bool
  ) -> tuple[list[jax.Array], dict[str, jax.Array]]:
    """Returns the levels of the pyramid, and the outputs of the proposing network."""
    levels = self.pyramid(fpn.stages(self.backbone(image_BHWI, train)))
    return levels, self.rpn(levels, size_B2, train)

  def judged(
    self,
    head: int,
    levels: Sequence[jax.Array],
    boxes_BN4: jax.Array,
    train: bool,
    before_BNC: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns a head's class logits (B, N, C) and deltas (B, N, G, 4) of regions.

    `before_BNC` replaces the logits of the previous head for `enhance`.
    """
    pooled_BNPQI = roi.align(
      levels[:4], boxes_BN4, STRIDES[:4], BOX_BINS, self.samples, self.aligned
    )
    own = self.features[0 if self.shared else head]
    x_BNF = own(pooled_BNPQI, train)
    if self.enhance is not None and head:
      previous = self.box_heads[head - 1]
      if before_BNC is None:
        y_BNF = x_BNF
        if not self.shared:
          y_BNF = self.features[head - 1](pooled_BNPQI, train)
        before_BNC, _ = previous(y_BNF)
      kernel_FC, bias_C = previous.classifier()
      more_BNE = self.enhance(levels, x_BNF, kernel_FC, bias_C, before_BNC)
      more_BNE = more_BNE.astype(x_BNF.dtype)
      return self.box_heads[head](jnp.concatenate([x_BNF, more_BNE], axis=-1))
    return self.box_heads[head](x_BNF)

  def refined(
    self, head: int, boxes_BN4: jax.Array, deltas_BNG4: jax.Array, size_B2: jax.Array
  ) -> jax.Array:
    """Returns boxes moved by the deltas of a head and clipped: (B, N, G, 4)."""
    boxes_BNG4 = regions.decode(boxes_BN4[:, :, None], deltas_BNG4, self.stds[head])
    return clipped(boxes_BNG4, size_B2)

  def detected(
    self, probability_BND: jax.Array, boxes_BNG4: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns `boxes_xyxy`, `scores` and `labels` of the objects."""
    batch, count, classes = probability_BND.shape
    boxes_BND4 = jnp.broadcast_to(boxes_BNG4, (batch, count, classes, 4))
    sides_BND2 = boxes_BND4[..., 2:] - boxes_BND4[..., :2]
    large_BND = (sides_BND2 >= SMALLEST).all(axis=-1)
    score_BND = jnp.where(large_BND, probability_BND, 0.0)
    label_R = jnp.tile(jnp.arange(classes, dtype=jnp.int32), count)

    def one(boxes_R4: jax.Array, score_R: jax.Array) -> tuple[jax.Array, ...]:
      found = nms.select(
        boxes_R4, score_R, label_R, self.detections, self.overlap, self.least_score
      )
      return (
        jnp.where(found.valid_K[:, None], boxes_R4[found.index_K], 0.0),
        jnp.where(found.valid_K, found.scores_K, 0.0),
        jnp.where(found.valid_K, label_R[found.index_K], -1),
      )

    found = jax.vmap(one)(
      boxes_BND4.reshape(batch, -1, 4), score_BND.reshape(batch, -1)
    )
    return dict(zip(('boxes_xyxy', 'scores', 'labels'), found, strict=True))

  def masked(
    self, head: int, levels: Sequence[jax.Array], boxes_BN4: jax.Array
  ) -> jax.Array:
    """Returns a head's mask logits of regions, (B, N, M, M, C), float32."""
    pooled_BNPQI = roi.align(
      levels[:4], boxes_BN4, STRIDES[:4], MASK_BINS, self.samples, self.aligned
    )
    return self.mask_heads[head](pooled_BNPQI)

  def drawn(
    self, levels: Sequence[jax.Array], boxes_BK4: jax.Array, label_BK: jax.Array
  ) -> jax.Array:
    """Returns the mean over heads of the masks of objects: (B, K, M, M)."""
    label_BK111 = jnp.maximum(label_BK, 0)[..., None, None, None]

    def own(head: int) -> jax.Array:
      logits_BKMMD = self.masked(head, levels, boxes_BK4)
      logits_BKMM1 = jnp.take_along_axis(logits_BKMMD, label_BK111, axis=-1)
      return jax.nn.sigmoid(logits_BKMM1[..., 0])

    return sum(map(own, range(len(self.stds)))) / len(self.stds)


class RPN(nn.Module):
  """Proposals of regions that may show an object, of any class (arXiv:1506.01497).

  It scores and moves anchors at each cell of each level: one size, 8 strides, with
  `ratios` of height to width. The best `candidates` of each level remain, overlap
  others of their level with an IoU of at most `overlap`, and the best `proposals` of an
  image are returned; both numbers are for training and for evaluation. `rounded` rounds
  anchors as torchvision does.
  """

  channels: int = 256
  ratios: Sequence[float] = (0.5, 1.0, 2.0)
  candidates: tuple[int, int] = (2000, 1000)
  proposals: tuple[int, int] = (1000, 1000)
  overlap: float = 0.7
  rounded: bool = False
  dtype: str = 'float32'

  tiny = dict(channels=16, candidates=50, proposals=40)

  @nn.compact
  def __call__(
    self, levels: Sequence[jax.Array], size_B2: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    start = nn.initializers.normal(0.01)

    def conv(name: str, channels: int, size: int) -> nn.Conv:
      return convolution.conv(
        name, channels, size, use_bias=True, kernel_init=start, dtype=self.dtype
      )

    hidden = conv('conv', self.channels, 3)
    score = conv('score', len(self.ratios), 1)
    move = conv('move', 4 * len(self.ratios), 1)

    def of_level(x_BhwC: jax.Array, stride: int) -> tuple[jax.Array, ...]:
      x_BhwC = nn.relu(hidden(x_BhwC))
      logits_BN = precision.at_least_float32(score(x_BhwC)).reshape(len(x_BhwC), -1)
      deltas_BN4 = precision.at_least_float32(move(x_BhwC)).reshape(*logits_BN.shape, 4)
      anchors_N4 = regions.anchors(
        x_BhwC.shape[1:3], stride, (ANCHOR_SCALE * stride,), self.ratios, self.rounded
      )
      constant = jax.lax.stop_gradient((anchors_N4, logits_BN, deltas_BN4))
      return anchors_N4, logits_BN, deltas_BN4, *self.best(*constant, size_B2, train)

    places, logits, deltas, proposals, scores = zip(
      *map(of_level, levels, STRIDES), strict=True
    )
    score_BR, boxes_BR4 = (
      jnp.concatenate(parts, axis=1) for parts in (scores, proposals)
    )
    most = min(self.proposals[0 if train else 1], score_BR.shape[1])
    score_BK, chosen_BK = jax.lax.top_k(score_BR, most)
    boxes_BK4 = jnp.take_along_axis(boxes_BR4, chosen_BK[..., None], axis=1)
    return {
      'anchors': jnp.concatenate(places),
      'anchor_logits': jnp.concatenate(logits, axis=1),
      'anchor_deltas': jnp.concatenate(deltas, axis=1),
      'proposals': jnp.where((score_BK > 0)[..., None], boxes_BK4, 0.0),
      'proposal_scores': jnp.maximum(score_BK, 0.0),
    }

  def best(
    self,
    anchors_N4: jax.Array,
    logits_BN: jax.Array,
    deltas_BN4: jax.Array,
    size_B2: jax.Array,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns boxes of a level and their scores, -1 for those that do not remain."""
    most = min(self.candidates[0 if train else 1], logits_BN.shape[1])
    logits_BR, chosen_BR = jax.lax.top_k(logits_BN, most)
    deltas_BR4 = jnp.take_along_axis(deltas_BN4, chosen_BR[..., None], axis=1)
    boxes_BR4 = clipped(regions.decode(anchors_N4[chosen_BR], deltas_BR4), size_B2)
    sides_BR2 = boxes_BR4[..., 2:] - boxes_BR4[..., :2]
    valid_BR = (sides_BR2 >= SMALLEST_PROPOSAL).all(axis=-1)
    score_BR = jax.nn.sigmoid(logits_BR)
    kept_BR = jax.vmap(nms.kept, in_axes=(0, 0, 0, None))(
      boxes_BR4, score_BR, valid_BR, self.overlap
    )
    return boxes_BR4, jnp.where(kept_BR, score_BR, -1.0)


class BoxFeatures(nn.Module):
  """Features of regions, (B, N, P, Q, C) to (B, N, F): convolutions, dense layers."""

  channels: int
  convs: int
  fcs: int
  hidden: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BNPQC: jax.Array, train: bool = False) -> jax.Array:
    batch, count, *bins, channels = x_BNPQC.shape
    x_nPQC = x_BNPQC.reshape(batch * count, *bins, channels)
    for i in range(1, self.convs + 1):
      x_nPQC = convolution.ConvNorm(
        self.channels, 3, dtype=self.dtype, name=f'conv{i}'
      )(x_nPQC, train)
    x_BNF = x_nPQC.reshape(batch, count, -1)
    for i in range(1, self.fcs + 1):
      x_BNF = nn.relu(
        nn.Dense(
          self.hidden,
          kernel_init=nn.initializers.xavier_uniform(),
          dtype=self.dtype,
          name=f'fc{i}',
        )(x_BNF)
      )
    return x_BNF


class BoxHead(nn.Module):
  """Class logits (B, N, C) and deltas (B, N, G, 4) of regions, float32."""

  classes: int
  groups: int
  dtype: str = 'float32'

  def setup(self) -> None:
    self.classify = nn.Dense(
      self.classes, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype
    )
    self.move = nn.Dense(
      4 * self.groups, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype
    )

  def __call__(self, x_BNF: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits_BNC, deltas_BNX = (
      precision.at_least_float32(dense(x_BNF)) for dense in (self.classify, self.move)
    )
    return logits_BNC, deltas_BNX.reshape(*logits_BNC.shape[:2], self.groups, 4)

  def classifier(self) -> tuple[jax.Array, jax.Array]:
    """Returns the kernel (F, C) and the bias (C) of the classes."""
    params = self.classify.variables['params']
    return params['kernel'], params['bias']


class MaskHead(nn.Module):
  """Mask logits of each class from features of regions: (B, N, 2 P, 2 Q, D), float32.

  Four 3x3 convolutions, one that doubles the size, and a 1x1 convolution.
  """

  classes: int
  channels: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_BNPQI: jax.Array) -> jax.Array:
    def conv(name: str, channels: int, size: int) -> nn.Conv:
      return convolution.conv(name, channels, size, use_bias=True, dtype=self.dtype)

    batch, count, *bins, channels = x_BNPQI.shape
    x_nPQI = x_BNPQI.reshape(batch * count, *bins, channels)
    for i in range(1, 5):
      x_nPQI = nn.relu(conv(f'conv{i}', self.channels, 3)(x_nPQI))
    x_nMMI = nn.relu(Double(self.channels, self.dtype, name='double')(x_nPQI))
    logits_nMMD = precision.at_least_float32(conv('predict', self.classes, 1)(x_nMMI))
    return logits_nMMD.reshape(batch, count, *logits_nMMD.shape[1:])


class Double(nn.Module):
  """A transposed 2x2 convolution of stride 2, (n, P, Q, C) to (n, 2 P, 2 Q, C)."""

  channels: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_nPQC: jax.Array) -> jax.Array:
    count, rows, columns, inputs = x_nPQC.shape
    kernel_CrsO = self.param(
      'kernel',
      nn.initializers.variance_scaling(
        2.0, 'fan_in', 'normal', in_axis=0, out_axis=-1, batch_axis=(1, 2)
      ),
      (inputs, 2, 2, self.channels),
    )
    bias_O = self.param('bias', nn.initializers.zeros, (self.channels,))
    y_nPrQsO = jnp.einsum(
      'nPQC,CrsO->nPrQsO',
      x_nPQC.astype(self.dtype),
      kernel_CrsO.astype(self.dtype),
    )
    y_nMMO = y_nPrQsO.reshape(count, 2 * rows, 2 * columns, self.channels)
    return y_nMMO + bias_O[None, None, None].astype(y_nMMO.dtype)


def whole(image_BHWI: jax.Array, size_B2: jax.Array | None) -> jax.Array:
  """Returns the sizes of pictures, those of the whole images by default: (B, 2)."""
  if size_B2 is not None:
    return size_B2
  return jnp.tile(jnp.array([image_BHWI.shape[1:3]]), (len(image_BHWI), 1))


def clipped(corners: jax.Array, size_B2: jax.Array) -> jax.Array:
  """Clips boxes (B, ..., 4) to the pictures."""
  limits = boxes.corner_scale(size_B2)[:, 0]
  limits = limits.reshape(len(limits), *[1] * (corners.ndim - 2), 4)
  return jnp.clip(corners, 0.0, limits)


def likeliest(boxes_BNG4: jax.Array, logits_BNC: jax.Array) -> jax.Array:
  """Returns the box of each region's likeliest class, not background: (B, N, 4)."""
  if boxes_BNG4.shape[2] == 1:
    return boxes_BNG4[:, :, 0]
  label_BN11 = logits_BNC[..., :-1].argmax(axis=-1)[..., None, None]
  return jnp.take_along_axis(boxes_BNG4, label_BN11, axis=2)[:, :, 0]
