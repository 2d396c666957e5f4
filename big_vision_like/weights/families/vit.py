"""Published ViTs, arXiv:2010.11929, and hybrids of a ResNet and a ViT."""

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import classes, hub_json
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import vit
from big_vision_like.ops import positions
from big_vision_like.run import provenance
from big_vision_like.weights import (
  family,
  resnet_names,
  timm_vit,
  transformers_deit,
  transformers_vit,
  tree,
  vision_transformer,
  vit_names,
)
from big_vision_like.weights.beside import Beside, told_sizes
from big_vision_like.weights.families import bit
from big_vision_like.weights.published import Published

Size = tuple[int, int]
# Heads of published sizes that do not have one head per 64 features.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16, 1792: 16}
_TABLES = {
  'pos_embedding': 'learned',
  'pos_rows': 'learned2d',
  'relative_keys': 'relative',
}
# Our activation for each activation of other libraries.
_ACTIVATIONS = {
  'gelu': 'gelu_exact',
  'gelu_tanh': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'gelu_new': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `ViT`, from the shapes of its parameters.

  Without a table, positions are described as none, though they may be computed.
  """
  flat = tree.flatten(variables['params'])
  sizes = vit_names.check_shapes(flat, source)
  posemb, posemb_at = _positions(flat)
  patch = sizes['P'], sizes['Q']
  trunk = 'resnet/conv_root/kernel' in flat
  return dict(
    num_classes=len(flat.get('head/bias', ())),
    patch=patch[0] if patch[0] == patch[1] else patch,
    width=sizes['D'],
    depth=vit_names.depth(flat),
    num_heads=sizes['H'],
    mlp_dim=sizes['M'],
    pool='token' if 'cls' in flat else 'map' if 'map_head/probe' in flat else 'gap',
    posemb=posemb,
    posemb_at=posemb_at,
    resnet=tuple(resnet_names.depths(flat)) if trunk else None,
    registers=sizes.get('R', 0),
    rep_size=sizes['S'] if 'pre_logits/bias' in flat else 0,
    activation='gelu',
    epsilon=1e-6,
  )


def _positions(flat: tree.Arrays) -> tuple[str, str]:
  """Returns the kind of positions, and where they are added."""
  for name, posemb in _TABLES.items():
    if name in flat:
      # Relative positions are never added at the stem.
      once = 'shared' if posemb == 'relative' else 'stem'
      return posemb, 'every' if len(flat[name]) > 1 else once
  return 'none', 'stem'


def choices(told: Mapping[str, Any]) -> dict[str, Collection[str]]:
  """Returns the possible positions and activations, given those that shapes show."""
  found = {'activation': {*_ACTIVATIONS.values()}}
  at, posemb = told['posemb_at'], told['posemb']
  if posemb not in _TABLES.values():  # there is no table
    return found | {'posemb': ('none', 'sincos2d')}
  once = at != 'every' and posemb != 'relative'
  places = ('stem', 'shared') if once else (at,)
  return found | {'posemb': (posemb,), 'posemb_at': places}


def from_npz(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of vision_transformer and big_vision, which may compute positions."""
  params = vision_transformer.from_npz(arrays, source=str(beside.path))
  if _positions(params)[0] != 'none':
    return family.Read({'params': params})
  assumed = "posemb='sincos2d': the file has no positions, so they are computed"
  return family.Read({'params': params}, {'posemb': 'sincos2d'}, (assumed,))


def from_timm(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of timm, with heads, GELU and positions from config.json."""
  heads, told, assumed = told_of_timm('timm ViT', arrays, beside)
  _check_pooling(arrays, beside)
  without = no_embed_class(arrays, beside)
  params = timm_vit.from_timm(arrays, heads, without, str(beside.path))
  return family.Read({'params': params}, told, assumed)


def told_of_timm(
  source: str, arrays: tree.Arrays, beside: Beside
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
  """Returns heads, activation and epsilon of a timm file, and what was assumed."""
  activation = _model_args(beside).get('act_layer')
  told, assumed = _computed(source, activation, epsilon=1e-6)
  heads, guessed = num_heads_of(arrays['patch_embed.proj.bias'].size, beside)
  return heads, told, assumed + guessed


def from_transformers(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of transformers, with heads, GELU and epsilon from config.json."""
  heads, told, assumed = told_of_transformers('transformers ViT', arrays, beside)
  params = transformers_vit.from_transformers(arrays, heads, str(beside.path))
  return family.Read({'params': params}, told, assumed)


def from_transformers_deit(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads a transformers DeiT without a distillation head; its token is a register."""
  arrays, register_11D = transformers_deit.classifier_as_vit(arrays)
  variables, told, assumed = from_transformers(arrays, beside)
  params = variables['params'] | {'registers': register_11D}
  return family.Read({'params': params}, told, assumed)


def told_of_transformers(
  source: str, arrays: tree.Arrays, beside: Beside
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
  """Returns heads, activation and epsilon of transformers, and what was assumed."""
  activation = beside.config.get('hidden_act')
  epsilon = beside.config.get('layer_norm_eps', 1e-12)
  told, assumed = _computed(source, activation, epsilon)
  bias = 'embeddings.patch_embeddings.projection.bias'
  width = next(array.size for name, array in arrays.items() if name.endswith(bias))
  heads, guessed = num_heads_of(width, beside)
  return heads, told, assumed + guessed


def _computed(
  source: str, told: str | None, epsilon: float
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns activation and epsilon of the original code, and what was assumed."""
  if (told or 'gelu') not in _ACTIVATIONS:
    raise UserError(f'config.json: our ViT does not have the activation {told!r}')
  activation = _ACTIVATIONS[told or 'gelu']
  assumed: tuple[str, ...] = ()
  if told is None:
    assumed = (f'activation={activation!r}: the default of {source}s',)
  return {'activation': activation, 'epsilon': epsilon}, assumed


def num_heads_of(width: int, beside: Beside) -> tuple[int, tuple[str, ...]]:
  """Returns the number of heads, and the assumptions made for it."""
  told = beside.config.get('num_attention_heads')
  told = told or _model_args(beside).get('num_heads')
  if beside.num_heads or told:
    return beside.num_heads or told, ()
  heads = _HEADS.get(width) or max(width // 64, 1)
  return heads, (
    f'num_heads={heads}: as in published ViTs of width {width}; neither the file nor a'
    ' config.json records it',
  )


def _model_args(beside: Beside) -> dict[str, Any]:
  return beside.config.get('model_args', {})


def _check_pooling(arrays: tree.Arrays, beside: Beside) -> None:
  pool = 'map' if 'attn_pool.latent' in arrays else 'avg'
  pool = 'token' if 'cls_token' in arrays else pool
  told = beside.config.get('global_pool', pool)
  if told != pool:
    raise UserError(
      f'{beside.path}: config.json says global_pool={told!r}, but our ViT with these'
      f' arrays pools by {pool!r}'
    )


def no_embed_class(arrays: tree.Arrays, beside: Beside) -> bool:
  """Returns whether leading tokens have no positions; raises if this is unknown."""
  told = _model_args(beside).get('no_embed_class')
  counted = timm_vit.positions_without_class(arrays, told_sizes(beside.metadata))
  for answer in (beside.no_embed_class, told, counted):
    if answer is not None:
      return answer
  raise UserError(
    f'{beside.path}: {arrays["pos_embed"].shape[1]} positions may or may not include'
    ' those of class token and registers: set no_embed_class, as in timm, or model_args'
    ' in a config.json next to it'
  )


def as_original(
  name: str, size: tuple[int, int] | None, channels: int
) -> classes.Preprocessing:
  """Returns the preprocessing of files without JSON files, by the file's name.

  Names of DeiTs contain 'deit'. All other files are assumed to be Google's, including
  big_vision's DeiTs (`bv_deit_...`), whose first layer takes [-1, 1].
  """
  own = 'deit' in name.lower() and not name.startswith('bv_')
  return (as_deit if own else bit.as_google)(name, size, channels)


def as_deit(
  name: str, size: tuple[int, int] | None, channels: int, share: float = 0.875
) -> classes.Preprocessing:
  """Returns DeiT's central crop, `share` of the shorter side of the image."""
  if channels != 3:
    return bit.as_google(name, size, channels)
  size = size or (224, 224)
  return classes.Preprocessing(
    size,
    resize=int(min(size) / share),
    interpolation='pillow_bicubic',
    rounding=('down', 'nearest'),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    source='as published by facebookresearch/deit',
  )


def as_published(
  weights: Published, images: Any, asked: Size | None, grid: Size | None
) -> tuple[Published, Any]:
  """Returns weights and images for .npz, whose readers compute positions."""
  _check_at_stem(weights)
  if asked:
    images = images.with_size(image_size(weights, images, asked, grid))
  return weights, images


def with_positions(
  weights: Published, images: Any, asked: Size | None, grid: Size | None
) -> tuple[Published, Any]:
  """Returns weights with computed positions as an array, as PyTorch files need."""
  _check_at_stem(weights)
  size = image_size(weights, images, asked, grid)
  images = images.with_size(size)
  architecture = weights.architecture
  if architecture['posemb'] != 'sincos2d':
    return weights, images
  pos_1ND = positions.sincos2d(*weights.model.grid(size), architecture['width'])
  leading = weights.model.num_placed
  pos_1ND = np.pad(np.asarray(pos_1ND), ((0, 0), (leading, 0), (0, 0)))
  return dataclasses.replace(
    weights,
    params=weights.params | {'pos_embedding': pos_1ND},
    architecture=architecture | {'posemb': 'learned'},
  ), images


def _check_at_stem(weights: Published) -> None:
  if weights.architecture['posemb_at'] != 'stem':
    raise UserError(
      f'posemb_at={weights.architecture["posemb_at"]!r}: no other code adds positions'
      ' before every block'
    )


def image_size(
  weights: Published, images: Any, asked: Size | None, grid: Size | None = None
) -> Size:
  """Returns height and width of the images that the positions are for.

  `grid` is the grid of the positions, if a run or a file records it.
  """
  posemb = weights.architecture['posemb']
  if posemb == 'none':
    return asked or images.size
  model = weights.model
  height, width = model.stride
  count, _ = model.table_grid(weights.variables)
  if asked:
    rows, columns = asked[0] // height, asked[1] // width
    if (rows * height, columns * width) != asked:
      raise UserError(
        f'--image-size: {asked[0]}x{asked[1]} does not divide into tokens of'
        f' {height}x{width} pixels'
      )
    made = f'--image-size: {asked[0]}x{asked[1]} makes a grid of {rows}x{columns}'
    if count not in (None, rows * columns):
      raise UserError(
        f'{made}, but the weights have {count} positions, which are not resized here'
      )
    if count is not None and grid not in (None, (rows, columns)):
      raise UserError(
        f'{made}, but the positions of the weights are for {grid[0]}x{grid[1]}, and are'
        ' not resized here'
      )
    return asked
  if posemb == 'sincos2d':
    raise UserError(
      'positions are computed from the size of images: give it with --image-size'
    )
  if posemb != 'learned':
    raise UserError(f'no other code has posemb={posemb!r}')
  rows, columns = grid or provenance.square(count)
  return rows * height, columns * width


FAMILY = family.Family(
  name='vit',
  model=vit.ViT,
  sources=(
    family.Source(
      name='vision_transformer or big_vision ViT',
      suffixes=family.NPZ,
      differences=vision_transformer.differences,
      read=from_npz,
      writes={
        'published': family.to_params(vision_transformer.to_npz),
        'big_vision': family.to_params(vision_transformer.to_big_vision),
      },
      fit=as_published,
    ),
    family.Source(
      name='timm ViT',
      suffixes=family.TORCH,
      differences=timm_vit.differences,
      read=from_timm,
      writes={'timm': family.to_params(timm_vit.to_timm)},
      config=hub_json.timm_folder(
        lambda w, size: timm_vit.config(w.architecture, w.num_classes, size, w.channels)
      ),
      fit=with_positions,
    ),
    family.Source(
      name='transformers ViT',
      suffixes=family.TORCH,
      differences=transformers_vit.differences,
      read=from_transformers,
      writes={'transformers': family.to_params(transformers_vit.to_transformers)},
      config=hub_json.transformers_folder(
        lambda w, size: transformers_vit.config(
          w.architecture, w.num_classes, size, w.channels
        )
      ),
      fit=with_positions,
    ),
    family.Source(
      name='transformers DeiTForImageClassification',
      suffixes=family.TORCH,
      differences=transformers_deit.classifier_differences,
      read=from_transformers_deit,
    ),
  ),
  describe=describe,
  # Positions may be computed, or shared by all blocks.
  untold=('posemb', 'posemb_at', 'activation', 'epsilon'),
  choices=choices,
  images=partial(hub_json.classifier_images, published=as_original),
  stem=('resnet/conv_root', 'embed'),
  features=lambda told: told['rep_size'] or told['width'],
)
