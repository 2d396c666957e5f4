"""Position embeddings of ViT-B/16 compared, as in arXiv:2010.11929 (table 8).

    python -m big_vision_like.train --config=configs/vit/posemb.py:1d,stem \
        --workdir=runs/posemb_1d_stem

The argument is KIND,PLACE. KIND is

- none;
- 1d (the default): learned, one embedding for each patch;
- 2d: learned, half of the embedding for the row and half for the column;
- relative: learned keys by distance in raster order, in all layers.

PLACE is stem (added once), every (other embeddings before each block) or shared (the
same embeddings before each block). Relative positions have no stem: the paper gives one
number, which is listed here for `relative,every`.

Expected accuracy of the 5-shot linear probe on ImageNet: 0.64206 for `1d,stem`; `python
tools/paper_tables.py 2010.11929 --table=8` prints the others. The training time is
unknown; `python -m big_vision_like.plan` estimates it.

Models are pre-trained as B/16 in jft.py, for 7 epochs at a learning rate of 8e-4, on
data that you prepare under the name `jft`.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import benchmarks
from big_vision_like.data.transforms import image
from big_vision_like.evals import classification, fewshot
from big_vision_like.models import vit
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification as tasks

ARGUMENTS = ('1d,stem', 'none,stem', '2d,shared', 'relative,every')
# Names of `vit.ViT.posemb`.
KINDS = {'none': 'none', '1d': 'learned', '2d': 'learned2d', 'relative': 'relative'}


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, kind=KINDS, place=('stem', 'every', 'shared'))
  sizes = vit.variant('B/16')
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=1000))
  c.total_steps = epochs(7)
  c.train_data = benchmarks.JFT.train_input(
    'train',
    [spec(image.InceptionCrop, size=224), spec(image.Flip)],
    batch_size=4096,
    seed=c.get_ref('seed'),
    workers=32,
  )
  c.task = spec(
    tasks.Classification,
    model=spec(
      vit.ViT,
      num_classes=benchmarks.JFT.num_classes,
      **sizes,
      posemb=KINDS[arg.kind],
      posemb_at=arg.place,
      rep_size=sizes['width'],
      head_bias=-10.0,
      scan=True,
      remat='dots',
      dtype='bfloat16',
    ),
    loss_type='sigmoid',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optim.linear,
        peak_value=8e-4,
        warmup_steps=10_000,
        total_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.1,
    ),
  )
  val = benchmarks.JFT.eval_input(
    'val',
    [spec(image.ResizeSmall, size=256), spec(image.CentralCrop, size=224)],
    batch_size=4096,
    workers=32,
  )
  probe = benchmarks.FEWSHOT['imagenet']
  squashed = [spec(image.Resize, size=256), spec(image.CentralCrop, size=224)]
  c.evals = dict(
    val=spec(classification.Accuracy, data=val, every=5000),
    imagenet=spec(
      fewshot.FewShot,
      train=probe.eval_input('train', squashed, batch_size=4096, workers=32),
      data=probe.eval_input('test', squashed, batch_size=4096, workers=32),
      shots=(5,),
    ),
  )
  return c
