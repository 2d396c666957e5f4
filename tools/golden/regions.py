"""Golden files of features of regions."""

import jax.numpy as jnp

from big_vision_like.ops import roi
from tools.golden.common import (
  FLOAT,
  Check,
  Fields,
  Results,
  loss_and_gradients,
  two,
)


def roi_pool(description: Fields, arrays: Fields) -> Results:
  """Computes RoIPool of boxes, and its gradient for a cotangent."""
  rois_N5 = jnp.asarray(arrays['input/rois_b_x1y1x2y2'])
  image_N, boxes_N4 = rois_N5[:, 0].astype(jnp.int32), rois_N5[:, 1:]
  size = two(description['out'])
  cotangent = jnp.asarray(arrays['input/cotangent'])

  def weighted(inputs: dict) -> tuple:
    map_BhwC = jnp.moveaxis(inputs['features'], 1, -1)
    pooled_NPQC = roi.pool(
      map_BhwC, image_N, boxes_N4, description.get('spatial_scale', 1.0), size
    )
    pooled_NCPQ = jnp.moveaxis(pooled_NPQC, -1, 1)
    return (pooled_NCPQ * cotangent).sum(), pooled_NCPQ

  _, pooled_NCPQ, gradients = loss_and_gradients(
    weighted, {'features': jnp.asarray(arrays['input/features'])}
  )
  return {
    'output/pooled': (pooled_NCPQ, FLOAT),
    'grad/features': (gradients['features'], FLOAT),
  }


CHECKS = (Check(roi_pool, 'torchvision.ops.roi_pool', fields=('hw', 'n', 'out')),)
