"""Compares our code with golden files: numbers computed by original implementations.

  python tools/check_golden.py tests/golden/*.npz

Each FILE.npz holds inputs, parameters under the reference's own names, and outputs and
gradients; FILE.json beside it names the reference and its configuration. Every array
under output/, grad/ and converted/ is compared. Exit status: 0 if all are within
tolerance, 1 if one is not or has no counterpart, 2 if a file cannot be checked.

A new kind of file is one function from description and arrays to values by name, and
one line in KINDS.
"""

import argparse
import functools
import json
import pathlib
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_like import experiment, optim
from big_vision_like.errors import UserError
from big_vision_like.models import transformer, vit
from big_vision_like.ops import attention, losses, positions, ridge, search
from big_vision_like.tasks import seq2seq
from big_vision_like.weights import (
  timm_vit,
  torch_transformer,
  tree,
  vision_transformer,
)

COMPARED = ('output/', 'grad/', 'converted/')


class Tolerance(NamedTuple):
  """Largest error allowed; `relative` to the largest magnitude of the golden array."""

  absolute: float = 0.0
  relative: float = 0.0


EXACT = Tolerance()
LOGITS = Tolerance(absolute=2e-5)
LOSS = Tolerance(relative=1e-5)
LAYER = Tolerance(relative=1e-4)
FLOAT = Tolerance(absolute=1e-6)
TOKENS = Tolerance(absolute=2e-5)
NUMBER = Tolerance(absolute=1e-5)
# Torch's own float32 interpolation is 2e-6 away from its float64 one.
CUBIC = Tolerance(absolute=1e-5)
# For small l2 the published float32 solver itself moves by 1e-3 between machines.
SCORES = Tolerance(relative=1e-3)

Results = dict[str, tuple[Any, Tolerance]]


class Fields(dict):
  """A dict that says which name is missing."""

  def __missing__(self, name: str):
    raise UserError(f'it lacks {name!r}')


def select(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """The arrays whose names start with `prefix`, without it."""
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def vit_jax(description: Fields, arrays: Fields) -> Results:
  """A ViT of google-research/vision_transformer: modules, logits, loss, gradients."""
  config = description['config']
  if config.get('resnet'):
    reference = description['reference']
    raise UserError(f'no function here checks {reference!r} with a ResNet stem')
  params = vision_transformer.from_npz(select(arrays, 'param/'))
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch_size']),
    width=config['hidden_size'],
    depth=config['num_layers'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'],
    pool=choice(config, 'classifier', {'token': 'token', 'gap': 'gap'}),
    posemb='learned' if 'pos_embedding' in params else 'none',
    rep_size=config['representation_size'] or 0,
  )
  outputs, modules = forward(model, params, arrays['input/image'])
  results = {
    f'output/{name}': (value, LAYER)
    for path, value in modules.items()
    if (name := vision_transformer.published_name(path)) is not None
  }
  results['output/Transformer/posembed_input'] = (modules['with_position'], LAYER)
  results['output/logits'] = (outputs['logits'], LOGITS)
  if 'pre_logits' not in modules:  # with a layer of that name, its output before tanh
    results['output/pre_logits'] = (outputs['features'], LAYER)
  gradients = loss_and_gradients(results, description, arrays, model, params)
  return results | gradient_results(gradients, vision_transformer.to_npz)


def big_vision(description: Fields, arrays: Fields) -> Results:
  """A ViT of big_vision: its dict of intermediates, logits, loss, gradients."""
  config = description['config']
  width = config['width']
  rep_size = config['rep_size']
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch_size']),
    width=width,
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'] or 4 * width,
    pool=choice(config, 'pool_type', {'tok': 'token', 'gap': 'gap', 'map': 'map'}),
    posemb=choice(config, 'posemb', {'learn': 'learned', 'sincos2d': 'sincos2d'}),
    rep_size=width if rep_size is True else int(rep_size or 0),
  )
  params = vision_transformer.from_npz(select(arrays, 'param/'))
  outputs, modules = forward(model, params, arrays['input/image'])
  num_tokens = int(model.pool == 'token')
  stem_BhwD = modules['embed']
  _, height, width, _ = stem_BhwD.shape
  patches_BGD = outputs['tokens'][:, num_tokens:]
  pre_logits_BhwR = patches_BGD.reshape(-1, height, width, model.width)
  if model.rep_size:
    pre_logits_BhwR = jnp.tanh(dense(params['pre_logits'], pre_logits_BhwR))
  values = {
    'stem': stem_BhwD,
    'with_posemb': modules['with_position'][:, num_tokens:],
    'encoded': outputs['tokens'],
    'head_input': outputs['features'],
    'pre_logits': outputs['pre_logits'],
    'pre_logits_2d': pre_logits_BhwR,
  }
  x_BND = modules['with_position']
  for i in range(model.depth):
    block = f'encoder/block_{i}'
    parts = {
      'sa': modules[f'{block}/attention'],
      '+sa': x_BND + modules[f'{block}/attention'],
      'mlp': modules[f'{block}/mlp'],
      '+mlp': modules[block],
    }
    values |= {f'encoder/block{i:02d}/{name}': value for name, value in parts.items()}
    x_BND = modules[block]
  values['encoder/pre_ln'] = x_BND
  results = {f'output/{name}': (value, LAYER) for name, value in values.items()}
  if model.posemb == 'sincos2d':
    pos_1ND = positions.sincos2d(height, width, model.width)
    results['output/posemb_sincos_2d'] = (pos_1ND, FLOAT)
  results['output/logits'] = (outputs['logits'], LOGITS)
  results['output/logits_2d'] = (dense(params['head'], pre_logits_BhwR), LOGITS)
  gradients = loss_and_gradients(results, description, arrays, model, params)
  return results | gradient_results(gradients, big_vision_gradients)


