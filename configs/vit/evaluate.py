"""Published weights of ViTs, evaluated without training.

    python -m big_vision_like.evaluate --config=configs/vit/evaluate.py:imagenet \
        --weights=weights/augreg/B_16_imagenet2012_384.npz

DATA is imagenet (with ImageNet-ReaL), cifar10, cifar100, pets or flowers. The model is
that of the weights, whatever its size; they may be timm's or transformers' too. What
happens to images is the weights' business as well: size, crop, mean and deviation.
`--preprocessing=config` has images of 384 pixels in [-1, 1] instead. `--workdir=FOLDER`
keeps the results. Minutes on an accelerator, hours on CPUs for ImageNet.

On ImageNet expect of AugReg's recommended weights (google-research/vision_transformer,
gs://vit_models/augreg, 384 pixels) the top-1 in AUGREG, of timm's the top-1 and ReaL in
TIMM.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('imagenet', 'cifar10', 'pets')
AUGREG = {
  'L/16': 85.59,
  'B/16': 85.49,
  'S/16': 83.73,
  'R50+L/32': 85.99,
  'R26+S/32': 83.85,
  'Ti/16': 78.22,
  'B/32': 83.59,
  'S/32': 79.58,
  'R+Ti/16': 75.40,
}
TIMM = {
  'vit_base_patch16_224.augreg_in21k_ft_in1k': (84.53, 88.89),
  'vit_base_patch16_384.augreg_in21k_ft_in1k': (86.01, 89.97),
  'vit_large_patch16_384.augreg_in21k_ft_in1k': (87.10, 90.22),
  'vit_small_patch16_224.augreg_in21k_ft_in1k': (81.40, 86.85),
  'vit_tiny_patch16_224.augreg_in21k_ft_in1k': (75.45, 82.06),
  'vit_base_patch8_224.augreg_in21k_ft_in1k': (85.84, 89.46),
  'vit_base_patch16_384.orig_in21k_ft_in1k': (84.21, 88.40),
  'vit_base_r50_s16_384.orig_in21k_ft_in1k': (84.99, 88.80),
}


def get_config(data: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  images = benchmarks.chosen(data, benchmarks.TRANSFER)
  squashed = [spec(image.Resize, size=384)]
  c = mlc.ConfigDict(dict(total_steps=1))
  c.train_data = images.train_input('train', squashed, batch_size=256)
  c.task = spec(
    tasks.Classification,
    model=spec(vit.ViT, num_classes=images.num_classes, **vit.variant('B/16')),
    optimizer=spec(optim.momentum, rate=0.0),  # nothing is trained
  )
  test = images.eval_input('test', squashed, batch_size=256)
  c.evals = dict(test=spec(classification.Accuracy, data=test))
  if data == 'imagenet':
    c.evals.real = spec(
      classification.RealAccuracy, data=benchmarks.imagenet_real(squashed, 256)
    )
  return c
