"""Measures the speed of BERT against the one in transformers.

    python tools/benchmark/bert.py --size base --batch-size=8 --length=128

`train` is a whole step of filling in masked words: forward, backward and AdamW, on the
same batch, which stays on the device; `predict` computes logits. Measurements of our
side and of PyTorch's (the extra `parity`), in its own process, are interleaved. Each
side that --torch names has eager attention (`eager`) or PyTorch's fused one (`sdpa`).
Both frameworks use all cores. Prints JSON, and a short table on stderr.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich.console

from big_vision_like import errors, optim
from big_vision_like.cost import flops
from big_vision_like.devices import malloc
from big_vision_like.models import bert
from big_vision_like.ops import pretraining
from big_vision_like.tasks import task

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

VOCABULARY = 30522
SIZES = bert.SIZES | {'tiny': (64, 2, 2, 128)}
WORKS = ('train', 'predict')
SIDES = ('eager', 'sdpa')
MASKED = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWords(task.GradientTask):
  """BERT with the loss of masked words alone, on batches that are masked already."""

  inputs = ('tokens',)

  def model_inputs(self, batch: task.Arrays) -> tuple[jax.Array, ...]:
    return (batch['tokens'],)

  def loss(
    self, params: Any, mutable: Any, batch: task.Arrays, key: jax.Array
  ) -> task.Loss:
    outputs, mutable = self.trained(params, mutable, (batch['tokens'],), dropout=key)
    masked_BT = batch['words'] >= 0
    loss = pretraining.masked_words(outputs['words'], batch['words'], masked_BT)
    return loss, (mutable, {})


class Ours:
  """The training step and the prediction, compiled for a batch on the device."""

  def __init__(self, size: str, batch: dict[str, np.ndarray], dropout: float):
    width, depth, num_heads, mlp_dim = SIZES[size]
    model = bert.Bert(
      VOCABULARY,
      width,
      depth,
      num_heads,
      mlp_dim,
      pooler=False,
      heads=('words',),
      dropout=dropout,
      attention_dropout=dropout,
    )
    self.task = MaskedWords(
      model=model, optimizer=optim.adamw(1e-4, weight_decay=0.01, decay_rules=[])
    )
    self.batch, self.key = jax.device_put(batch), jax.random.key(0)
    self.state = jax.jit(self.task.init)(self.key, self.batch)
    step = jax.jit(self.task.train_step, donate_argnums=0)
    self.traced = step.trace(self.state, self.batch, self.key)

  @functools.cached_property
  def step(self) -> Any:
    return self.traced.lower().compile()

  @functools.cached_property
  def prediction(self) -> Any:
    def logits(params: Any, tokens_BT: jax.Array) -> jax.Array:
      return self.task.model.apply({'params': params}, tokens_BT)['words']

    return jax.jit(logits)

  def train(self, steps: int) -> None:
    for _ in range(steps):
      self.state, scalars = self.step(self.state, self.batch, self.key)
    jax.block_until_ready((self.state, scalars))

  def predict(self, steps: int) -> None:
    for _ in range(steps):
      result = self.prediction(self.state.params, self.batch['tokens'])
    jax.block_until_ready(result)


@dataclasses.dataclass(frozen=True)
class Job:
  """Arguments of the process of transformers, as plain data."""

  size: str
  side: str
  batch: dict[str, np.ndarray]
  dropout: float
  cuda: bool


class Transformers(benchmark.OnTorch):
  """The BertForMaskedLM of transformers, trained on the same batch by PyTorch."""

  def __init__(self, job: Job):
    super().__init__('transformers', job.cuda, 'float32')
    torch, (width, depth, num_heads, mlp_dim) = self.torch, SIZES[job.size]
    config = self.library.BertConfig(
      vocab_size=VOCABULARY,
      hidden_size=width,
      num_hidden_layers=depth,
      num_attention_heads=num_heads,
      intermediate_size=mlp_dim,
      hidden_dropout_prob=job.dropout,
      attention_probs_dropout_prob=job.dropout,
      attn_implementation=job.side,
    )
    self.net = self.library.BertForMaskedLM(config).to(self.device)
    self.optimizer = torch.optim.AdamW(
      self.net.parameters(), lr=1e-4, weight_decay=0.0, fused=True
    )
    given = {k: torch.from_numpy(v.astype(np.int64)) for k, v in job.batch.items()}
    self.tokens_BT = given['tokens'].to(self.device)
    self.words_BT = given['words'].to(self.device)

  def logits(self) -> Any:
    return self.net(input_ids=self.tokens_BT).logits

  def train(self, steps: int) -> None:
    functional = self.torch.nn.functional
    self.net.train()
    for _ in range(steps):
      self.optimizer.zero_grad(set_to_none=True)
      loss = functional.cross_entropy(
        self.logits().flatten(0, 1), self.words_BT.flatten(), ignore_index=-1
      )
      loss.backward()
      self.optimizer.step()
    self.wait()

  def predict(self, steps: int) -> None:
    self.net.eval()
    with self.torch.inference_mode():
      for _ in range(steps):
        self.logits()
    self.wait()


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns the measurements of each work."""
  rng = np.random.default_rng(0)
  shape = args.batch_size, args.length
  tokens_BT = rng.integers(1000, VOCABULARY, shape, np.int32)
  words_BT = np.where(rng.random(shape) < MASKED, tokens_BT, -1)
  words_BT[0, 0] = tokens_BT[0, 0]
  batch = {'tokens': tokens_BT, 'words': words_BT}
  ours = Ours(args.size, batch, args.dropout)
  cuda, results = jax.default_backend() == 'gpu', []
  with contextlib.ExitStack() as stack:
    theirs = []
    for side in args.torch:
      job = Job(args.size, side, batch, args.dropout, cuda)
      theirs.append(benchmark.Theirs(Transformers, job))
      stack.callback(theirs[-1].close)
    for work in args.only:
      sides = [getattr(ours, work), *(getattr(side, work) for side in theirs)]
      times = benchmark.measured(sides, args.repeats, args.steps)
      names = 'ours', *(f'transformers, {side}' for side in args.torch)
      medians = [np.median(seconds) for seconds in times]
      results.append(
        {
          'model': f'BERT-{args.size}',
          'work': work,
          'batch_size': args.batch_size,
          'length': args.length,
          'dropout': args.dropout,
          'device': jax.devices()[0].device_kind,
          'jax': jax.__version__,
          'torch': theirs[0].version if theirs else None,
          'operations_per_step': flops.total(ours.traced.jaxpr),
          'sides': {
            name: benchmark.summary(seconds, args.batch_size)
            for name, seconds in zip(names, times, strict=True)
          },
          'ratios': {
            name: seconds / medians[0]
            for name, seconds in zip(names[1:], medians[1:], strict=True)
          },
        }
      )
  return results


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    '--size', choices=SIZES, default='base', help='one of %(choices)s'
  )
  parser.add_argument(
    '--batch-size', type=int, default=8, help='texts per step; default: %(default)s'
  )
  parser.add_argument(
    '--length', type=int, default=128, help='tokens of a text; default: %(default)s'
  )
  parser.add_argument(
    '--dropout', type=float, default=0.1, help='on both sides; default: %(default)s'
  )
  parser.add_argument(
    '--repeats',
    type=int,
    default=5,
    help='number of measurements; default: %(default)s',
  )
  parser.add_argument(
    '--steps', type=int, help='steps per measurement; default: about 0.3 s'
  )
  parser.add_argument(
    '--only', nargs='+', choices=WORKS, default=WORKS, help='works to measure'
  )
  parser.add_argument(
    '--torch', nargs='*', choices=SIDES, default=SIDES, help='attention of theirs'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args = parser.parse_args(argv)
  for name in ('batch_size', 'length', 'repeats', 'steps'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise errors.UserError(f'--{name.replace("_", "-")} must be 1 or more.')
  if not 0.0 <= args.dropout < 1.0:
    raise errors.UserError('--dropout must be at least 0 and less than 1.')
  # As in training. PyTorch's processes keep their default allocator.
  malloc.keep_memory()
  # Both frameworks share the GPU; JAX would allocate three quarters of it at once.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  console = rich.console.Console(stderr=True, soft_wrap=True, highlight=False)
  results = run(args)
  for result in results:
    console.print(benchmark.comparison(result, 'texts/s'))
  benchmark.write({'results': results}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
