"""Entities and relations in made-up sentences, found by a small BERT.

    python tools/prepare_data.py fact_sentences
    python -m big_vision_like.train --config=configs/relations/fact_sentences.py \
        --workdir=runs/fact_sentences

Sentences have two to six entities of 4 kinds, and up to four of 6 relations; names of
test sentences never occur in training (`data/procedural/fact_sentences.py`). The BERT
(2 layers, width 64) is trained from scratch.

Expected F1 on 1,000 test sentences, seed 0: entities 99.9 %, relations 99.4 %. Took 137
CPU-seconds, 15 minutes on two CPU cores that many other programs used.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import fact_sentences as facts
from big_vision_like.data.sources import memory, tfds
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import entities
from big_vision_like.evals import relations as evals
from big_vision_like.models import bert, relations
from big_vision_like.spec import spec
from big_vision_like.tasks import relations as tasks

LENGTH, WORDS, ENTITIES = 64, 32, 8


def get_config() -> mlc.ConfigDict:
  c = mlc.ConfigDict(dict(seed=0, total_steps=1500, log_every=100, keep_last=1))
  names = dict(kinds=facts.KINDS, relations=facts.RELATIONS)
  tag = spec(
    entities.Tag,
    vocabulary=spec(wordpiece.WordPiece, words=facts.WORDS),
    length=LENGTH,
    max_words=WORDS,
    max_entities=ENTITIES,
    **names,
  )
  c.train_data = spec(
    pipeline.TrainInput,
    source=tagged('train', 20_000, tag),
    batch_size=32,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    tasks.Relations,
    model=spec(
      relations.Relations,
      encoder=spec(
        bert.Bert,
        vocab_size=len(wordpiece.SPECIAL) + len(facts.WORDS),
        width=64,
        depth=2,
        num_heads=4,
        mlp_dim=128,
        max_length=LENGTH,
        pooler=False,
      ),
      num_kinds=len(facts.KINDS),
      num_relations=1 + len(facts.RELATIONS),
      max_entities=ENTITIES,
      pair_width=64,
    ),
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
    **names,
  )
  c.evals = dict(
    test=spec(
      evals.Relations,
      data=spec(
        pipeline.EvalInput,
        source=tagged('test', 1_000, tag),
        batch_size=248,
      ),
      every=500,
      **names,
    )
  )
  return c


def tagged(split: str, examples: int, tag: mlc.ConfigDict) -> mlc.ConfigDict:
  """Returns sentences as arrays, which are made once."""
  source = spec(tfds.Tfds, name='fact_sentences', split=split, examples=examples)
  return spec(memory.Cached, source=source, transforms=[tag])
