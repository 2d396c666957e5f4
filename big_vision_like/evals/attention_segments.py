"""Agreement of a generator's attention with the objects that it draws.

Axes: B batch, H W image, C channels, K components, h w grid of attention, N samples.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from big_vision_like.errors import UserError
from big_vision_like.evals import samples
from big_vision_like.evals.evaluator import Arrays, Predict, Results
from big_vision_like.evals.object_discovery import adjusted_rand_index
from big_vision_like.viz import generation


@dataclasses.dataclass(kw_only=True)
class AttentionSegments(samples.Samples):
  """Adjusted Rand index of components against the foreground of generated images.

  Generated images have no masks. Their foreground is defined by colour: pixels that
  differ from the flat `background` by more than `apart` in some channel, all of uint8.
  The prediction returns `attention` (B, K, h, w); each pixel of the image belongs to
  the component with the greatest attention there.

  `ari` compares components with foreground and background, among all pixels, and is
  lowered by more components than two. `ari_merged` compares them after components are
  merged into those that cover more foreground and those that cover more background,
  given the true ones. Both are means over the images with a foreground, whose share of
  all samples is `drawn`. Chance is about 0.
  """

  samples: int = 1_000
  pictures: int = 8
  background: int = 128
  apart: int = 48

  def reports(self) -> Mapping[str, str]:
    return {r'ari(_merged)?': 'max', 'drawn': 'max'}

  def shown(self, outputs: Arrays) -> Arrays:
    return super().shown(outputs) | {'attention': attention_of(outputs)}

  def measure(self, outputs: Arrays, variables: Any) -> Arrays:
    del variables
    image_BHWC = samples.to_uint8(outputs['image']).astype(jnp.int32)
    front_BHW = (jnp.abs(image_BHWC - self.background) > self.apart).any(axis=-1)
    attention_BKhw = attention_of(outputs)
    count, size = attention_BKhw.shape[1], front_BHW.shape[1:]
    resized = (len(front_BHW), count, *size)
    attention_BKHW = jax.image.resize(attention_BKhw, resized, 'nearest')
    ids_K11 = jnp.arange(count)[:, None, None]
    own_BKHW = attention_BKHW.argmax(axis=1)[:, None] == ids_K11[None]
    sides = ~front_BHW, front_BHW
    pixels = [(own_BKHW & side_BHW[:, None]).sum(axis=(2, 3)) for side_BHW in sides]
    both_BK2 = jnp.stack(pixels, axis=-1)
    is_front_BK1 = both_BK2[..., 1:] > both_BK2[..., :1]
    groups = ~is_front_BK1, is_front_BK1
    merged_B22 = jnp.stack([(both_BK2 * own).sum(axis=1) for own in groups], axis=1)
    some_B = front_BHW.any(axis=(1, 2)) & ~front_BHW.all(axis=(1, 2))
    return {
      'ari': adjusted_rand_index(both_BK2),
      'ari_merged': adjusted_rand_index(merged_B22),
      'drawn': some_B,
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    parts, shown = [], {}
    for values, own in self.drawn(predict, state, mesh):
      parts.append(values)
      shown = shown or own
    values = {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}
    some_N = values['drawn']
    scalars = {'drawn': float(some_N.mean())}
    for name in 'ari', 'ari_merged':
      # Without any foreground, attention cannot find it.
      scalars[name] = float(values[name][some_N].mean()) if some_N.any() else 0.0
    sheet_HWC = generation.attention(shown['image'], shown['attention'])
    return Results(scalars, {'attention': sheet_HWC[None]})


def attention_of(outputs: Arrays) -> jax.Array:
  """Returns the attention (B, K, h, w) of a prediction."""
  if 'attention' not in outputs:
    raise UserError(
      'the prediction returns no `attention`: the generator does not attend to'
      ' components, so leave this evaluator out'
    )
  return outputs['attention']
