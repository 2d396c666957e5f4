"""Captions of Flickr8k and Flickr30k with Karpathy's splits (arXiv:1502.03044).

    python tools/count_words.py data/flickr8k/dataset_flickr8k.json \
        --out data/flickr8k/words.json
    python -m big_vision_like.train --workdir=runs/captions_flickr8k \
        --config=configs/captioning/flickr.py:flickr8k,soft

The authors' models with `soft` or `hard` attention, see configs/captioning/coco.py:
data/flickr8k and data/flickr30k have the split file and the folder `images`; VGG19 is
torchvision's. RMSProp for Flickr8k and Adam for Flickr30k, as in the paper; batch 64,
30 epochs with the best checkpoint kept. The authors' sizes for Flickr are not
published with the code; those of COCO are used.

Expected on the test images, BLEU-1 to 4 without brevity penalty: Flickr8k soft 67,
44.8, 29.9 and 19.5 %, hard 67, 45.7, 31.4 and 21.3 %; Flickr30k soft 66.7, 43.4, 28.8
and 19.1 %, hard 66.9, 43.9, 29.6 and 19.9 %. Hardware and hours are not published. Not
trained here.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import captioning as data
from big_vision_like.data.transforms import image
from big_vision_like.evals import captions as evals
from big_vision_like.models import captioning, vgg
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import captioning as tasks

DATA = {name: data.PHOTOGRAPHS[name] for name in ('flickr8k', 'flickr30k')}
ARGUMENTS = ('flickr8k,soft', 'flickr30k,hard')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  arg = arguments(argument, data=DATA, attention=('soft', 'hard'))
  photographs = DATA[arg.data]
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=2_000))
  c.keep_best, c.total_steps = 'val/bleu4', epochs(30)
  steps = [
    spec(image.Decode),
    spec(image.ResizeSmall, size=256),
    spec(image.CentralCrop, size=224),
  ]
  c.train_data = photographs.train_input(64, steps, seed=c.get_ref('seed'))
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(
      init_from.from_backbone, path='weights/vgg19-dcbb9e9d.pth', at='encoder'
    ),
    leave_out=('encoder/(head|fc.)/.*',),
    allow_missing=('(?!encoder/).*',),
  )
  rate = [('encoder/.*', None), ('.*', 4e-4)]
  c.task = spec(
    tasks.Captioning,
    model=spec(
      captioning.Captioner,
      encoder=spec(vgg.VGG, **vgg.variant('VGG19')),
      decoder=spec(
        captioning.RecurrentDecoder,
        vocab_size=photographs.ids,
        **captioning.variant('authors'),
        hard=arg.attention == 'hard',
      ),
      read='stage5',
    ),
    optimizer=spec(optim.rmsprop_tf, rate=rate, decay=0.9, momentum=0.0)
    if arg.data == 'flickr8k'
    else spec(optim.adamw, rate=rate, decay_rules=[]),
    doubly=1.0,
  )

  def evaluator(split: str, every: int = 0) -> mlc.ConfigDict:
    return spec(
      evals.CaptionScores,
      data=photographs.eval_input(104, steps, split),
      vocabulary=photographs.vocabulary,
      every=every,
    )

  c.evals = dict(val=evaluator('val', every=2_000), test=evaluator('test'))
  return c
