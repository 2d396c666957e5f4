"""A run that has learned a few sentences by heart, for tests of what uses runs."""

import functools

import jax
import ml_collections as mlc
import numpy as np
from random_weights import save_run

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tagged_words
from big_vision_like.data.sources.base import InMemory
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import entities
from big_vision_like.evals import relations as evals
from big_vision_like.models import bert, relations
from big_vision_like.spec import build, spec
from big_vision_like.tasks import relations as tasks

KINDS, NAMES = ('person', 'class'), ('rdf:type', 'rdfs:subClassOf')
WORDS = ('anna', 'ben', 'is', 'a', 'the', 'baker', 'cook', 'every', 'no', 'met', '.')
# Each sentence with its entities and relations.
SENTENCES = (
  ('Anna is a baker .', [(0, 0, 'person'), (3, 3, 'class')], [(0, 1, 'rdf:type')]),
  ('Ben is a cook .', [(0, 0, 'person'), (3, 3, 'class')], [(0, 1, 'rdf:type')]),
  (
    'every baker is a cook .',
    [(1, 1, 'class'), (4, 4, 'class')],
    [(0, 1, 'rdfs:subClassOf')],
  ),
  ('Anna met Ben .', [(0, 0, 'person'), (2, 2, 'person')], []),
)


def sentences():
  return InMemory(
    [
      tagged_words.example(words.split(), found, related, number)
      for number, (words, found, related) in enumerate(SENTENCES)
    ]
  )


def config():
  names = dict(kinds=KINDS, relations=NAMES)
  tag = spec(
    entities.Tag,
    vocabulary=spec(wordpiece.WordPiece, words=WORDS),
    length=12,
    max_words=8,
    max_entities=3,
    **names,
  )
  data = dict(source=spec(sentences), transforms=[tag], batch_size=4)
  encoder = spec(
    bert.Bert,
    vocab_size=len(wordpiece.SPECIAL) + len(WORDS),
    width=16,
    depth=1,
    num_heads=2,
    mlp_dim=16,
    max_length=12,
    pooler=False,
    dropout=0.0,
    attention_dropout=0.0,
  )
  model = spec(
    relations.Relations,
    encoder=encoder,
    num_kinds=len(KINDS),
    num_relations=1 + len(NAMES),
    max_entities=3,
    pair_width=16,
    dropout=0.0,
  )
  task = spec(
    tasks.Relations, model=model, optimizer=spec(optim.adamw, rate=1e-2), **names
  )
  evaluator = spec(evals.Relations, data=spec(pipeline.EvalInput, **data), **names)
  return mlc.ConfigDict(
    dict(
      total_steps=150,
      task=task,
      train_data=spec(pipeline.TrainInput, **data),
      evals=dict(test=evaluator),
    )
  )


@functools.cache
def learned():
  """Returns the task and its parameters after training on all sentences."""
  made = config().to_dict()
  task = build(made['task'])
  batch = next(build(made['evals']['test']).data.epoch())
  batch = {name: np.asarray(x) for name, x in batch.items() if name != 'mask'}
  state = jax.jit(task.init)(jax.random.key(0), batch)

  @jax.jit
  def train(state):
    def step(state, number):
      return task.train_step(
        state, batch, jax.random.fold_in(jax.random.key(1), number)
      )

    return jax.lax.scan(step, state, np.arange(150))

  state, scalars = train(state)
  assert scalars['loss'][-1] < 0.05 < scalars['loss'][0]
  return task, jax.device_get(state.params)


def saved(folder):
  """Writes the folder of the run."""
  save_run(folder, config(), learned()[1])
  return folder
