"""Report section of Visual Transformers: their tokens, drawn over the image."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from big_vision_like.models import visual_transformer
from big_vision_like.report import page
from big_vision_like.report.source import Section, evenly
from big_vision_like.viz import images, visual_tokens

NUM_MEASURED, NUM_IMAGES = 64, 3


def tokens_over_image(source: Any) -> tuple[str, str]:
  """Shows the pixels that the tokens of each module attend to."""
  trained = source.trained
  image_BHWC = trained.images()
  image_BHWC = image_BHWC[evenly(len(image_BHWC), NUM_MEASURED)]
  sown = jax.jit(trained.collect)(trained.variables, image_BHWC)
  maps = maps_of_modules(trained, sown, image_BHWC)
  rows = [
    [name, f'{visual_tokens.mean_cosine(map_BLhw):.3f}']
    for name, map_BLhw in maps.items()
  ]
  content = page.table(['module', 'mean cosine of two tokens'], rows)
  for row in evenly(len(image_BHWC), NUM_IMAGES):
    image_HWC = image_BHWC[row]
    if np.issubdtype(image_HWC.dtype, np.floating):
      image_HWC = 0.5 * (image_HWC + 1.0)
    for name, map_BLhw in maps.items():
      drawn_HWC = visual_tokens.sheet(images.to_rgb(image_HWC), map_BLhw[row])
      content += page.heading(f'image {row}, {name}')
      content += page.picture(drawn_HWC, f'tokens of {name}')
  caption = (
    'An image, then for each token the image, lit where the token attends (by weight, '
    'averaged over heads; the largest is brightest). The cosine compares the weights '
    f'of two tokens, averaged over all pairs of tokens and {len(image_BHWC)} images: '
    'it is 1 if all tokens of a module attend to the same places.'
  )
  return content, caption


def maps_of_modules(
  trained: Any, sown: Mapping[str, Any], image_BHWC: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the weights of pixels in tokens (B, L, h, w), by module and tokenizer."""
  shapes = jax.eval_shape(
    lambda image_BHWC: trained.model.apply(
      trained.variables, *trained.inputs(image_BHWC)
    ),
    image_BHWC,
  )
  grid = shapes['map'].shape[1:3]
  found = {}
  for number in range(1, trained.model.depth + 1):
    parts = sown[f'module{number}']['tokenizer']
    [(kind, probs_BGLP)] = [
      (kind, part['probs'][-1]) for kind, part in parts.items() if 'probs' in part
    ]
    found[f'module {number}, {kind}'] = visual_tokens.maps_of(probs_BGLP, grid)
  return found


OF_MODELS = {
  visual_transformer.VisualTransformer: (
    Section('Visual tokens', tokens_over_image, 'below'),
  )
}