def published_npz(description: Fields, arrays: Fields) -> Results:
  """A file named as those of gs://vit_models: the converted tree, and logits."""
  config = description['config']
  params = vision_transformer.from_npz(select(arrays, 'published/'))
  model = vit.ViT(
    num_classes=config['num_classes'],
    patch=two(config['patch']),
    width=config['width'],
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_dim=config['mlp_dim'],
    pool='token' if 'cls' in params else 'gap',
    rep_size=config['rep_size'] or 0,
  )
  outputs, _ = forward(model, params, arrays['input/image'])
  converted = vision_transformer.to_big_vision(params)
  results = {f'converted/{name}': (value, EXACT) for name, value in converted.items()}
  return results | {'output/logits': (outputs['logits'], LOGITS)}


def timm(description: Fields, arrays: Fields) -> Results:
  """ViTs of timm, several to a file: tokens, features, logits."""
  pools = {'token': 'token', 'avg': 'gap', 'map': 'map'}
  results = {}
  for config in description['config']:
    case = config['case']
    params = timm_vit.from_timm(
      select(arrays, f'param/{case}/'), config['num_heads'], config['no_embed_class']
    )
    model = vit.ViT(
      num_classes=config['num_classes'],
      patch=two(config['patch_size']),
      width=config['embed_dim'],
      depth=config['depth'],
      num_heads=config['num_heads'],
      mlp_dim=int(config['embed_dim'] * config['mlp_ratio']),
      pool=choice(config, 'global_pool', pools),
    )
    outputs, _ = forward(model, params, arrays[f'input/{case}/image'])
    results |= {
      f'output/{case}/tokens': (outputs['tokens'], LAYER),
      f'output/{case}/pre_logits': (outputs['features'], LAYER),
      f'output/{case}/logits': (outputs['logits'], LOGITS),
    }
  return results


def resized_positions(description: Fields, arrays: Fields) -> Results:
  """Position embeddings resized with aligned corners."""
  return resize_cases(description, arrays, 'linear', FLOAT)


def cubic_positions(description: Fields, arrays: Fields) -> Results:
  """Position embeddings resized by torch's bicubic interpolation."""
  return resize_cases(description, arrays, 'cubic_torch', CUBIC)


