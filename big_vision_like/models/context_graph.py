"""Actors that attend to their surroundings, arXiv:2107.13648: action detection.

Extends `i3d`. A clip is given with boxes of its actors. Each actor is pooled from the
feature map of the clip and then updated by graph layers, in which every actor attends
to all cells of the map: to objects, to other actors, to the background. The attention
shows what an action was recognized by.

Axes: B batch, A actors, S slices of the map in time, P Q bins of a box, T H W frames,
rows and columns of a clip, t h w the map, M all cells of the map, E channels of the
map, or of cells with their places, I input channels, C channels or classes, D features,
F features that are classified, G graphs, K features of a graph, N boxes.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, check_one_of
from big_vision_like.models import i3d
from big_vision_like.ops import attention, precision, roi
from big_vision_like.ops.convolution import convolve

MERGES = ('concat', 'sum')
linear_normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
relu_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
# Bounds of uniform initial weights of the context, in the first and in other layers.
CONTEXT_BOUNDS = (0.024, 0.034)


class ActorModel(nn.Module):
  """The class of each actor of a clip, from the clip and the boxes of its actors.

  It maps clips (B, T, H, W, I), boxes (B, A, S, 4), xyxy in cells of the feature map,
  and a mask (B, A), False for padding, to `logits` (B, A, C), float32, and `features`
  (B, A, D), the pooled actors. Boxes have one entry for each of the S slices of the
  map.

  `backbone` returns the feature map of a clip by the name `endpoint`. `actor` turns the
  regions of actors, (N, S, P, P, C) with the mask (N,), into features. With `graph`,
  features are updated by what the actors attend to; without, they are classified as
  they are (the baseline). Regions have `pool` rows and columns, and `side` is the side
  of the map to which coordinates of actors are relative. Dropout of rate `dropout`
  precedes the graph and the classifier. Rows of padding are zero.
  """

  num_classes: int
  backbone: nn.Module
  actor: nn.Module
  graph: nn.Module | None = None
  endpoint: str = 'mixed_4f'
  pool: int = 7
  side: int = 14
  dropout: float = 0.5
  dtype: str = 'float32'

  tiny = dict(pool=3)

  @nn.compact
  def __call__(
    self,
    video_BTHWI: jax.Array,
    boxes_BAS4: jax.Array,
    mask_BA: jax.Array,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    maps = self.backbone(video_BTHWI, train)
    if self.endpoint not in maps:
      raise UserError(
        f'endpoint={self.endpoint!r} is not a map of the backbone, which has'
        f' {", ".join(maps)}'
      )
    map_BthwE = maps[self.endpoint]
    mask_BA = mask_BA.astype(bool)
    pooled = pool_actors(map_BthwE, boxes_BAS4, mask_BA, self.pool)
    batch, actors = mask_BA.shape
    pooled_NSPPE = pooled.reshape(batch * actors, *pooled.shape[2:])
    features_ND = self.actor(pooled_NSPPE, mask_BA.reshape(-1), train)
    features_BAD = features_ND.reshape(batch, actors, -1)
    features_BAD = jnp.where(mask_BA[..., None], features_BAD, 0.0).astype(self.dtype)
    drop = functools.partial(nn.Dropout, self.dropout, deterministic=not train)
    x_BAF, classifier_init = drop()(features_BAD), linear_normal
    if self.graph is not None:
      places_BA4 = coordinates(boxes_BAS4, self.side)
      x_BAF = drop()(self.graph(x_BAF, places_BA4, mask_BA, map_BthwE, train))
      classifier_init = relu_normal
    head = nn.Dense(
      self.num_classes, dtype=self.dtype, kernel_init=classifier_init, name='head'
    )
    logits_BAC = precision.at_least_float32(head(x_BAF))
    logits_BAC = jnp.where(mask_BA[..., None], logits_BAC, 0.0)
    return {'logits': logits_BAC, 'features': features_BAD}


class InceptionActor(nn.Module):
  """The last mixed layers of an I3D on the region of an actor, averaged: (N, D)."""

  divisor: int = 1
  dtype: str = 'float32'

  tiny = dict(divisor=lambda arguments, _: max(16, arguments['divisor']))

  @nn.compact
  def __call__(
    self, x_NSPPC: jax.Array, mask_N: jax.Array, train: bool = False
  ) -> jax.Array:
    for name in ('mixed_5b', 'mixed_5c'):
      x_NSPPC = i3d.mixed(name, self.divisor, self.dtype)(x_NSPPC, train, mask_N)
    return precision.at_least_float32(x_NSPPC).mean((1, 2, 3)).astype(self.dtype)


class ConvTrunk(nn.Module):
  """Two 3-D convolutions for small clips: the map `trunk` with a quarter of each side.

  A cell sees 11x11 pixels of three frames. Padding is symmetric, so that cell (i, j) is
  centred on pixel (4 i, 4 j), as rounded corners of boxes are.
  """

  channels: Sequence[int] = (16, 24)
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, video_BTHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train
    x = video_BTHWI
    for number, (channels, side) in enumerate(zip(self.channels, (7, 3), strict=True)):
      x = nn.Conv(
        channels,
        (2 * number + 1, side, side),
        (1, 2, 2),
        ((number, number), (side // 2,) * 2, (side // 2,) * 2),
        dtype=self.dtype,
        conv_general_dilated=convolve,
        name=f'conv{number + 1}',
      )(x)
      x = nn.relu(x)
    return {'trunk': x}


class MeanActor(nn.Module):
  """The mean of the region of an actor: (N, D)."""

  @nn.compact
  def __call__(
    self, x_NSPPC: jax.Array, mask_N: jax.Array, train: bool = False
  ) -> jax.Array:
    del mask_N, train
    return x_NSPPC.mean(axis=(1, 2, 3))


class ContextGraph(nn.Module):
  """Graph layers that update actors by cells of the map: (B, A, D) to (B, A, G K).

  Cells have two more channels, their places x and y in [-1, 1]. Whole channels of the
  map are dropped, and features in the layers. Graphs are concatenated after each layer;
  `merge` says if they are after the last one, or summed.
  """

  layers: int = 2
  graphs: int = 2
  width: int = 256
  merge: str = 'concat'
  dropout: float = 0.5
  dtype: str = 'float32'

  tiny = dict(width=16)

  @nn.compact
  def __call__(
    self,
    x_BAD: jax.Array,
    places_BA4: jax.Array,
    mask_BA: jax.Array,
    map_BthwC: jax.Array,
    train: bool = False,
  ) -> jax.Array:
    check_one_of(MERGES, merge=self.merge)
    if self.layers < 1:
      raise UserError(f'layers={self.layers}: a context graph needs at least one layer')
    context_BthwE = with_places(
      nn.Dropout(self.dropout, broadcast_dims=(1, 2, 3), deterministic=not train)(
        map_BthwC
      )
    )
    for i in range(self.layers):
      x_BAD = jnp.concatenate([x_BAD, places_BA4.astype(x_BAD.dtype)], axis=-1)
      y_BAGK = GraphLayer(
        self.graphs,
        self.width,
        CONTEXT_BOUNDS[min(i, 1)],
        self.dropout,
        self.dtype,
        name=f'layer{i + 1}',
      )(x_BAD, mask_BA, context_BthwE, train)
      if self.merge == 'sum' and i == self.layers - 1:
        x_BAD = y_BAGK.sum(axis=2)
      else:
        x_BAD = y_BAGK.reshape(*y_BAGK.shape[:2], -1)
    return x_BAD


class GraphLayer(nn.Module):
  """Actors attend to cells, in each graph separately: (B, A, G, K).

  An actor's embedding is a query, the embeddings of cells are keys and values. Logits
  are not scaled. They are sown as `logits`, and their softmax as `probs`, both
  (B, G, A, t, h, w) and zero for padding, where intermediates are collected.
  """

  graphs: int
  width: int
  context_bound: float
  dropout: float = 0.5
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self,
    x_BAD: jax.Array,
    mask_BA: jax.Array,
    context_BthwE: jax.Array,
    train: bool = False,
  ) -> jax.Array:
    def dense(name: str, kernel_init: nn.initializers.Initializer) -> nn.DenseGeneral:
      return nn.DenseGeneral(
        (self.graphs, self.width), dtype=self.dtype, kernel_init=kernel_init, name=name
      )

    q_BAGK = dense('actor', linear_normal)(x_BAD)
    bound = self.context_bound
    context_init = functools.partial(_uniform, bound)
    k_BthwGK = dense('context', context_init)(context_BthwE)
    k_BMGK = k_BthwGK.reshape(len(k_BthwGK), -1, *k_BthwGK.shape[4:])
    # The core divides by sqrt(K).
    scaled_BAGK = q_BAGK * jnp.sqrt(jnp.array(self.width, q_BAGK.dtype))
    if self.is_mutable_collection('intermediates'):
      real_B1A1 = mask_BA[:, None, :, None]
      logits_BGAM = jnp.einsum(
        'BAGK,BMGK->BGAM', *map(precision.at_least_float32, (q_BAGK, k_BMGK))
      )
      probs_BGAM = attention.probabilities(scaled_BAGK, k_BMGK)
      for name, found in ('logits', logits_BGAM), ('probs', probs_BGAM):
        found = jnp.where(real_B1A1, found, 0.0)
        shape = *found.shape[:3], *k_BthwGK.shape[1:4]
        self.sow('intermediates', name, found.reshape(shape))
    u_BAGK = attention.attend(scaled_BAGK, k_BMGK, k_BMGK) + q_BAGK
    u_BAGK = nn.Dropout(self.dropout, deterministic=not train)(u_BAGK)
    kernel_GKK = self.param(
      'kernel', _of_graphs, (self.graphs, self.width, self.width)
    ).astype(self.dtype)
    return nn.relu(jnp.einsum('BAGI,GIK->BAGK', u_BAGK, kernel_GKK))


def _uniform(
  bound: float, key: jax.Array, shape: tuple[int, ...], dtype: str = 'float32'
) -> jax.Array:
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def _of_graphs(
  key: jax.Array, shape: tuple[int, ...], dtype: str = 'float32'
) -> jax.Array:
  # The graphs are no part of the fan-in.
  return nn.initializers.variance_scaling(2.0, 'fan_in', 'normal', batch_axis=(0,))(
    key, shape, dtype
  )


def pool_actors(
  map_BthwC: jax.Array, boxes_BAS4: jax.Array, mask_BA: jax.Array, size: int
) -> jax.Array:
  """Returns RoIPool of each actor's boxes on the slices: (B, A, S, size, size, C).

  Boxes are in cells of the map. Padding is pooled from boxes of one cell, cheaply.
  """
  batch, slices, height, width, channels = map_BthwC.shape
  actors = mask_BA.shape[1]
  if boxes_BAS4.shape != (batch, actors, slices, 4):
    raise UserError(
      f'boxes of actors are {list(boxes_BAS4.shape)}, but for a feature map of {slices}'
      f' slices and a mask of {list(mask_BA.shape)} they must be'
      f' {[batch, actors, slices, 4]}'
    )
  boxes_BAS4 = jnp.where(mask_BA[..., None, None], boxes_BAS4, 0.0)
  place_BS = jnp.arange(batch * slices).reshape(batch, slices)
  place_BAS = jnp.repeat(place_BS[:, None], actors, axis=1)
  pooled_NPQC = roi.pool(
    map_BthwC.reshape(batch * slices, height, width, channels),
    place_BAS.reshape(-1),
    jax.lax.stop_gradient(boxes_BAS4).reshape(-1, 4),
    1.0,
    (size, size),
  )
  return pooled_NPQC.reshape(batch, actors, slices, size, size, channels)


def coordinates(boxes_BAS4: jax.Array, side: float) -> jax.Array:
  """Returns width, height and centre of actors, from -1 to 1: (B, A, 4).

  They are means over the slices, relative to a map with this side.
  """
  low_BAS2, high_BAS2 = boxes_BAS4[..., :2], boxes_BAS4[..., 2:]
  side_BAS2, centre_BAS2 = high_BAS2 - low_BAS2, (low_BAS2 + high_BAS2) / 2
  mean_BA4 = jnp.concatenate([side_BAS2, centre_BAS2], axis=-1).mean(axis=2)
  return mean_BA4 / side * 2 - 1


def with_places(map_BthwC: jax.Array) -> jax.Array:
  """Returns a map with the places x and y of cells as channels: (B, t, h, w, C + 2)."""
  batch, slices, height, width, _ = map_BthwC.shape
  x_w, y_h = jnp.linspace(-1.0, 1.0, width), jnp.linspace(-1.0, 1.0, height)
  grid_hw2 = jnp.stack(jnp.meshgrid(x_w, y_h), axis=-1).astype(map_BthwC.dtype)
  grid_Bthw2 = jnp.broadcast_to(grid_hw2[None, None], (batch, slices, height, width, 2))
  return jnp.concatenate([map_BthwC, grid_Bthw2], axis=-1)


def published(
  num_classes: int,
  graph: bool = True,
  layers: int = 2,
  graphs: int = 2,
  width: int = 256,
  merge: str = 'concat',
  divisor: int = 1,
  dtype: str = 'float32',
  **more: int,
) -> ActorModel:
  """Returns the published network: an I3D with a context graph, or the baseline."""
  own = None
  if graph:
    own = ContextGraph(layers, graphs, width, merge, dtype=dtype)
  return ActorModel(
    num_classes,
    backbone=i3d.I3D(endpoint='mixed_4f', divisor=divisor, dtype=dtype),
    actor=InceptionActor(divisor, dtype),
    graph=own,
    dtype=dtype,
    **more,
  )
