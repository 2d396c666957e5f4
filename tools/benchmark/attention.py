"""Measures attention, beam search with its cache, and compilation of stacks.

  python tools/benchmark/attention.py [attend] [memory] [decode] [compile]

Measures all parts, or the named ones:

- `attend`: attention and its gradient, against `jax.nn.dot_product_attention`.
- `memory`: bytes that a TPU needs in addition to arguments and results, for increasing
  numbers of tokens, according to the compiler (needs libtpu, but no TPU).
- `decode`: beam search with the cache, against a search that reruns the whole decoder
  for each token.
- `compile`: a scanned encoder of 24 layers, against one of 2.

Compared variants are interleaved after a warm-up; results are medians. JSON is written
to stdout or --output, a table to stderr.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table

from big_vision_like import cli, errors, optim, plan
from big_vision_like.layers import transformer as layers
from big_vision_like.models import transformer
from big_vision_like.ops import attention, masks, search
from big_vision_like.tasks import seq2seq

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

# Batch, tokens, heads, size of a head.
SHAPES = {
  'ViT-S/16 at 224: 8 x 196 x 6 x 64': (8, 196, 6, 64),
  'ViT-B/16 at 384: 2 x 576 x 12 x 64': (2, 576, 12, 64),
  'Transformer: 16 x 64 x 8 x 64': (16, 64, 8, 64),
  'windows: 128 x 49 x 3 x 32': (128, 49, 3, 32),
}
KINDS = ('plain', 'causal', 'padding')
MEMORY_TOKENS = (2048, 8192, 16384, 32768)
MEMORY_MASKS = ('plain', 'causal', 'packed')
MODELS = {
  'small': dict(width=128, depth=4, mlp_dim=512, num_heads=4),
  'base': transformer.variant('base'),
}
DECODE = dict(batch=4, source=32, length=64, beams=4)

Row = dict[str, Any]


def attend(repeats: int) -> list[Row]:
  """Returns the seconds of the forward pass, and of a gradient (with forward pass)."""
  rows = []
  for shape_name, (batch, tokens, heads, size) in SHAPES.items():
    x = np.random.default_rng(0).normal(size=(3, batch, tokens, heads, size))
    qkv = [jnp.asarray(a, jnp.float32) for a in x]
    seen_BN = jnp.arange(tokens)[None] < jnp.full((batch, 1), tokens - tokens // 4)
    for kind in KINDS:
      ours_args = {
        'plain': {},
        'causal': dict(mask=masks.causal()),
        'padding': dict(mask=masks.padding(seen_BN)),
      }[kind]
      jax_args = {
        'plain': {},
        'causal': dict(is_causal=True),
        'padding': dict(mask=seen_BN[:, None, None]),
      }[kind]
      ours = functools.partial(attention.attend, **ours_args)
      theirs = functools.partial(jax.nn.dot_product_attention, **jax_args)
      for what, wrap in ('forward', lambda f: f), ('gradient', gradient_of):
        works = [work_of(jax.jit(wrap(f)), *qkv) for f in (ours, theirs)]
        times = benchmark.measured(works, repeats, None)
        seconds, jax_seconds = map(np.median, times)
        rows.append(
          dict(
            shape=shape_name,
            mask=kind,
            what=what,
            seconds=seconds,
            jax_seconds=jax_seconds,
            ratio=np.median(np.divide(times[1], times[0])),
          )
        )
  return rows


def gradient_of(f: Callable[..., jax.Array]) -> Callable[..., Any]:
  return jax.grad(lambda *qkv: (f(*qkv) ** 2).sum(), argnums=(0, 1, 2))


def work_of(f: Callable[..., Any], *args: Any) -> benchmark.Work:
  def work(times: int) -> None:
    for _ in range(times):
      result = f(*args)
    jax.block_until_ready(result)

  return work


def memory() -> list[Row]:
  """Returns the bytes of temporaries of attention and its gradient on a TPU v5e."""
  device = jax.sharding.SingleDeviceSharding(plan.slice_devices('v5e:2x2')[0])
  rows = []
  for kind in MEMORY_MASKS:
    for tokens in MEMORY_TOKENS:
      mask = None if kind == 'plain' else masks.causal()
      if kind == 'packed':
        mask &= masks.blocks(tokens, 512)
      x = jax.ShapeDtypeStruct((1, tokens, 8, 64), jnp.bfloat16, sharding=device)
      found = {}
      for implementation in 'pallas', 'xla':
        if implementation == 'xla' and tokens > 8192:
          continue  # more memory than the chip has
        f = functools.partial(
          attention.attend, mask=mask, implementation=implementation
        )
        step = jax.jit(gradient_of(f)).lower(x, x, x).compile()
        found[implementation] = step.memory_analysis().temp_size_in_bytes
      bytes_a_token = found['pallas'] / tokens
      rows.append(dict(mask=kind, tokens=tokens, **found, bytes_a_token=bytes_a_token))
  return rows


def decode(repeats: int) -> list[Row]:
  """Returns the seconds of beam search for a batch, always up to the last token."""
  batch, beams, length = DECODE['batch'], DECODE['beams'], DECODE['length']
  rows = []
  for name, sizes in MODELS.items():
    model = transformer.Transformer(vocab_size=1000, **sizes)
    task = seq2seq.Seq2Seq(
      model=model,
      optimizer=optim.adamw(1e-3),
      beams=beams,
      extra_length=length - DECODE['source'],
      eos_id=-1,  # an id that no token has
    )
    shape = batch, DECODE['source']
    source_BS = jax.random.randint(jax.random.key(0), shape, 3, 1000)
    target_B1 = source_BS[:, :1]
    variables = jax.jit(model.init)(jax.random.key(1), source_BS, target_B1)
    cached = jax.jit(task.search_beams)
    plain = jax.jit(functools.partial(without_cache, task, length))
    ids, scores = cached(variables, source_BS)
    plain_ids, plain_scores = plain(variables, source_BS)
    assert ids.shape == (batch, beams, length) == plain_ids.shape
    works = [work_of(f, variables, source_BS) for f in (cached, plain)]
    times = benchmark.measured(works, repeats, None)
    rows.append(
      dict(
        model=name,
        **DECODE,
        seconds=np.median(times[0]),
        seconds_without_cache=np.median(times[1]),
        ratio=np.median(np.divide(times[1], times[0])),
        same_tokens=float(np.mean(ids == plain_ids)),
        score_difference=float(np.abs(scores - plain_scores).max()),
      )
    )
  return rows


def without_cache(
  task: seq2seq.Seq2Seq, length: int, variables: Any, source_BS: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Runs beam search without a cache: each step decodes all tokens so far."""
  model, beams, batch = task.model, task.beams, len(source_BS)
  memory_BSD = model.apply(variables, source_BS, method='encode')
  memory_bSD, source_bS = (jnp.repeat(x, beams, 0) for x in (memory_BSD, source_BS))

  def step(
    token_b: jax.Array, index: jax.Array, ids_bT: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    ids_bT = jax.lax.dynamic_update_index_in_dim(ids_bT, token_b, index, axis=1)
    features_bTD = model.apply(
      variables, ids_bT, memory_bSD, source_bS, method='decode'
    )
    features_b1D = jax.lax.dynamic_slice_in_dim(features_bTD, index, 1, axis=1)
    return model.apply(variables, features_b1D, method='logits')[:, 0], ids_bT

  def reorder(ids_bT: jax.Array, beam_BK: jax.Array) -> jax.Array:
    return ids_bT[(jnp.arange(batch)[:, None] * beams + beam_BK).reshape(-1)]

  # Ones, because zeros are padding and would be masked for later tokens.
  return search.beam_search(
    step,
    jnp.ones((batch * beams, length), jnp.int32),
    jnp.full(batch, task.bos_id),
    length,
    task.eos_id,
    beams,
    task.alpha,
    reorder,
    task.never,
  )


def compiled(repeats: int) -> list[Row]:
  """Returns the seconds to trace, lower and compile a scanned encoder's gradient."""
  x = jax.ShapeDtypeStruct((8, 64, 256), jnp.float32)

  def once(depth: int) -> tuple[float, float]:
    jax.clear_caches()
    encoder = layers.Stack(
      depth=depth, num_heads=4, mlp_dim=1024, scan=True, remat='full'
    )
    variables = jax.eval_shape(encoder.init, jax.random.key(0), x)

    def loss(variables: Any, x_BND: jax.Array) -> jax.Array:
      return (encoder.apply(variables, x_BND) ** 2).mean()

    started = time.perf_counter()
    lowered = jax.jit(jax.grad(loss)).lower(variables, x)
    traced = time.perf_counter()
    lowered.compile()
    return traced - started, time.perf_counter() - traced

  once(2), once(24)
  times = {depth: [] for depth in (2, 24)}
  for _ in range(repeats):
    for depth in times:
      times[depth].append(once(depth))
  totals = {depth: np.sum(found, axis=1) for depth, found in times.items()}
  return [
    dict(
      depth=depth,
      trace_seconds=np.median([t for t, _ in found]),
      compile_seconds=np.median([c for _, c in found]),
      ratio=np.median(totals[depth] / totals[2]),
    )
    for depth, found in times.items()
  ]


PARTS = ('attend', 'memory', 'decode', 'compile')


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
  """Returns a table with one row per measurement; times in ms, bytes in MiB."""
  result = rich.table.Table(title=name, title_justify='left', box=None)
  columns = list(max(rows, key=len))
  for column in columns:
    result.add_column(column.replace('_', ' '), justify='right', no_wrap=True)
  for row in rows:
    result.add_row(*(shown(column, row.get(column)) for column in columns))
  return result


def shown(column: str, value: Any) -> str:
  if value is None:
    return ''
  if 'seconds' in column:
    return f'{1e3 * value:,.2f} ms'
  if column in ('pallas', 'xla'):
    return f'{value / 2**20:,.1f} MiB'
  if column == 'bytes_a_token':
    return f'{value:,.0f}'
  return f'{value:.3g}' if isinstance(value, float) else str(value)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__)
  parser.add_argument('parts', nargs='*', metavar='part', help=', '.join(PARTS))
  parser.add_argument(
    '--repeats',
    type=int,
    default=10,
    help='number of measurements; default: %(default)s',
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args = parser.parse_args(argv)
  for part in args.parts:
    if part not in PARTS:
      raise errors.UserError(f'no part {part!r}: there are {", ".join(PARTS)}')
  if args.repeats < 1:
    raise errors.UserError('--repeats must be 1 or more.')
  cli.set_up_jax()
  # Compilation is measured here, so programs must not come from the cache.
  jax.config.update('jax_enable_compilation_cache', False)
  measure = {
    'attend': functools.partial(attend, args.repeats),
    'memory': memory,
    'decode': functools.partial(decode, args.repeats),
    'compile': functools.partial(compiled, args.repeats),
  }
  result = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  console = rich.console.Console(stderr=True, width=110, highlight=False)
  for part in args.parts or PARTS:
    result[part] = measure[part]()
    console.print(table(part, result[part]))
  benchmark.write(result, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