def fewshot(description: Fields, arrays: Fields) -> Results:
  """Closed-form few-shot classifiers and the draws of their examples."""
  results = {}
  for config in description['config']:
    case = config['case']
    data = Fields(select(arrays, f'input/{case}/'))
    x_train_ND, y_train_N = data['x_train'], data['y_train']
    scores_MC = ridge.ridge_scores(
      x_train_ND, y_train_N, data['x_test'], config['classes'], config['l2_reg']
    )
    predicted_M = np.asarray(scores_MC).argmax(axis=1)
    accuracy = np.mean(predicted_M == data['y_test'])
    results |= {
      f'output/{case}/scores': (scores_MC, SCORES),
      f'output/{case}/pred': (predicted_M, EXACT),
      f'output/{case}/accuracy': (accuracy, FLOAT),
    }
    for name in select(arrays, f'output/{case}/'):
      if match := re.fullmatch(r'indices_seed(\d+)_(\d+)shot', name):
        seed, shots = int(match[1]), int(match[2])
        drawn = ridge.fewshot_indices(y_train_N, shots, seed)
        results[f'output/{case}/{name}'] = (drawn, EXACT)
  return results


# Our optimizers by big_vision's names, and our names of their arguments.
OPTIMIZERS = {
  'scale_by_adam': (optim.adamw, {'b1': 'b1', 'b2': 'b2', 'mu_dtype': 'mu_dtype'}),
  'big_vision.momentum_hp': (
    functools.partial(optim.momentum, dtype='bfloat16'),
    {'momentum': 'decay', 'nesterov': 'nesterov', 'dtype': 'dtype'},
  ),
  'big_vision.scale_by_adafactor': (
    optim.adafactor,
    {
      'momentum': 'b1',
      'beta2_cap': 'b2_cap',
      'dtype_momentum': 'mu_dtype',
      'min_dim_size_to_factor': 'min_size_to_factor',
    },
  ),
}


def optimizers(description: Fields, arrays: Fields) -> Results:
  """Schedules, and parameters after each step, of big_vision's optimizers."""
  steps, results = description['config']['steps'], {}
  for case, config in enumerate(map(Fields, description['config']['cases'])):
    optimizer, tolerance = optimizer_of(config, steps)
    relative = [optimizer.rate_at(n) / config['lr'] for n in range(steps)]
    results[f'output/{case}/schedule'] = (np.stack(relative), FLOAT)
    params = tree.unflatten(select(arrays, 'input/p0/'))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
      grads = tree.unflatten(select(arrays, f'input/g{step}/'))
      updates, state = update(grads, state, params)
      params = optax.apply_updates(params, updates)
      if select(arrays, f'output/{case}/step{step}/'):
        results |= {
          f'output/{case}/step{step}/{name}': (value, tolerance)
          for name, value in tree.flatten(params).items()
        }
  return results


def optimizer_of(config: Fields, steps: int) -> tuple[optim.Optimizer, Tolerance]:
  """What `big_vision.optax.make` would build, and how near its steps must come."""
  schedule, rate = Fields(config['schedule']), config['lr']
  warmup = schedule.get('warmup_steps', 0)
  kind = schedule['decay_type']
  if kind == 'cosine':
    decayed = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)
  elif kind == 'linear':
    decayed = optim.linear(rate, warmup, steps, rate * schedule.get('linear_end', 0))
  elif kind == 'rsqrt':
    cooldown = schedule.get('cooldown_steps', 0)
    decayed = optim.rsqrt(rate, warmup, schedule['timescale'], steps, cooldown)
  else:
    raise UserError(f'decay_type {kind!r} is not one of cosine, linear, rsqrt')
  name = config['optax_name']
  if name not in OPTIMIZERS:
    raise UserError(f'optimizer {name!r} is not one of {", ".join(OPTIMIZERS)}')
  make, ours = OPTIMIZERS[name]
  options = {}
  for theirs, value in config.get('optax', {}).items():
    if theirs not in ours:
      raise UserError(f'{name} takes {", ".join(ours)} here, not {theirs!r}')
    options[ours[theirs]] = value
  rules = [
    (pattern.rstrip('$').replace('*/', '*'), factor)
    for pattern, factor in config.get('wd_mults') or [('.*kernel', 1.0)]
  ]
  optimizer = make(
    decayed,
    # There the decay is multiplied by the schedule, not by the rate.
    weight_decay=(config.get('wd') or 0.0) / rate,
    clip_norm=config.get('grad_clip_norm'),
    decay_rules=rules,
    **options,
  )
  half = any(
    x.dtype == jnp.bfloat16
    for x in jax.tree.leaves(optimizer.transform.init({'kernel': jnp.zeros(2)}))
  )
  return optimizer, Tolerance(absolute=1e-3) if half else FLOAT


