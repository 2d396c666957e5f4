"""A memory network that reasons with RDFS over random graphs, as in arXiv:1811.04132.

    python -m big_vision_like.train --config=configs/kg_entailment/random_graphs.py \
        --workdir=runs/random_graphs

Graphs have 5 classes, 3 properties, 4 individuals and 11 to 20 triples. A query follows
from its graph, or has the same form and does not. 40,000 graphs for training, 2,000
others for testing; each query has its own graph. Terms have random names of a pool of
40, drawn again in each epoch, so that only the rules can be learned.

Expected F1 on unseen graphs, seed 0: 81.0 %, and 82.2 % of the answer "follows"; the
most frequent answer under 10 names has 83.1 %. Chance is 50 %. Took 28 minutes on two
CPU cores that many other programs used.

`hop_matrices` (the default) multiplies words by a learned matrix for each place of a
triple and each input and output of a hop, `matrices` by one for each place; `encoded`
weights them as the paper does. `raw` trains with the same names in all graphs. `test`
has unseen graphs with names of the pool, `disjoint` the same graphs with fixed names
that `raw` has not seen, and `renamed` the graphs of `test` under 10 names.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import graphs
from big_vision_like.data.sources import memory
from big_vision_like.data.transforms import terms
from big_vision_like.evals import entailment
from big_vision_like.models import memory_network
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import classification

POOL = 40
TERMS = 12
ARGUMENTS = ('hop_matrices', 'matrices', 'encoded', 'raw')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  kind = arguments(argument, kind=ARGUMENTS).kind
  named = spec(terms.NameByPlace, pool=POOL)
  c = mlc.ConfigDict(dict(seed=0, total_steps=8_000, log_every=200, keep_last=1))
  c.checkpoint_every = 4000
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(
      memory.Cached,
      source=spec(graphs.RandomGraphs, examples=40_000, split='train'),
    ),
    transforms=[named if kind == 'raw' else spec(terms.Rename, pool=POOL)],
    batch_size=128,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    classification.Classification,
    inputs=('facts', 'query'),
    model=spec(
      memory_network.MemoryNetwork,
      num_classes=2,
      vocab_size=graphs.FIRST_TERM + POOL,
      width=40,
      hops=6,
      positions='hop_matrices' if kind == 'raw' else kind,
    ),
    optimizer=spec(
      optim.adamw,
      rate=spec(
        optax.warmup_cosine_decay_schedule,
        init_value=0.0,
        peak_value=3e-3,
        warmup_steps=200,
        decay_steps=c.get_ref('total_steps'),
      ),
      clip_norm=1.0,
    ),
  )
  first = spec(terms.NameByPlace, pool=POOL, first=TERMS)
  by_id = spec(terms.RenameById, pool=POOL)
  c.evals = dict(
    test=_test(named if kind == 'raw' else by_id),
    disjoint=_test(first),
    renamed=spec(entailment.Renamings, data=_data(by_id)),
  )
  return c


def _test(names: mlc.ConfigDict) -> mlc.ConfigDict:
  return spec(entailment.Entailment, data=_data(names), every=2000)


def _data(names: mlc.ConfigDict) -> mlc.ConfigDict:
  source = spec(graphs.RandomGraphs, examples=2_000, split='test')
  return spec(
    pipeline.EvalInput,
    source=spec(memory.Cached, source=source),
    transforms=[names],
    batch_size=400,
  )
