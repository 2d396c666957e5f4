"""Models of texts and regions that see an image as a grid of cells.

The cells of an encoder's feature map, or plain patches, take the place of detected
regions (arXiv:2103.04037 section 3): each has features, and its location in the image.
The cell in row 0 represents the whole image, as for stored regions.

Axes: B batch, T tokens, H W image, h w grid, P side of a patch, I channels, F features,
N cells, R regions; 5 is left, top, right, bottom and area as fractions of the image.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError

WHOLE = (0.0, 0.0, 1.0, 1.0, 1.0)


class Patches(nn.Module):
  """An encoder without parameters: the pixels of square patches, as `patches`."""

  size: int

  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    del train
    batch, height, width, channels = image_BHWI.shape
    size = self.size
    if height % size or width % size:
      raise UserError(
        f'images of {height}x{width} pixels do not divide into patches of {size}:'
        ' resize them, or choose another size'
      )
    rows, columns = height // size, width // size
    x_BhPwPI = image_BHWI.reshape(batch, rows, size, columns, size, channels)
    x_BhwPPI = x_BhPwPI.swapaxes(2, 3)
    return {'patches': x_BhwPPI.reshape(batch, rows, columns, -1)}


class GridPairs(nn.Module):
  """A model of texts and regions whose regions are the cells of images.

  `encoder` maps images to named arrays, of which `cells` is a feature map (B, h, w, F),
  such as `stage4` of `resnet.ResNet`, or `patches` of `Patches`. `pairs` is a
  `vilbert.ViLBERT` or `visual_bert.VisualBert`. Outputs are those of `pairs`.
  """

  encoder: nn.Module
  pairs: nn.Module
  cells: str = 'patches'

  @property
  def sharding_rules(self) -> tuple:
    return tuple(getattr(self.pairs, 'sharding_rules', ()))

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    token_types_BT: jax.Array,
    token_mask_BT: jax.Array,
    image_BHWI: jax.Array,
    task_B: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    encoded = self.encoder(image_BHWI, train=train)
    if self.cells not in encoded:
      raise UserError(
        f'the encoder has no output cells={self.cells!r}; it has {", ".join(encoded)}'
      )
    x_BhwF = encoded[self.cells]
    batch, rows, columns, features = x_BhwF.shape
    cells_BNF = x_BhwF.reshape(batch, rows * columns, features)
    mean_B1F = cells_BNF.mean(axis=1, keepdims=True)
    regions_BRF = jnp.concatenate([mean_B1F, cells_BNF], axis=1)
    locations_R5 = jnp.asarray(locations(rows, columns), regions_BRF.dtype)
    count = len(locations_R5)
    return self.pairs(
      tokens_BT,
      token_types_BT,
      token_mask_BT,
      regions_BRF,
      jnp.broadcast_to(locations_R5[None], (batch, count, 5)),
      jnp.ones((batch, count), bool),
      task_B,
      train,
    )


def locations(rows: int, columns: int) -> np.ndarray:
  """Returns the locations of the whole image and of the cells of a grid, (R, 5)."""
  top_N, left_N = (x.ravel() for x in np.mgrid[:rows, :columns])
  right_N, bottom_N = (left_N + 1) / columns, (top_N + 1) / rows
  area_N = np.full(rows * columns, 1 / (rows * columns))
  cells_N5 = np.stack(
    [left_N / columns, top_N / rows, right_N, bottom_N, area_N], axis=1
  )
  return np.concatenate([np.array([WHOLE]), cells_N5]).astype(np.float32)
