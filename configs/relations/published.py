"""BERT-base on entities of CoNLL-2003, and on entities and relations of SciERC.

    python -m big_vision_like.train --config=configs/relations/published.py:conll2003 \
        --workdir=runs/conll2003

`conll2003` tags names as arXiv:1810.04805 section 5.3: cased word pieces, the first
piece of each word, no CRF. The files data/conll2003/eng.train, eng.testa and eng.testb
have the tags of the original task (IOB1). Sentences are read one by one, without the
document around them. `scierc` reads the processed JSON of arXiv:1808.09602 in
data/scierc, with a relation head on pairs of entities.

Published F1 on the CoNLL-2003 test set: 92.4 % for BERT-base, with documents as
context (table 7). SciERC, other systems: entities 67.5 %, relations 48.4 %
(arXiv:1909.03546, from memory). Learning rate, batch size and epochs are common values
for BERT, not published ones. Not trained here.
"""

from typing import NamedTuple

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tagged_words
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import entities
from big_vision_like.evals import relations as evals
from big_vision_like.models import bert, relations
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import relations as tasks


class Data(NamedTuple):
  """Files of a data set by split, their numbers of sentences, kinds and relations."""

  files: dict[str, str]
  sentences: dict[str, int]
  kinds: tuple[str, ...]
  relations: tuple[str, ...]


DATA = {
  'conll2003': Data(
    {
      'train': 'data/conll2003/eng.train',
      'val': 'data/conll2003/eng.testa',
      'test': 'data/conll2003/eng.testb',
    },
    {'train': 14_041, 'val': 3_250, 'test': 3_453},
    tagged_words.CONLL_KINDS,
    (),
  ),
  'scierc': Data(
    {
      'train': 'data/scierc/train.json',
      'val': 'data/scierc/dev.json',
      'test': 'data/scierc/test.json',
    },
    {'train': 1_861, 'val': 275, 'test': 551},
    tagged_words.SCIERC_KINDS,
    tagged_words.SCIERC_RELATIONS,
  ),
}
ARGUMENTS = ('conll2003', 'scierc')
# Pieces of a cased vocabulary, and the largest sentences.
PIECES, LENGTH, WORDS, ENTITIES = 28_996, 256, 128, 32


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  name = arguments(argument, data=DATA).data
  data = DATA[name]
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(5), log_every=50))
  c.checkpoint_every = epochs(1)
  names = dict(kinds=data.kinds, relations=data.relations)
  tag = spec(
    entities.Tag,
    vocabulary=spec(
      wordpiece.WordPiece, path='vocabularies/bert_base_cased.txt', lower=False
    ),
    length=LENGTH,
    max_words=WORDS,
    max_entities=ENTITIES,
    **names,
  )
  c.train_data = spec(
    pipeline.TrainInput,
    source=source(name, 'train'),
    transforms=[tag],
    batch_size=32,
    seed=c.get_ref('seed'),
  )
  encoder = dict(bert.variant('base'), vocab_size=PIECES)
  c.task = spec(
    tasks.Relations,
    model=spec(
      relations.Relations,
      encoder=spec(bert.Bert, **encoder, pooler=False),
      num_kinds=len(data.kinds),
      num_relations=1 + len(data.relations),
      max_entities=ENTITIES,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-5,
        warmup_steps=200,
        decay_steps=c.get_ref('total_steps'),
      ),
      weight_decay=0.01,
      clip_norm=1.0,
    ),
    **names,
  )
  c.init_from = spec(
    init_from.InitFrom,
    weights=spec(init_from.from_file, path='weights/bert-base-cased'),
    rename=[('((embeddings|encoder)/.*)', r'encoder/\1')],
    allow_missing=('(tags|subject|object|relations)/.*',),
    allow_unused=('(pooler|words|next_text)/.*',),
  )
  c.keep_best = 'val/relation_f1' if data.relations else 'val/entity_f1'
  c.evals = {
    split: spec(
      evals.Relations,
      data=spec(
        pipeline.EvalInput,
        source=source(name, split),
        transforms=[tag],
        batch_size=64,
      ),
      every=epochs(1) if split == 'val' else 0,
      **names,
    )
    for split in ('val', 'test')
  }
  return c


def source(name: str, split: str) -> mlc.ConfigDict:
  """Returns the sentences of a split."""
  data = DATA[name]
  found = dict(path=data.files[split], examples=data.sentences[split])
  if name == 'scierc':
    return spec(tagged_words.Scierc, **found)
  return spec(tagged_words.Conll, **found, scheme='iob1')
