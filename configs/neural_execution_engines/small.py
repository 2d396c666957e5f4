"""Small engines that sort, merge, add, and find paths and trees (arXiv:2006.08084).

    python -m big_vision_like.train --workdir=runs/nee_sort \
        --config=configs/neural_execution_engines/small.py:sort
    python -m big_vision_like.train --workdir=runs/nee_add \
        --config=configs/neural_execution_engines/small.py:add
    python -m big_vision_like.train --workdir=runs/nee_graphs \
        --config=configs/neural_execution_engines/small.py:graphs

Engines have 2 + 2 layers of width 16 (24 for `add`), and learn from examples of eight
numbers or nodes. `graphs` learns the steps of Dijkstra's and of Prim's algorithm, and
calls the adder in runs/nee_add for the former. Controls of `sort` are
`dot` (scaled products instead of the MLP as scores), `table` (an independent vector for
each number instead of its bits) and `no_mask` (all numbers are always visible, and the
decoder reads the previous one). `small_transformer.py` is a plain Transformer.

Measured with seed 0 (docs/lab/algorithms.md): `sort` sorts all lists of 8, 25, 50 and
100 numbers, `add` is right on all sums that it was not trained on, and `graphs` finds
all distances in graphs of 9, 25 and 50 nodes, and 95.8 % of trees of 25 and 50 nodes.
These three take 75 to 170 CPU seconds each; other engines and controls were not run.
"""

import ml_collections as mlc
import optax

from big_vision_like import optim
from big_vision_like.data.input import mixture, pipeline
from big_vision_like.data.procedural import number_lists, weighted_graphs
from big_vision_like.evals import algorithms
from big_vision_like.models import neural_execution
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, spec
from big_vision_like.tasks import algorithm_execution

ARGUMENTS = ('sort', 'merge', 'add', 'graphs', 'dot', 'table', 'no_mask')
LENGTHS = (8, 25, 50, 100)
NODES = (9, 25, 50)
STEPS = {'add': 2500, 'graphs': 1000}  # 1,500 for others
# States of an example differ in number and size.
BATCH = {'merge': 16, 'add': 256, 'graphs': 32}
EXAMPLES = 1_000_000


def get_config(argument: str = ARGUMENTS[0]) -> mlc.ConfigDict:
  kind = arguments(argument, kind=ARGUMENTS).kind
  c = mlc.ConfigDict(dict(seed=0, log_every=100, keep_last=1))
  c.total_steps = STEPS.get(kind, 1500)
  c.checkpoint_every = 1000
  rate = spec(
    optax.warmup_cosine_decay_schedule,
    init_value=0.0,
    peak_value=0.005 if kind == 'add' else 0.008,
    warmup_steps=300,
    decay_steps=c.get_ref('total_steps'),
  )
  c.task = spec(
    algorithm_execution.AlgorithmExecution,
    model=_engine(kind),
    optimizer=spec(optim.adamw, rate=rate, b2=0.98, eps=1e-9),
    end=256 if kind == 'merge' else 512,
    masks=kind != 'no_mask',
  )
  if kind == 'graphs':
    c.task.adder = _engine('add')
    c.frozen = dict(adder=spec(init_from.from_run, workdir='runs/nee_add'))
  c.train_data = spec(
    pipeline.TrainInput,
    source=_steps(kind, 'train', EXAMPLES),
    batch_size=BATCH.get(kind, 64),
    seed=c.get_ref('seed'),
  )
  steps = _data(_steps(kind, 'test', 512), 64)
  steps = spec(algorithms.Steps, data=steps, every=1000)
  c.evals = dict(steps=steps) | _programs(kind)
  return c


def _engine(kind: str) -> mlc.ConfigDict:
  """Returns an engine; all but the adder have a mask network."""
  bits = {'add': 9, 'merge': 9}.get(kind, 10)
  subroutine = spec(
    neural_execution.Subroutine,
    bits=bits,
    width=24 if kind == 'add' else 16,
    depth=2,
    hidden=64,
    positions=kind == 'add',
    scores='dot' if kind == 'dot' else 'mlp',
    numbers='table' if kind == 'table' else 'bits',
    scan=True,
  )
  masked = kind not in ('add', 'no_mask')
  mask = spec(neural_execution.MaskNetwork) if masked else None
  return spec(neural_execution.Engine, subroutine=subroutine, mask=mask)


def _steps(kind: str, split: str, examples: int) -> mlc.ConfigDict:
  """Returns the steps that an engine learns, or single calls of it."""
  drawn = dict(examples=examples, split=split)
  match kind:
    case 'add':
      return spec(number_lists.Arithmetic, operation='sum', split=split)
    case 'graphs' if split == 'train':
      parts = {
        name: spec(
          mixture.Part,
          source=spec(weighted_graphs.GraphSteps, algorithm=name, **drawn),
        )
        for name in weighted_graphs.ALGORITHMS
      }
      return spec(mixture.Mixture, parts=parts)
    case 'graphs':
      return spec(weighted_graphs.GraphSteps, algorithm='dijkstra', **drawn)
    case 'merge':
      return spec(number_lists.MergeSteps, **drawn)
  return spec(number_lists.SortSteps, **drawn)


def _programs(kind: str) -> dict[str, mlc.ConfigDict]:
  """Returns evaluators of the program that calls an engine, by length or size."""
  found, drawn = {}, dict(examples=48, split='test')
  if kind == 'graphs':
    made = dict(dijkstra=algorithms.ShortestPaths, prim=algorithms.SpanningTrees)
    for algorithm, evaluator in made.items():
      for nodes in NODES:
        own = dict(nodes=nodes, algorithm=algorithm)
        data = _data(spec(weighted_graphs.WeightedGraphs, **own, **drawn), 24)
        found[f'{algorithm}_{nodes}'] = spec(evaluator, data=data, every=0)
  elif kind != 'add':
    predict = 'merge_sort' if kind == 'merge' else 'selection_sort'
    for length in LENGTHS:
      data = _data(spec(number_lists.NumberLists, length=length, **drawn), 24)
      found[f'length_{length}'] = spec(
        algorithms.Sorting, data=data, predict=predict, every=0
      )
  return found


def _data(source: mlc.ConfigDict, batch_size: int) -> mlc.ConfigDict:
  return spec(pipeline.EvalInput, source=source, batch_size=batch_size)
