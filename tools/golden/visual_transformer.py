"""Golden checks of Visual Transformers: our values by name, from each golden file."""

import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.layers import convolution, visual_tokens
from big_vision_like.models import resnet, visual_transformer
from big_vision_like.ops import losses
from big_vision_like.weights import linear, tree
from tools.golden.common import (
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  fit_parameters,
  float_name,
  loss_and_gradients,
  select,
  widened,
)

# Values are up to about 20 in size.
OUTPUT = Tolerance(absolute=2e-5, relative=1e-5)
GRADIENT = Tolerance(relative=1e-4)
# Absolute tolerance as a share of the largest gradient in a file. Where attention is
# nearly one-hot, gradients of queries and keys are small differences of large numbers:
# the float32 gradients of the reference have errors of up to 9 %.
ROUNDING = 1e-6
EQUATIONS = {
  'tokenizer.W_a': 'tokenizer/filter',
  'tokenizer.W_tr': 'tokenizer/recurrent/query',
  'tokenizer.W_v': 'tokenizer/value',
  'transformer.key_proj': 'mixing/key',
  'transformer.query_proj': 'mixing/query',
  'transformer.value_proj': 'mixing/value',
  'transformer.f1': 'mixing/fc1',
  'transformer.f2': 'mixing/fc2',
  'projector.W_q': 'projector/query',
  'projector.W_k': 'projector/key',
  'projector.W_v': 'projector/value',
}
GROUPED = {
  'tok.coef': 'tokenizer/filter',
  'tok.query': 'tokenizer/recurrent/query',
  'tok.key': 'tokenizer/recurrent/key',
  'tok.value': 'tokenizer/value',
  'tok.out': 'tokenizer/out',
  'tr.k': 'mixing/key',
  'tr.q': 'mixing/query',
  'tr.v': 'mixing/value',
  'tr.f1': 'mixing/fc1',
  'tr.f2': 'mixing/fc2',
  'proj.q': 'projector/query',
  'proj.k': 'projector/key',
  'proj.v': 'projector/value',
  'proj.down': 'projector/shortcut',
}
BACKBONE = {
  'plain_arch.0': 'conv1',
  'plain_arch.1': 'norm1',
  'plain_arch.3': 'conv2',
  'plain_arch.4': 'norm2',
  'downsample.0': 'conv_proj',
  'downsample.1': 'norm_proj',
}
STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}


class Backbone(nn.Module):
  """The small ResNet of the reference: a convolution, then units of two convolutions.

  The first convolution, and units that change the number of channels, halve height and
  width.
  """

  root: int
  channels: tuple[int, ...]
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, image_BHWI: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    x_BhwC = convolution.conv('conv', self.root, 3, 2, dtype=self.dtype)(image_BHWI)
    norm = convolution.BatchNorm(epsilon=resnet.EPSILON, dtype=self.dtype, name='norm')
    x_BhwC = nn.relu(norm(x_BhwC, train))
    for number, channels in enumerate(self.channels):
      stride = 1 if x_BhwC.shape[-1] == channels else 2
      unit = resnet.Unit(
        channels, False, stride, dtype=self.dtype, name=f'unit{number}'
      )
      x_BhwC = unit(x_BhwC, train)
    return {'stage1': x_BhwC}


class Given(nn.Module):
  """A backbone that returns its input."""

  @nn.compact
  def __call__(self, x_BhwC: jax.Array, train: bool = False) -> dict[str, jax.Array]:
    return {'stage1': x_BhwC}