def encoder_decoder(description: Fields, arrays: Fields) -> Results:
  """The Transformer: every layer, attention, logits, losses, gradients, greedy ids."""
  model = transformer.Transformer(
    vocab_size=description['vocab'],
    width=description['d_model'],
    depth=description['encoder_layers'],
    decoder_depth=description['decoder_layers'],
    num_heads=description['heads'],
    mlp_dim=description['d_ff'],
    dropout=0.0,
    norm='pre' if description['pre_norm'] else 'post',
    final_norm=description['final_norm'],
    epsilon=description['layernorm_eps'],
    pad_id=description['pad_id'],
    mlp_args=dict(activation=description['activation']),
  )
  params = torch_transformer.from_torch(select(arrays, 'param/'), model.num_heads)
  source_BS, target_BT = arrays['input/src'], arrays['input/tgt_out']
  inputs = source_BS, arrays['input/tgt_in']
  outputs, modules = forward(model, params, *inputs)
  results = {
    'output/memory': (outputs['memory'], TOKENS),
    'output/logits': (outputs['logits'], LOGITS),
    'output/encoder_layer0_attn_probs': (
      modules['encoder/block_0/attention/probs'],
      Tolerance(absolute=1e-5),
    ),
  }
  for stack, depth in ('encoder', model.depth), ('decoder', model.decoder_depth):
    for i in range(depth):
      results[f'output/{stack}_layer{i}'] = (modules[f'{stack}/block_{i}'], TOKENS)
  count = len(arrays.get('output/pos_encoding', ()))
  table_ND = positions.sinusoid(jnp.arange(count), model.width)
  results['output/pos_encoding'] = (table_ND, FLOAT)

  def mean_loss(params: tree.Tree, smoothing: float, form: str) -> jax.Array:
    logits_BTV = model.apply({'params': params}, *inputs)['logits']
    counted_BT = target_BT != model.pad_id
    loss_BT = losses.smoothed_cross_entropy(logits_BTV, target_BT, smoothing, form)
    return jnp.where(counted_BT, loss_BT, 0.0).sum() / counted_BT.sum()

  smoothing = description['label_smoothing']
  forms = {
    'smooth_v_minus_1': (smoothing, 't2t'),
    'smooth_uniform_v': (smoothing, 'torch'),
    'smooth_kl_v_minus_2': (smoothing, 'annotated'),
    'nll': (0.0, 't2t'),
  }

  @jax.jit
  def all_losses(params: tree.Tree) -> tuple[dict[str, jax.Array], tree.Tree]:
    values = {name: mean_loss(params, *form) for name, form in forms.items()}
    return values, jax.grad(mean_loss)(params, smoothing, 't2t')

  values, gradients = all_losses(params)
  results |= {f'output/loss_{name}': (x, NUMBER) for name, x in values.items()}
  results |= gradient_results(gradients, torch_transformer.to_torch)
  if 'output/greedy8' in arrays:
    results['output/greedy8'] = (
      greedy_ids(model, description, params, source_BS, arrays['output/greedy8']),
      EXACT,
    )
  # One query of 64 numbers whose products with two keys are 112 and 96.
  q_64 = jnp.full(64, 2.0)
  k_M64 = jnp.stack([jnp.full(64, 112 / 128), jnp.full(64, 96 / 128)])
  p_1112 = attention.probabilities(q_64[None, None, None], k_M64[None, :, None])
  return results | {
    'output/illustrated_scores': (k_M64 @ q_64 / 8, FLOAT),
    'output/illustrated_softmax': (p_1112[0, 0, 0], FLOAT),
    'output/noam_lr_512_4000': (
      optim.noam(512, 4000)(np.array([1, 100, 4000, 100_000]) - 1),
      Tolerance(relative=1e-6),
    ),
  }


