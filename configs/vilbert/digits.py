"""Questions about handwritten digits, by a small ViLBERT that sees their pixels.

    python tools/prepare_data.py digits
    python -m big_vision_like.train --config=configs/vilbert/digits.py \
        --workdir=runs/digit_questions

"Is it seven" is answered by yes or no, each for half of the questions. The tokens of an
image are the 16 patches of 2x2 pixels (`patches`), or the 4x4 cells of a small
convolutional network, which is trained along with the model (`cells`). They take the
place of stored regions, with the same structure: features, location and the whole image
in row 0 (`models/grid_pairs.py`). The accuracy has not been measured with these
settings; with the product as fusion, the model stayed at chance for 2,300 steps.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import image, labels, questions
from big_vision_like.evals import classification as evals
from big_vision_like.layers import pairs
from big_vision_like.models import grid_pairs, resnet, vilbert
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import answering

DIGITS = 'zero one two three four five six seven eight nine'.split()
WORDS = ('is', 'it', *DIGITS)
KINDS = ('patches', 'cells')
ARGUMENTS = ('patches',)


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  kind = arguments(argument, kind=KINDS).kind
  c = mlc.ConfigDict(dict(seed=0, total_steps=3000, log_every=100, keep_last=1))
  ask = spec(questions.AskClass, names=DIGITS)
  # A ResNet halves the side twice before its first stage.
  enlarged = [] if kind == 'patches' else [spec(image.Resize, size=16)]
  after = [
    *enlarged,
    spec(
      questions.Words,
      vocabulary=spec(wordpiece.WordPiece, words=WORDS),
      text='question',
      length=5,
    ),
    spec(labels.Keep, names=(*answering.TEXT, 'image', 'label')),
  ]
  moved = spec(image.RandomAffine, rotate=12.0, scale=0.12, shift=0.125)
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='digits', split='train', examples=1347),
    transforms=[spec(image.Decode, channels=1), moved, ask, *after],
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  encoder = dict(encoder=spec(grid_pairs.Patches, size=2), cells='patches')
  if kind == 'cells':
    encoder = dict(
      encoder=spec(
        resnet.ResNet, depths=(1,), bottleneck=False, root=32, channels=(48,)
      ),
      cells='stage1',
    )
  c.task = spec(
    answering.Answering,
    model=spec(
      grid_pairs.GridPairs,
      pairs=spec(
        vilbert.ViLBERT,
        vocab_size=len(wordpiece.SPECIAL) + len(WORDS),
        width=48,
        depth=2,
        num_heads=4,
        mlp_dim=96,
        image_width=48,
        image_depth=3,
        image_heads=4,
        image_mlp_dim=96,
        joint_width=48,
        joint_heads=4,
        text_places=(0, 1),
        image_places=(1, 2),
        fusion='sum',
        max_length=5,
        dropout=0.0,
        attention_dropout=0.0,
        heads=dict(answers=spec(pairs.Answers, num_outputs=2)),
      ),
      **encoder,
    ),
    inputs=(*answering.TEXT, 'image'),
    head='answers',
    loss_type='softmax',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=100,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.01,
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    test=spec(
      evals.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(tfds.Tfds, name='digits', split='test', examples=450),
        transforms=[
          spec(image.Decode, channels=1),
          spec(questions.FixedQuestion, ask=ask),
          *after,
        ],
        batch_size=152,
      ),
      every=500,
    )
  )
  return c
