"""Engines that sort, merge, add, multiply and find paths and trees (arXiv:2006.08084).

    python -m big_vision_like.train --workdir=runs/nee_published_sort \
        --config=configs/neural_execution_engines/published.py:select_sort

Recipes of the authors' code: 6 + 6 layers, Adam with b2 = 0.98 and the schedule of
arXiv:1706.03762 (warm-up of 4,000 steps), dropout 0.1, batches of 64. Engines learn
from eight numbers or nodes; tests are on up to 100. `add_holdout` has 166 of the 256
numbers in no sum for training. `dijkstra_traces` calls the adder in
runs/nee_published_add. `select_sort` takes the controls `dot` (scaled products as
scores), `table` (an independent vector for each number) and `no_mask` (all numbers
visible, and the decoder reads the previous one): `select_sort,dot`.

Expected: all lists, distances and trees right at all lengths and sizes. The weights
that the authors published sort 50 lists of 8, 25, 50 and 75 numbers without an error.
The recipe was not trained here; `small.py` is, in minutes on two CPU cores.
"""

import ml_collections as mlc

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import number_lists, weighted_graphs
from big_vision_like.evals import algorithms
from big_vision_like.models import neural_execution
from big_vision_like.run import init_from
from big_vision_like.spec import arguments, epochs, spec
from big_vision_like.tasks import algorithm_execution

RECIPES = (
  *('select_sort', 'merge_sort', 'add', 'add_holdout', 'multiply'),
  *('dijkstra_traces', 'prim_traces'),
)
CONTROLS = ('dot', 'table', 'no_mask')
ARGUMENTS = (*RECIPES, *(f'select_sort,{control}' for control in CONTROLS))
LENGTHS = (9, 25, 50, 75, 100)
NODES = (9, 25, 50, 75, 100)
WARMUP = 4000
HELD_OUT = 166
EPOCHS = {'dijkstra_traces': 150, 'prim_traces': 150, 'multiply': 300}
# Width and bits of engines; all others have 16 features and 10 bits.
ADDER = (24, 9)
SIZES = {
  'add': ADDER,
  'add_holdout': ADDER,
  'multiply': (28, 12),
  'merge_sort': (16, 9),
}


def get_config(argument: str = RECIPES[0]) -> mlc.ConfigDict:
  told = arguments(argument, recipe=RECIPES, control=('', *CONTROLS))
  recipe, control = told.recipe, told.control
  c = mlc.ConfigDict(dict(seed=0, total_steps=epochs(EPOCHS.get(recipe, 100))))
  c.log_every, c.checkpoint_every = 100, epochs(10)
  engine = _engine(recipe, control)
  width = engine.subroutine.width
  rates = [('.*', spec(optim.noam, width=width, warmup_steps=WARMUP))]
  if engine.mask is not None:
    filters = spec(optim.noam, width=16, warmup_steps=WARMUP)
    rates = [('mask/.*', filters), *rates]
  c.task = spec(
    algorithm_execution.AlgorithmExecution,
    model=engine,
    optimizer=spec(optim.adamw, rate=rates, b1=0.9, b2=0.98, eps=1e-9),
    end=256 if recipe == 'merge_sort' else 512,
    masks=control != 'no_mask',
  )
  if recipe == 'dijkstra_traces':
    c.task.adder = _engine('add', '')
    c.frozen = dict(adder=spec(init_from.from_run, workdir='runs/nee_published_add'))
  c.train_data = spec(
    pipeline.TrainInput,
    source=_source(recipe, 'train'),
    batch_size=64,
    seed=c.get_ref('seed'),
  )
  steps = _data(_source(recipe, 'test'), 64)
  steps = spec(algorithms.Steps, data=steps, every=epochs(10))
  c.evals = dict(steps=steps) | _programs(recipe)
  return c


def _engine(recipe: str, control: str) -> mlc.ConfigDict:
  """Returns an engine; programs need a mask network."""
  width, bits = SIZES.get(recipe, (16, 10))
  counts = recipe in ('add', 'add_holdout', 'multiply')
  subroutine = spec(
    neural_execution.Subroutine,
    bits=bits,
    width=width,
    positions=counts,
    scores='dot' if control == 'dot' else 'mlp',
    numbers='table' if control == 'table' else 'bits',
    dropout=0.1,
    scan=True,
  )
  masked = not counts and control != 'no_mask'
  mask = spec(neural_execution.MaskNetwork, dropout=0.1) if masked else None
  return spec(neural_execution.Engine, subroutine=subroutine, mask=mask)


def _source(recipe: str, split: str) -> mlc.ConfigDict:
  """Returns the steps that an engine learns, or single calls of it."""
  few = split == 'test'
  match recipe:
    case 'select_sort':
      return spec(
        number_lists.SortSteps, examples=2_400 if few else 24_000, split=split
      )
    case 'merge_sort':
      return spec(number_lists.MergeSteps, examples=550 if few else 5_500, split=split)
    case 'dijkstra_traces' | 'prim_traces':
      return spec(
        weighted_graphs.GraphSteps,
        algorithm=recipe.removesuffix('_traces'),
        examples=2_000 if few else 20_000,
        split=split,
      )
  return spec(
    number_lists.Arithmetic,
    operation='product' if recipe == 'multiply' else 'sum',
    split=split,
    holdout=HELD_OUT if recipe == 'add_holdout' else 0,
  )


def _programs(recipe: str) -> dict[str, mlc.ConfigDict]:
  """Returns evaluators of the program that calls an engine, by length or size."""
  found = {}
  if recipe.endswith('_traces'):
    algorithm = recipe.removesuffix('_traces')
    made = dict(dijkstra=algorithms.ShortestPaths, prim=algorithms.SpanningTrees)
    for nodes in NODES:
      graphs = spec(
        weighted_graphs.WeightedGraphs,
        **dict(nodes=nodes, algorithm=algorithm, examples=100, split='test'),
      )
      found[f'nodes_{nodes}'] = spec(made[algorithm], data=_data(graphs, 24), every=0)
  elif recipe.endswith('_sort'):
    predict = 'merge_sort' if recipe == 'merge_sort' else 'selection_sort'
    for length in LENGTHS:
      lists = spec(number_lists.NumberLists, length=length, examples=100, split='test')
      found[f'length_{length}'] = spec(
        algorithms.Sorting, data=_data(lists, 24), predict=predict, every=0
      )
  return found


def _data(source: mlc.ConfigDict, batch_size: int) -> mlc.ConfigDict:
  return spec(pipeline.EvalInput, source=source, batch_size=batch_size)
