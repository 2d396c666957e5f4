"""Published generators of GANsformer, arXiv:2103.01209, of dorarad/gansformer."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import gansformer
from big_vision_like.weights import family, tree
from big_vision_like.weights import gansformer_names as names
from big_vision_like.weights.beside import Beside

# Arrays of every generator.
ALWAYS = (
  'mapping.w_avg',
  'mapping.global_mlp.out_layer.weight',
  'synthesis.b4.conv1.weight',
)


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names that no generator has, and those of every one that are missing."""
  unknown = {name for name in names.kept(found) if names.generator_name(name) is None}
  return unknown, set(ALWAYS) - set(found)


def read(arrays: family.Arrays, beside: Beside) -> family.Read:
  """Reads the state of a generator in PyTorch's names."""
  variables = names.generator(arrays, str(beside.path))
  style = _style(variables['params'])
  kind = 'modulated' if style else 'not modulated'
  assumed = (
    f'convolutions are {kind} (style={style}), as in published models'
    f' {"with" if style else "without"} attention among latents or with one latent; an'
    ' attended value multiplies normalized pixels',
  )
  return family.Read(variables, {}, assumed)


def _style(params: tree.Tree) -> bool:
  local = params['mapping_network'].get('local')
  if local is None:
    return 'stem' not in params['b4']
  return any(name.startswith('attention_') for name in local)


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Generator`, from the shapes of its variables."""
  params = variables['params']
  sides = sorted(int(name[1:]) for name in params if re.fullmatch(r'b\d+', name))
  mapping, last = params['mapping_network'], params[f'b{sides[-1]}']
  widths = {side: params[f'b{side}']['conv1']['kernel'].shape[-1] for side in sides}
  steps = [name for name in mapping['global'] if re.fullmatch(r'(fc_.*|.*_fc1)', name)]
  residual = any(name.startswith('block_') for name in mapping['global'])
  # The number of layers of a residual network: two in each block.
  layers = dict(layers=len(steps) * (2 if residual else 1), residual=residual)
  local, first = mapping.get('local', {}), params['b4']['conv1']
  told: dict[str, Any] = dict(
    resolution=sides[-1],
    components=len(params['position']) if 'position' in params else 0,
    latent_width=len(variables['batch_stats']['mapping_network']['average']),
    channels=len(last['to_rgb']['bias']),
    channel_base=widths[sides[-1]] * sides[-1],
    channel_max=widths[4],
    style=_style(params),
    architecture='residual' if 'skip' in last else 'skip',
    stem='latent' if 'stem' in params['b4'] else 'constant',
    mapping=layers | dict(attention='attention_0' in local),
  )
  if told['components']:
    attends = [side for side in sides if 'attention' in params[f'b{side}']['conv1']]
    told['attention_up_to'] = attends[-1]
    told['attention'] = _attention(first['attention'])
  _check(told, variables, source)
  return told | dict(num_classes=0)


def _attention(params: tree.Tree) -> dict[str, Any]:
  width, double = params['modulation']['kernel'].shape
  told = dict(
    duplex='centroids' in params,
    num_heads=len(params['centroids']) if 'centroids' in params else 1,
    integration='both' if double == 2 * width else 'mul',
    gate_from='from_gate' in params,
    gate_to='to_gate' in params,
  )
  return told


def _check(told: Mapping[str, Any], variables: tree.Tree, source: str) -> None:
  """Raises unless all arrays have the shapes of a generator with these arguments."""
  model = gansformer.Generator(**told)
  latents = jnp.zeros((1, model.num_latents, model.latent_width))
  want = tree.flatten(jax.eval_shape(model.init, jax.random.key(0), latents))
  have = tree.flatten({name: x for name, x in variables.items() if x})
  tree.check_names(source, have.keys() - want.keys(), want.keys() - have.keys())
  wrong = [
    f'{name} {np.shape(have[name])} instead of {want[name].shape}'
    for name in want
    if np.shape(have[name]) != want[name].shape
  ]
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')


def build(num_classes: int, **arguments: Any) -> gansformer.Generator:
  """Makes the generator, which has no classes."""
  del num_classes
  return gansformer.Generator(**arguments)


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> Preprocessing:
  """Returns the preprocessing of images that a generator learns: [-1, 1]."""
  del metadata, name, num_classes
  half = (0.5,) * channels
  return Preprocessing(
    size,
    interpolation='pillow_lanczos',
    mean=half,
    std=half,
    source="as in dorarad/gansformer's data sets",
  )


FAMILY = family.Family(
  name='gansformer',
  model=gansformer.Generator,
  sources=(
    family.Source(
      name='dorarad/gansformer',
      suffixes=(*family.NPZ, *family.TORCH),
      differences=differences,
      read=read,
      writes={'published': lambda weights: names.to_generator(weights.variables)},
      config=family.no_config,
      numbers=('.noise_strength',),
    ),
  ),
  describe=describe,
  build=build,
  images=images,
  stem=(),
  channels=lambda params: len(
    next(block['to_rgb']['bias'] for block in params.values() if 'to_rgb' in block)
  ),
  side=lambda architecture: architecture['resolution'],
  untold=('style', 'attention/num_heads', 'attention/integration'),
)
