"""Questions about drawn scenes of five objects, answered by a small ViLBERT.

    python tools/prepare_data.py scene_questions
    python -m big_vision_like.train --config=configs/vilbert/questions.py \
        --workdir=runs/questions

Each scene has five objects as regions. Questions ask for a colour, a shape, the left
neighbour, the number of objects of a colour, or whether an object is there
(`data/procedural/scene_questions.py`). The model selects one of 19 answers. `text` is
the control, in which the features of regions are zeros.

Expected accuracy on 1,000 unseen questions, seed 0: 88.9 %, and 47.1 % for questions
about the left neighbour; 29.3 % is the best possible without the image. Takes 24
minutes on two CPU cores shared with other programs.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import scene_questions
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import labels, questions, regions
from big_vision_like.evals import classification as evals
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import answering

DATA = ('both', 'text')
ARGUMENTS = ('both',)
BATCH = 64


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  see = arguments(argument, data=DATA).data
  c = mlc.ConfigDict(dict(seed=0, total_steps=4000, log_every=100, keep_last=1))
  transforms = [
    spec(
      questions.Words,
      vocabulary=spec(wordpiece.WordPiece, words=scene_questions.WORDS),
      text='question',
      length=10,
    ),
    *([spec(regions.Blank)] if see == 'text' else []),
    spec(regions.Regions, rows=scene_questions.OBJECTS + 1),
    spec(labels.Keep, names=(*answering.TEXT, *answering.IMAGE, 'label')),
  ]
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(tfds.Tfds, name='scene_questions', split='train', examples=20_000),
    transforms=transforms,
    batch_size=BATCH,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    answering.Answering,
    model=spec(
      vilbert.ViLBERT,
      vocab_size=len(wordpiece.SPECIAL) + len(scene_questions.WORDS),
      width=64,
      depth=3,
      num_heads=4,
      mlp_dim=128,
      image_width=64,
      image_depth=2,
      image_heads=4,
      image_mlp_dim=128,
      joint_width=64,
      joint_heads=4,
      text_places=(1, 2),
      image_places=(0, 1),
      fusion='sum',
      max_length=10,
      dropout=0.0,
      attention_dropout=0.0,
      heads=dict(answers=spec(pairs.Answers, num_outputs=len(scene_questions.ANSWERS))),
    ),
    head='answers',
    loss_type='softmax',
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=2e-3,
        warmup_steps=200,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.01,
      clip_norm=1.0,
    ),
  )
  c.evals = dict(
    val=spec(
      evals.Accuracy,
      data=spec(
        pipeline.EvalInput,
        source=spec(
          tfds.Tfds, name='scene_questions', split='validation', examples=1_000
        ),
        transforms=transforms,
        batch_size=248,
      ),
      every=500,
    )
  )
  return c
