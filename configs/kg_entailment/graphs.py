"""A memory network that reasons over RDF graphs in files, as in arXiv:1811.04132.

    python -m big_vision_like.train --config=configs/kg_entailment/graphs.py \
        --workdir=runs/graphs

Graphs are N-Triples or Turtle files in data/graphs/train and data/graphs/test, cut to
1,000 triples. Half of the queries follow from their graph under RDFS, half are random
combinations of its terms that do not. All terms but those of RDFS have random names of
a pool of 3,000; `raw` gives terms the same names wherever they come at the same place.

10 hops, width 20; SGD with 0.01, halved every 5 epochs, batches of 104 (published: 100,
which 8 devices do not divide), gradients clipped to a norm of 40 (the authors clip each
array on its own). The authors train 10
epochs on one graph after the other; here all graphs are shuffled. They leave the
softmax over facts out in the first epoch: to do so, train with
`--config.task.model.linear=True` for one epoch, and then with
`--config.init_from.workdir` of that run and half of the rate.

Expected F1 on test graphs: about 0.97, and 0.5 to 0.6 without normalized names on
graphs with another vocabulary (from memory, not verified). Not trained here on the
authors' graphs; `random_graphs.py` is a small version on drawn ones.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import graphs
from big_vision_like.data.sources import knowledge_graphs
from big_vision_like.data.transforms import terms
from big_vision_like.evals import entailment
from big_vision_like.models import memory_network
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import classification

POOL = 3_000
ARGUMENTS = ('normalized', 'raw')


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  raw = arguments(argument, names=ARGUMENTS).names == 'raw'
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(10), log_every=50))
  c.checkpoint_every = 1000
  by_place = spec(terms.NameByPlace, pool=POOL)
  c.train_data = spec(
    pipeline.TrainInput,
    source=spec(knowledge_graphs.KnowledgeGraphs, pattern='data/graphs/train/*'),
    transforms=[by_place if raw else spec(terms.Rename, pool=POOL)],
    batch_size=104,
    seed=c.get_ref('seed'),
  )
  c.task = spec(
    classification.Classification,
    inputs=('facts', 'query'),
    model=spec(
      memory_network.MemoryNetwork,
      num_classes=2,
      vocab_size=graphs.FIRST_TERM + POOL,
    ),
    optimizer=spec(
      optim.momentum,
      rate=spec(
        optax.exponential_decay,
        init_value=0.01,
        transition_steps=epochs(5),
        decay_rate=0.5,
        staircase=True,
      ),
      decay=0.0,
      clip_norm=40.0,
    ),
  )
  c.evals = dict(
    test=spec(
      entailment.Entailment,
      data=spec(
        pipeline.EvalInput,
        source=spec(knowledge_graphs.KnowledgeGraphs, pattern='data/graphs/test/*'),
        transforms=[by_place if raw else spec(terms.RenameById, pool=POOL)],
        batch_size=104,
      ),
      every=epochs(1),
      by_graph=True,
    )
  )
  return c