def classifier(description: Fields, arrays: Fields) -> Results:
  """Runs a VT-ResNet of the equations; returns maps, tokens, loss and gradients."""
  config, state = description['config'], select(arrays, 'param/')
  names = table(state, r'vt(\d+)\.', 'module{}/', EQUATIONS)
  names |= backbone_table(state)
  variables = read(state, names, num_heads=1)
  params = variables['params']
  trunk = params['backbone']
  channels = [
    trunk[f'unit{i}']['conv2']['kernel'].shape[-1]
    for i in range(sum(name.startswith('unit') for name in trunk))
  ]
  depth = config['n']
  model = visual_transformer.VisualTransformer(
    backbone=Backbone(config['cin'], tuple(channels), dtype=float_name()),
    num_classes=config['ncls'],
    depth=depth,
    num_tokens=config['L'],
    width=config['ct'],
    # A projector after the last module gets no gradient, but its output is compared.
    projectors='all' if 'projector' in params[f'module{depth}'] else 'between',
    dtype=float_name(),
  )
  image_BHWC = arrays['input/image'].transpose(0, 2, 3, 1)
  fit_parameters(model, params, image_BHWC)
  others = {'batch_stats': variables['batch_stats']}

  def mean_loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params} | others, image_BHWC)
    loss_B = losses.softmax_cross_entropy(
      outputs['logits'], arrays['input/soft_target']
    )
    return loss_B.mean(), (outputs, modules)

  loss, (outputs, modules), gradients = loss_and_gradients(mean_loss, params)
  results: Results = {
    'output/feature_in': (joined(modules['backbone']['stage1']), OUTPUT),
    'output/logits': (outputs['logits'], OUTPUT),
    'output/loss': (loss, LOSS),
  }
  results |= of_modules(modules, depth, first=1)
  return results | gradients_of({'params': gradients}, names)


def grouped(description: Fields, arrays: Fields) -> Results:
  """Runs modules with heads and grouped projections; returns outputs and gradients."""
  heads, depth = description['heads'], description['modules']
  state = select(arrays, 'param/')
  names = table(state, r'm\.(\d+)\.', 'module{}/', GROUPED, first=0)
  params = read(state, names, heads)['params']
  model = visual_transformer.VisualTransformer(
    backbone=Given(),
    depth=depth,
    num_tokens=description['L'],
    width=description['CT'],
    map_width=description['C_out'],
    projections=visual_tokens.Projections(
      num_heads=heads,
      groups=description['groups'],
      token_groups=description['kqv_groups'],
      use_bias=True,
      inner=True,
    ),
    projectors='all' if 'projector' in params[f'module{depth}'] else 'between',
    dtype=float_name(),
  )
  x_BhwC = split(arrays['input/x'], *description['hw'])
  fit_parameters(model, params, x_BhwC)
  cotangent_BLD = arrays['input/cotangent'].swapaxes(1, 2)

  def product(inputs: tree.Tree) -> tuple[jax.Array, dict]:
    outputs, modules = captured(model, {'params': inputs['params']}, inputs['x'])
    return (outputs['tokens'] * cotangent_BLD).sum(), modules

  inputs = {'params': params, 'x': x_BhwC}
  _, modules, gradients = loss_and_gradients(product, inputs)

  x_BCP = joined(gradients.pop('x'))
  results = of_modules(modules, depth, first=0) | gradients_of(gradients, names)
  return results | {'grad/x': (x_BCP, GRADIENT)}


def pyramid(description: Fields, arrays: Fields) -> Results:
  """Runs a pyramid; returns its maps, and tokens before and after the transformer."""
  state = select(arrays, 'param/')
  names: linear.Table = {}
  for theirs, ours in EQUATIONS.items():
    (module, part), (kind, rest) = theirs.split('.'), ours.split('/', 1)
    if kind == 'mixing':  # one for all levels
      names |= table(state, '', '', {theirs: ours})
    else:
      names |= table(
        state, rf'{module}(\d+)\.', f'{kind}_c{{}}/', {part: rest}, first=1
      )
  params = read(state, names, num_heads=1)['params']
  model = visual_transformer.Pyramid(
    num_tokens=description['L'], width=description['ct'], dtype=float_name()
  )
  # Pixels have no positions, so any map can be given as a single column.
  maps = {
    name: split(x_BCP, x_BCP.shape[-1], 1)
    for name, x_BCP in select(arrays, 'input/').items()
  }
  fit_parameters(model, params, maps)
  apply = jax.jit(lambda params: captured(model, {'params': params}, maps))
  (written_maps, tokens_BLD), modules = apply(params)
  before = [modules[f'tokenizer_{name}'] for name in maps]
  results: Results = {
    'output/tokens_in': (jnp.concatenate(before, axis=1).swapaxes(1, 2), OUTPUT),
    'output/tokens_out': (tokens_BLD.swapaxes(1, 2), OUTPUT),
  }
  for name, x_BhwC in written_maps.items():
    results[f'output/p{name.removeprefix("c")}'] = (joined(x_BhwC), OUTPUT)
  return results