def greedy_ids(
  model: transformer.Transformer,
  description: Fields,
  params: tree.Tree,
  source_BS: np.ndarray,
  wanted_BN: np.ndarray,
) -> np.ndarray:
  """BOS and what greedy search finds, in as many tokens as wanted."""
  task = seq2seq.Seq2Seq(
    model=model,
    optimizer=optim.adamw(1e-3),
    bos_id=description['bos_id'],
    eos_id=description['eos_id'],
    extra_length=wanted_BN.shape[1] - 1 - source_BS.shape[1],
    never=(),
  )
  ids_BN = jax.jit(task.greedy)({'params': params}, source_BS)
  return np.pad(ids_BN, ((0, 0), (1, 0)), constant_values=task.bos_id)


def searched(description: Fields, arrays: Fields) -> Results:
  """Beam search where the logits are a table; there the best sequence is the last."""
  table_BIPV = jnp.asarray(arrays['input/logit_table'])
  beams, bos_id = description['beam_size'], description['bos_id']
  batch = len(table_BIPV)

  def step(token_b: jax.Array, index: jax.Array, cache: None) -> tuple[jax.Array, None]:
    example_b = jnp.repeat(jnp.arange(batch), beams)
    return table_BIPV[example_b, index, token_b], None

  ids_BKN, scores_BK = search.beam_search(
    step,
    None,
    jnp.full((batch,), bos_id),
    description['max_decode_len'] - 1,
    description['eos_id'],
    beams,
    description['alpha'],
  )
  sequences_BKN = jnp.pad(ids_BKN, ((0, 0), (0, 0), (1, 0)), constant_values=bos_id)
  return {
    'output/sequences': (sequences_BKN[:, ::-1], EXACT),
    'output/scores': (scores_BK[:, ::-1], Tolerance(absolute=1e-4)),
  }


# Which function checks a file: the first whose words are in the file's "reference".
KINDS: list[tuple[str, Callable[[Fields, Fields], Results]]] = [
  ('vision_transformer vit_jax/models_vit.py', vit_jax),
  ('big_vision models/vit.py _Model', big_vision),
  ('gs://vit_models', published_npz),
  ('timm/models/vision_transformer.py', timm),
  ('checkpoint.interpolate_posembed', resized_positions),
  ('deit main.py --finetune', cubic_positions),
  ('evaluators/fewshot_lsr.py', fewshot),
  ('big_vision optax.make', optimizers),
]
# For files that name no reference: the first of which a file has all these fields.
FIELDS: list[tuple[set[str], str, Callable[[Fields, Fields], Results]]] = [
  (
    {'encoder_layers', 'decoder_layers', 'pre_norm'},
    'torch.nn.Transformer layers',
    encoder_decoder,
  ),
  ({'beam_size', 'alpha', 'max_decode_len'}, 'flax examples/wmt decode.py', searched),
]


def two(size: int | list[int]) -> tuple[int, int]:
  """A size given once or for both axes."""
  return (size, size) if isinstance(size, int) else tuple(size)


def choice(config: Fields, name: str, ours: Mapping[str, str]) -> str:
  """Our word for the config's; says so if we have none."""
  if config[name] not in ours:
    raise UserError(f'{name} {config[name]!r} is not one of {", ".join(ours)}')
  return ours[config[name]]


