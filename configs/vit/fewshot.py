"""Few-shot linear probes of a pre-trained ViT, as in arXiv:2010.11929 section 4.1.

    python -m big_vision_like.evaluate --config=configs/vit/fewshot.py:L/16 \
        --workdir=runs/i21k_l16

of a run of i21k.py, from its last checkpoint or any (--step). Ridge regression from the
features in front of the head to targets of +-1 on 1, 5, 10 and 25 examples of each
class, mean of three draws: caltech101, cars196, cifar100, dtd, imagenet,
oxford_iiit_pet and uc_merced. Images are squashed to 256 pixels and the middle 224
taken.

To probe the published weights of ImageNet-21k, here `weights/ViT-L_16.npz`, train: the
one step has a rate of zero.

    python -m big_vision_like.train --config=configs/vit/fewshot.py:L/16 \
        --workdir=runs/fewshot_l16

The paper draws its figures 4 and 5 with such probes and prints none of their numbers;
those of table 8 are in posemb.py.
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
