"""Captions of COCO with Karpathy's splits: Show, Attend and Tell (arXiv:1502.03044).

    python tools/count_words.py data/coco/dataset_coco.json --out data/coco/words.json
    python -m big_vision_like.train --config=configs/captioning/coco.py:tutorial \
        --workdir=runs/captions_tutorial

data/coco has dataset_coco.json and the folder `images` with train2014 and val2014.
Encoders start from weights that torchvision or Google published, under weights.

- `soft` and `hard` are the authors' models (kelvinxu/arctic-captions): the 14x14 map
  of a frozen VGG19, an LSTM of 1,800 units, 10,000 words, Adam, batch 64, doubly
  stochastic weight 1. Hard attention is trained by REINFORCE with a moving average as
  baseline. The learning rate is 4e-4 here; the authors' 0.01 is for their own Adam.
  They group batches by the length of captions and stop when BLEU on the validation
  images has not improved for ten evaluations, 2,000 updates apart; here a run has a
  fixed length, and `keep_best` keeps its best checkpoint.
  Expected on the test images, BLEU-1 to 4 without brevity penalty: `soft` 70.7, 49.2,
  34.4 and 24.3 %, `hard` 71.8, 50.4, 35.7 and 25.0 %.
- `tutorial` is the PyTorch tutorial's (sgrvinod): ResNet-101 at 256 pixels, its map
  pooled to 14x14, 512 everywhere, Adam 4e-4, values of gradients clipped to 5, 13
  epochs of batch 80. `tutorial_finetuned` continues its run, runs/captions_tutorial:
  3 epochs of batch 32 with a learning rate of 1e-4 for the encoder from its second
  stage. Norms are frozen here; the tutorial's have the statistics of each batch.
  Expected BLEU-4 on the test images with 1, 3 and 5 beams: 30.28, 33.06 and 33.29 %.
- `transformer`: six blocks of width 512 that attend to the tokens of a ViT-B/16. It is
  not from a paper, and there is no expected number.

Hardware and hours are not published. Not trained here: see configs/captioning/digits.py
for a run that takes minutes. `python tools/paper_tables.py 1502.03044` prints results
next to the published ones. There is no METEOR: it needs files that no package has.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data import captioning as data
from big_vision_like.data.transforms import image
from big_vision_like.evals import captions as evals
from big_vision_like.models import captioning, resnet, transformer, vgg, vit
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import captioning as tasks

MODELS = ('tutorial', 'tutorial_finetuned', 'soft', 'hard', 'transformer')
ARGUMENTS = MODELS
WEIGHTS = {
  'resnet': 'weights/resnet101-63fe2227.pth',
  'vgg': 'weights/vgg19-dcbb9e9d.pth',
  'vit': 'weights/ViT-B_16.npz',
}
FROZEN = ('encoder/.*', None)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  name = arguments(argument, model=MODELS).model
  photographs = data.PHOTOGRAPHS['coco']
  c = mlc.ConfigDict(dict(seed=0, log_every=50, checkpoint_every=2_000))
  c.keep_best, c.total_steps = 'val/bleu4', epochs(13)
  ids, batch_size, doubly = photographs.ids, 80, 1.0
  steps = [spec(image.Decode), spec(image.Resize, size=256)]
  if name.startswith('tutorial'):
    encoder, read, side = 'resnet', 'stage4', 14
    network = spec(resnet.ResNet, **resnet.variant('R101'), norm='frozen')
    decoder = spec(
      captioning.RecurrentDecoder, vocab_size=ids, **captioning.variant('tutorial')
    )
    optimizer = spec(
      optim.adamw, rate=[FROZEN, ('.*', 4e-4)], clip_value=5.0, decay_rules=[]
    )
  elif name == 'transformer':
    encoder, read, side = 'vit', 'tokens', None
    doubly, steps = 0.0, [spec(image.Decode), spec(image.Resize, size=224)]
    # The head is not read, but no checkpoint can hold one of no classes.
    network = spec(vit.ViT, **vit.variant('B/16'), num_classes=1)
    decoder = spec(
      captioning.TransformerDecoder,
      transformer=spec(
        transformer.Transformer,
        vocab_size=ids,
        **transformer.variant('base'),
        norm='pre',
        final_norm=True,
      ),
    )
    optimizer = spec(
      optim.adamw,
      rate=spec(
        optim.linear,
        peak_value=4e-4,
        warmup_steps=2_000,
        total_steps=c.get_ref('total_steps'),
      ),
      rate_rules=(('encoder/.*', 0.05),),
      weight_decay=1e-2,
      clip_norm=1.0,
    )
  else:
    encoder, read, side = 'vgg', 'stage5', None
    batch_size = 64
    steps = [
      spec(image.Decode),
      spec(image.ResizeSmall, size=256),
      spec(image.CentralCrop, size=224),
    ]
    network = spec(vgg.VGG, **vgg.variant('VGG19'))
    decoder = spec(
      captioning.RecurrentDecoder,
      vocab_size=ids,
      **captioning.variant('authors'),
      hard=name == 'hard',
    )
    optimizer = spec(optim.adamw, rate=[FROZEN, ('.*', 4e-4)], decay_rules=[])
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_backbone, path=WEIGHTS[encoder], at='encoder'),
    leave_out=('encoder/(head|fc.)/.*',),
    allow_missing=('(?!encoder/).*',),
  )
  if name == 'transformer':
    c.init_from = spec(
      init_from.InitFrom,
      weights=spec(init_from.from_file, path=WEIGHTS[encoder]),
      rename=[('(.*)', r'encoder/\1')],
      leave_out=('encoder/(head|pre_logits)/.*',),
      allow_missing=('(?!encoder/).*', 'encoder/head/.*'),
    )
  if name == 'tutorial_finetuned':
    batch_size, c.total_steps = 32, epochs(3)
    c.init_from = spec(
      init_from.InitFrom,
      weights=spec(init_from.from_run, workdir='runs/captions_tutorial'),
    )
    optimizer = spec(
      optim.adamw,
      rate=4e-4,
      rate_rules=(
        ('encoder/(conv_root|stage1/.*)/kernel', 0.0),
        ('encoder/.*', 0.25),
      ),
      clip_value=5.0,
      decay_rules=[],
    )
  c.train_data = photographs.train_input(batch_size, steps, seed=c.get_ref('seed'))
  c.task = spec(
    tasks.Captioning,
    model=spec(
      captioning.Captioner, encoder=network, decoder=decoder, read=read, side=side
    ),
    optimizer=optimizer,
    doubly=doubly,
  )
  if name == 'transformer':
    c.task.mean, c.task.std = 0.5, 0.5  # as for the weights

  def evaluator(split: str, beams: int = 3, every: int = 0) -> mlc.ConfigDict:
    text = 'tokens' if name.startswith('tutorial') else 'raw'
    return spec(
      evals.CaptionScores,
      data=photographs.eval_input(104, steps, split, text),
      vocabulary=photographs.vocabulary,
      predict_args=dict(beams=beams),
      every=every,
    )

  c.evals = dict(
    val=evaluator('val', every=2_000),
    **{f'test{beams}': evaluator('test', beams) for beams in (1, 3, 5)},
  )
  return c