def dense(params: Mapping[str, np.ndarray], x: jax.Array) -> jax.Array:
  """A linear layer over the last axis."""
  y = jnp.einsum('...i,io->...o', x, params['kernel'])
  return y + jnp.broadcast_to(params['bias'], y.shape)


def forward(
  model: nn.Module, params: tree.Tree, *inputs: np.ndarray
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Returns the model's outputs, and the outputs of its submodules by path."""
  fit_parameters(model, params, *inputs)
  outputs, state = jax.jit(
    lambda params, *inputs: model.apply(
      {'params': params},
      *inputs,
      capture_intermediates=True,
      mutable=['intermediates'],
    )
  )(params, *inputs)
  modules = {
    path.removesuffix('/__call__'): values[0]
    for path, values in tree.flatten(state['intermediates']).items()
  }
  return outputs, modules


def fit_parameters(model: nn.Module, params: tree.Tree, *inputs: np.ndarray) -> None:
  """Raises unless the parameters are those of the model, in names and shapes."""
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  want, have = tree.flatten(variables['params']), tree.flatten(params)
  tree.check_names(
    'its parameters do not fit its config',
    have.keys() - want.keys(),
    want.keys() - have.keys(),
  )
  for name, array in have.items():
    if array.shape != want[name].shape:
      raise UserError(
        f'{name} has shape {array.shape}, its config asks for {want[name].shape}'
      )


def loss_and_gradients(
  results: Results,
  description: Fields,
  arrays: Fields,
  model: vit.ViT,
  params: tree.Tree,
) -> tree.Tree:
  """Adds the losses the file asks for to results; returns the last one's gradients."""
  functions = {
    'softmax_xent': losses.softmax_cross_entropy,
    'sigmoid_xent': losses.sigmoid_cross_entropy,
  }
  names = [name for name in functions if f'output/loss_{name}' in arrays]
  if 'loss' in description:
    named = choice(description, 'loss', {name: name for name in functions})
    names = [name for name in names if name != named] + [named]
  if not names and not select(arrays, 'grad/'):
    return {}
  if not names:
    raise UserError('it has gradients but does not say of which loss')
  labels_BC = arrays.get('input/labels_onehot')
  if labels_BC is None:
    labels_BC = arrays['input/labels']
  if labels_BC.ndim == 1:
    labels_BC = jax.nn.one_hot(labels_BC, model.num_classes)

  def mean_loss(params: tree.Tree, name: str) -> jax.Array:
    logits_BC = model.apply({'params': params}, arrays['input/image'])['logits']
    return functions[name](logits_BC, labels_BC).mean()

  for name in names:
    value, gradients = jax.jit(jax.value_and_grad(mean_loss), static_argnames='name')(
      params, name=name
    )
    results[f'output/loss_{name}'] = (value, LOSS)
  return gradients


def gradient_results(
  gradients: tree.Tree, rename: Callable[[tree.Tree], dict[str, np.ndarray]]
) -> Results:
  """Gradients under the reference's names."""
  if not gradients:
    return {}
  named = rename(gradients)
  # Some gradients are zero but for rounding: the bias of the keys moves no softmax.
  rounding = 1e-7 * max(float(np.abs(array).max()) for array in named.values())
  tolerance = LAYER._replace(absolute=rounding)
  return {f'grad/{name}': (array, tolerance) for name, array in named.items()}


def big_vision_gradients(gradients: tree.Tree) -> dict[str, np.ndarray]:
  """Gradients in the layout of big_vision: each block's, and those of all stacked."""
  if 'cls' in gradients and 'pos_embedding' in gradients:
    pos_1ND = np.array(gradients['pos_embedding'])
    pos_1ND[:, 0] = 0.0  # to_big_vision would add it to the class token's gradient
    gradients = {**gradients, 'pos_embedding': pos_1ND}
  stacked = vision_transformer.to_big_vision(gradients, scan=True)
  return vision_transformer.to_big_vision(gradients) | stacked


def resize_cases(
  description: Fields, arrays: Fields, method: str, tolerance: Tolerance
) -> Results:
  """Position embeddings resized, several to a file."""
  results = {}
  for config in description['config']:
    case = config['case']
    key = 'extra_tokens' if 'extra_tokens' in config else 'has_class_token'
    resized_1ND = positions.resize(
      arrays[f'input/posemb_{case}'],
      two(config['grid_from']),
      two(config['grid_to']),
      num_prefix=int(config[key]),
      method=method,
    )
    results[f'output/posemb_{case}'] = (resized_1ND, tolerance)
  return results


def kind_of(description: Fields) -> tuple[str, Callable[[Fields, Fields], Results]]:
  """The reference that computed a file, and the function that checks it."""
  if 'reference' not in description:
    for fields, reference, function in FIELDS:
      if fields <= description.keys():
        return reference, function
  reference = description['reference']
  function = next((check for words, check in KINDS if words in reference), None)
  if function is None:
    raise UserError(f'no function here checks the reference {reference!r}')
  return reference, function


def compute(path: pathlib.Path) -> tuple[str, dict[str, np.ndarray], Results]:
  """Returns the file's reference, its golden arrays, and our values."""
  if path.suffix != '.npz' or not zipfile.is_zipfile(path):
    raise UserError('there is no such .npz file')
  description_path = path.with_suffix('.json')
  try:
    description = json.loads(description_path.read_text(), object_hook=Fields)
  except FileNotFoundError:
    raise UserError(f'{description_path.name} is not beside it') from None
  except json.JSONDecodeError as error:
    raise UserError(f'{description_path.name} cannot be parsed: {error}') from None
  reference, function = kind_of(description)
  with np.load(path, allow_pickle=False) as file:
    arrays = Fields(file)
  golden = {name: array for name, array in arrays.items() if name.startswith(COMPARED)}
  if not golden:
    raise UserError('it holds nothing to compare')
  with jax.default_matmul_precision('highest'):
    return reference, golden, function(description, arrays)


def compare(want: np.ndarray, result: tuple[Any, Tolerance] | None) -> tuple[str, bool]:
  """Returns the error, relative error, tolerance and verdict of a row; and if ok."""
  if result is None:
    return 'no counterpart', False
  got, tolerance = np.asarray(result[0]), result[1]
  if got.shape != want.shape:
    return f'ours has shape {shape_text(got)}', False
  error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
  largest = np.abs(want.astype(np.float64)).max()
  allowed = tolerance.absolute + tolerance.relative * largest
  ok = bool(error <= allowed)  # false for NaN
  relative = error / largest if largest else float(error > 0)
  verdict = 'ok' if ok else 'TOO LARGE'
  return f'{error:9.1e}  {relative:9.1e}  {allowed:9.1e}  {verdict}', ok


def shape_text(array: np.ndarray) -> str:
  return 'x'.join(map(str, array.shape)) or 'scalar'


def check(path: pathlib.Path) -> bool:
  """Prints the table of one file; returns whether all is within tolerance."""
  reference, golden, results = compute(path)
  names = max(map(len, golden))
  shapes = max(len('shape'), *(len(shape_text(array)) for array in golden.values()))
  print(f'{path}: {reference}')
  head = f'{"max abs":>9}  {"max rel":>9}  {"allowed":>9}'
  print(f'  {"name":{names}}  {"shape":{shapes}}  {head}')
  count = 0
  for name, want in golden.items():
    text, ok = compare(want, results.get(name))
    count += ok
    print(f'  {name:{names}}  {shape_text(want):{shapes}}  {text}')
  print(f'  {count} of {len(golden)} within tolerance\n')
  return count == len(golden)


def main(arguments: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('files', nargs='+', type=pathlib.Path, metavar='FILE.npz')
  status, files = 0, parser.parse_args(arguments).files
  experiment.set_up_jax()
  for path in files:
    try:
      status = max(status, 0 if check(path) else 1)
    except ValueError as error:
      print(f'{path}: {str(error).rstrip(".")}.', file=sys.stderr)
      status = 2
  return status


if __name__ == '__main__':
  sys.exit(main())
