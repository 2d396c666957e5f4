"""Published BiTs of big_vision with norms after convolutions (version 1)."""

from functools import partial
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.models import bit as models
from big_vision_like.weights import bit, family
from big_vision_like.weights.families import bit as version2


def no_timm_config(weights: Any, images: Any) -> dict[str, dict[str, Any]]:
  """Raises a `UserError`, as no function of timm makes the model."""
  raise UserError(
    'timm has no function that makes a BiT v1: write a .safetensors file, for'
    " ResNetV2(preact=False, stem_type='same', ...)"
  )


FAMILY = family.Family(
  name='bit_v1',
  model=models.BiTv1,
  sources=(
    family.Source(
      name='big_vision BiT v1',
      suffixes=family.NPZ,
      differences=bit.BIG_VISION_V1.differences,
      read=family.of_params(bit.BIG_VISION_V1.read),
      writes={
        library: family.to_params(bit.BIG_VISION_V1.write)
        for library in ('published', 'big_vision')
      },
    ),
    *version2.torch_sources(1, no_timm_config),
  ),
  describe=partial(version2.describe, version=1),
  images=version2.FAMILY.images,
  stem=('resnet/conv_root',),
  features=version2.features,
)
