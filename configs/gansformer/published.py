"""GANsformer and its baselines at 256x256, arXiv:2103.01209.

    python -m big_vision_like.train \
        --config=configs/gansformer/published.py:ffhq,duplex --workdir=runs/gan_ffhq

The data are `clevr`, `bedrooms`, `ffhq`, `cityscapes`, or `ffhq1024` (FFHQ at
1024x1024). The model is

- `duplex` (the default) or `simplex`: 16 components of width 32 (CLEVR: 8 of width 16,
  without modulated convolutions and attention among latents), as in the authors' code;
- `paper`: simplex attention in both networks and no global latent, as in the paper;
- `stylegan2`; `gan`: StyleGAN2 without styles, whose first map comes from the latent;
  `sagan`: the same with attention among pixels at 32x32; `kgan`: 8 images, blended.

Adam with 0.002, 25 million images in batches of 32, R1 every 16 steps with gamma 40
(CLEVR), 100 (Bedrooms), 10 (FFHQ) or 20 (Cityscapes), averages with a half-life of
10,000 images, styles mixed for 90 % of images. The authors trained on 4 GPUs for 3 to 4
days, some models for 5 to 15 million images.

Published FID of 50,000 samples (README of dorarad/gansformer; configs/papers has all
numbers): GANsformer 9.24 on CLEVR, 6.15 on Bedrooms, 7.42 on FFHQ, 5.23 on Cityscapes;
StyleGAN2 16.05, 11.53, 10.83 and 8.35; GAN 25.02, 12.16, 13.18 and 11.57. Not trained
here: the networks have the published numbers of parameters and outputs.

Evaluation needs the Inception of mseitzer/pytorch-fid and torchvision's VGG16 in
weights/.
"""

from typing import Any

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import generation as data
from big_vision_like.evals import generation
from big_vision_like.models import discriminator, gansformer, kgan
from big_vision_like.run import features
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import adversarial

GAMMAS = dict(clevr=40.0, bedrooms=100.0, ffhq=10.0, cityscapes=20.0, ffhq1024=10.0)
MODELS = ('duplex', 'simplex', 'paper', 'stylegan2', 'gan', 'sagan', 'kgan')
ARGUMENTS = (
  *(f'{name},duplex' for name in GAMMAS),
  *(f'clevr,{model}' for model in MODELS[1:]),
)
IMAGES, BATCH = 25_000_000, 32


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=GAMMAS, model=MODELS)
  c = mlc.ConfigDict(dict(seed=0, total_steps=IMAGES // BATCH, log_every=100))
  c.checkpoint_every, c.keep_best = 5_000, 'fid/fid'
  side = 1024 if arg.data == 'ffhq1024' else 256
  images = getattr(data, arg.data.removesuffix('1024'))(side)
  c.train_data = images.train_input(batch_size=BATCH, seed=c.get_ref('seed'))
  c.task = spec(
    adversarial.Adversarial,
    generator=generator(arg.model, arg.data, side),
    discriminator=judge(arg.model, arg.data, side),
    generator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=4),
    discriminator_optimizer=spec(adversarial.lazy_adam, rate=0.002, every=16),
    ema=spec(optim.Ema, half_life=10_000, collections=('params',)),
    r1=GAMMAS[arg.data],
  )

  def measured(evaluator: type, network: mlc.ConfigDict) -> mlc.ConfigDict:
    return spec(
      evaluator,
      data=images.eval_input(batch_size=BATCH, part='train'),
      network=network,
      ratio=images.ratio,
      samples=50_000,
      every=25_000,
    )

  inception = 'weights/pt_inception-2015-12-05-6726825d.pth'
  vgg16 = 'weights/vgg16-397923af.pth'
  c.evals = dict(
    fid=measured(generation.Fid, spec(features.Inception, path=inception)),
    pr=measured(generation.PrecisionRecall, spec(features.Vgg16, path=vgg16)),
  )
  return c


def latents(name: str) -> dict[str, int]:
  """Returns number and width of components for a data set."""
  if name == 'clevr':
    return dict(components=8, latent_width=16)
  return dict(components=16, latent_width=32)


def generator(model: str, name: str, side: int) -> mlc.ConfigDict:
  """Returns the generator of a model for a data set."""
  if model == 'kgan':
    return spec(
      kgan.Generator,
      resolution=side,
      components=8,
      latent_width=64,
      merge_at=32,
      architecture='skip',
      mapping=dict(residual=False),
    )
  if model in ('stylegan2', 'gan', 'sagan'):
    own: dict[str, Any] = dict(components=0, latent_width=512, architecture='skip')
    own['mapping'] = dict(residual=False)
    if model != 'stylegan2':
      own |= dict(style=False, stem='latent')
    if model == 'sagan':
      own['self_attention_at'] = 32
  else:
    own = latents(name)
    own['attention'] = dict(duplex=model == 'duplex')
    if name == 'clevr':
      own |= dict(style=False, mapping=dict(attention=False))
    if model == 'paper':
      own |= dict(style=False, has_global=False)
  return spec(gansformer.Generator, resolution=side, **own)


def judge(model: str, name: str, side: int) -> mlc.ConfigDict:
  """Returns the discriminator of a model for a data set."""
  own = {}
  if model == 'paper':
    counts = latents(name)
    own = dict(components=counts['components'], aggregator_width=counts['latent_width'])
  return spec(discriminator.Discriminator, resolution=side, **own)
