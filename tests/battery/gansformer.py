import numpy as np

from battery import Case, images
from big_vision_like.models import discriminator, gansformer, kgan

SIZE = dict(latent_width=8, channel_base=64, channel_max=12)


def latents(*shape: int) -> np.ndarray:
  return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


CANCELLED = (
  # Duplex attention with one iteration compares queries with centroids, not with keys.
  r'b\d+/conv\d/attention/(key|to_position)/.*',
  # A softmax over keys cancels a constant added to all of them.
  r'mapping_network/local/attention_\d/(key|to_position)/bias',
  r'attention_\d/(key|to_position)/bias',
)

# With an equalized learning rate, parameters are drawn from N(0, 1) and scaled down by
# the number of inputs, those of the mapping network by 100 in addition.
DEVIATIONS = (
  (r'params/mapping_network/(local|global)/(block_.*|out)/.*', 100.0),
  (r'params/.*', 1.0),
)

CASES = {
  'gansformer': Case(
    gansformer.Generator(
      8,
      components=3,
      mapping=dict(layers=2),
      attention=dict(duplex=True, num_heads=2),
      **SIZE,
    ),
    (latents(4, 4, 8),),
    ('image',),
    DEVIATIONS,
  ),
  'kgan': Case(
    kgan.Generator(8, components=3, merge_at=8, mapping=dict(layers=2), **SIZE),
    (latents(4, 3, 8),),
    ('image',),
    DEVIATIONS,
  ),
  # The deviation within groups of one image is constant: images do not see each other.
  'gan_discriminator': Case(
    discriminator.Discriminator(
      8,
      channel_base=64,
      channel_max=12,
      deviation_group=1,
      components=3,
      aggregator_width=16,
    ),
    (images(4, 8, 8, 3),),
    ('logit',),
    DEVIATIONS,
  ),
  'gansformer_ffhq': Case(
    gansformer.Generator(256, attention=dict(duplex=True)), (latents(1, 17, 32),), ()
  ),
  'gan_discriminator_256': Case(
    discriminator.Discriminator(256), (images(1, 256, 256, 3),), ()
  ),
}
