"""Few-shot linear probes of a pre-trained ViT, as in arXiv:2010.11929 section 4.1.

    python -m big_vision_like.evaluate --config=configs/vit/fewshot.py:L/16 \
        --workdir=runs/i21k_l16

evaluates a run of i21k.py, at its last checkpoint or at another one (`--step`). The
probe is a ridge regression from the features before the head to targets of +-1, on 1,
5, 10 and 25 examples of each class, averaged over three draws. Data sets: caltech101,
cars196, cifar100, dtd, imagenet, oxford_iiit_pet and uc_merced. Images are resized to
256x256 pixels, of which the central 224x224 are used.

To probe the weights published for ImageNet-21k, stored as `weights/ViT-L_16.npz`,
train; the single step has a learning rate of zero:

    python -m big_vision_like.train --config=configs/vit/fewshot.py:L/16 \
        --workdir=runs/fewshot_l16

There is no number to expect: the paper plots such probes in figures 4 and 5 without
printing their values. posemb.py reproduces the probes of table 8, which are printed.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import fewshot
from big_vision_like.models import vit
from big_vision_like.run import init_from
from big_vision_like.spec import spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('B/16', 'R50+B/16')


def get_config(model: str = 'B/16') -> mlc.ConfigDict:
  sizes = vit.variant(model)
  resnet, plus, body = model.replace('/', '_').rpartition('+')
  c = mlc.ConfigDict(dict(seed=0, total_steps=1, log_every=1))
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_file, path=f'weights/{resnet}{plus}ViT-{body}.npz'),
    leave_out=[],
  )
  squashed = [spec(image.Resize, size=256), spec(image.CentralCrop, size=224)]
  c.train_data = benchmarks.FEWSHOT['uc_merced'].train_input(
    'train', squashed, batch_size=512, seed=c.get_ref('seed')
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=benchmarks.IMAGENET21K.num_classes,
      **sizes,
      rep_size=sizes['width'],
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    optimizer=spec(optim.momentum, rate=0.0),
  )
  c.evals = {
    name: spec(
      fewshot.FewShot,
      train=probe.eval_input('train', squashed, batch_size=512),
      data=probe.eval_input('test', squashed, batch_size=512),
    )
    for name, probe in benchmarks.FEWSHOT.items()
  }
  return c