def of_modules(modules: Mapping[str, tuple], depth: int, first: int) -> Results:
  """Returns maps and tokens of all modules, numbered from `first`."""
  results: Results = {}
  for number in range(depth):
    x_BhwC, tokens_BLD = modules[f'module{number + 1}']
    name = f'output/vt{number + first}'
    results[f'{name}/tokens'] = (tokens_BLD.swapaxes(1, 2), OUTPUT)
    results[f'{name}/feature'] = (joined(x_BhwC), OUTPUT)
  return results


def table(
  state: tree.Arrays, before: str, ours: str, parts: Mapping[str, str], first: int = 1
) -> linear.Table:
  """Returns our names of the arrays named `before`, one of `parts`, weight or bias.

  `before` is a regular expression. If it captures a number, the number is filled into
  `ours`, counted from 1; theirs starts at `first`.
  """
  found = {}
  for name in state:
    match = re.fullmatch(rf'{before}(.*)\.(weight|bias)', name)
    if match is None or match[re.compile(before).groups + 1] not in parts:
      continue
    *number, part, leaf = match.groups()
    place = ours.format(*(int(n) + 1 - first for n in number))
    leaf = 'kernel' if leaf == 'weight' else leaf
    found[name] = [f'params/{place}{parts[part]}/{leaf}']
  return found


def backbone_table(state: tree.Arrays) -> linear.Table:
  """Returns our names of the arrays of the backbone and the head."""
  numbers = sorted(
    {int(m[1]) for name in state if (m := re.match(r'backbone\.(\d+)\.plain', name))}
  )
  modules = {'backbone.0': 'backbone/conv', 'backbone.1': 'backbone/norm'}
  modules['classification_head.fc'] = 'head'
  for unit, number in enumerate(numbers):
    for theirs, part in BACKBONE.items():
      modules[f'backbone.{number}.{theirs}'] = f'backbone/unit{unit}/{part}'
  found = {}
  for theirs, place in modules.items():
    for leaf in linear.leaves(place):
      their_leaf = 'bias' if leaf == 'bias' else 'weight'
      found[f'{theirs}.{their_leaf}'] = [f'params/{place}/{leaf}']
    for their_leaf, leaf in STATISTICS.items():
      found[f'{theirs}.{their_leaf}'] = [f'batch_stats/{place}/{leaf}']
  return {name: ours for name, ours in found.items() if name in state}


def read(state: tree.Arrays, names: linear.Table, num_heads: int) -> tree.Tree:
  """Returns our variables, with 1D convolutions of the reference as matrices."""
  tree.check_names('its parameters', unknown=state.keys() - names.keys())
  plain = {n: x[..., 0] if x.ndim == 3 else x for n, x in state.items()}
  return widened(tree.unflatten(linear.from_state(plain, names, num_heads)))


def gradients_of(found: tree.Tree, names: linear.Table) -> Results:
  """Returns gradients with the names and shapes of the reference."""
  state = linear.to_state(tree.flatten(found), names)
  largest = max(float(np.abs(x).max()) for x in state.values())
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  results: Results = {}
  for name, x in state.items():
    is_conv1d = x.ndim == 2 and not name.startswith('classification_head')
    results[f'grad/{name}'] = (x[..., None] if is_conv1d else x, tolerance)
  return results


def joined(x_BhwC: np.ndarray) -> np.ndarray:
  """Returns a map as (B, C, P)."""
  return x_BhwC.reshape(len(x_BhwC), -1, x_BhwC.shape[-1]).swapaxes(1, 2)


def split(x_BCP: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns (B, C, P) as a map."""
  if height * width != x_BCP.shape[-1]:
    raise UserError(f'a map of {height}x{width} cannot have {x_BCP.shape[-1]} pixels')
  return x_BCP.swapaxes(1, 2).reshape(len(x_BCP), height, width, -1)


CHECKS = (
  Check(classifier, 'Visual-Transformers models/visual_transformer.py'),
  Check(pyramid, 'Visual-Transformers models/semantic_segmentation.py'),
  Check(grouped, 'multi-head, grouped-projection VT module'),
)
