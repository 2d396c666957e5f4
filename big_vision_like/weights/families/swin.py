"""Published Swin Transformers, arXiv:2103.14030.

Files are the original ones (microsoft/Swin-Transformer and, for detection and
segmentation, SwinTransformer's forks of mmdetection and mmsegmentation), timm's and
transformers'. All have exact GELUs and an epsilon of 1e-5.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from big_vision_like.errors import UserError, shape_text
from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import swin
from big_vision_like.weights import family, swin_names, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.published import Published

Size = tuple[int, int]
# Arguments that no shape determines.
UNTOLD = ('window', 'padding', 'shifted', 'pos_grid', 'activation', 'epsilon')
# Functions of timm that make the model, by width and depths; each function accepts all
# sizes.
_TIMM_MODELS = {
  (96, (2, 2, 6, 2)): 'swin_tiny_patch4_window7_224',
  (96, (2, 2, 18, 2)): 'swin_small_patch4_window7_224',
  (128, (2, 2, 18, 2)): 'swin_base_patch4_window7_224',
  (192, (2, 2, 18, 2)): 'swin_large_patch4_window7_224',
}
# Activations of transformers for ours.
_ACTIVATIONS = {'gelu_exact': 'gelu', 'gelu': 'gelu_pytorch_tanh', 'relu': 'relu'}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Swin`, from the shapes of its parameters.

  Without relative biases, the window size is unknown: 7, as in published models.
  """
  flat = tree.flatten(variables['params'])
  stages = swin_names.check_shapes(flat, source)
  maps = swin_names.maps(flat)
  sides = [sizes['W'] for sizes in stages if 'W' in sizes]
  absolute = 'pos_embedding' in flat
  content = any(name.endswith('attention/query/kernel') for name in flat)
  posemb = 'absolute' if absolute else 'none'
  if sides:
    posemb = 'both' if absolute else 'relative' if content else 'without_content'
  return dict(
    num_classes=len(flat.get('head/bias', ())),
    width=flat['embed/bias'].size,
    depths=tuple(swin_names.depths(flat)),
    num_heads=tuple(sizes['G'] for sizes in stages),
    window=max(sides, default=7),
    patch=flat['embed/kernel'].shape[0],
    mlp_ratio=stages[0]['M'] / stages[0]['D'],
    maps=maps,
    padding='dense' if maps else 'none',
    shifted=True,
    posemb=posemb,
    pos_grid=None,
    activation='gelu_exact',
    epsilon=swin.LAYER_NORM_EPSILON,
  )


def choices(told: Mapping[str, Any]) -> dict[str, Collection[Any]]:
  """Returns the possible values of arguments that shapes do not determine."""
  found = {'padding': swin.PADDINGS, 'activation': {*_ACTIVATIONS}}
  if told['posemb'] not in ('none', 'absolute'):
    found['window'] = (told['window'],)
  return found


def read(
  arrays: tree.Arrays, beside: Beside, layout: swin_names.Layout | None = None
) -> family.Read:
  """Reads arrays in the names of `layout`, by default in transformers' names."""
  layout = layout or layout_of(arrays)
  told, assumed = _told(beside), ()
  heads = beside.num_heads if isinstance(beside.num_heads, list | tuple) else None
  flat, grid = swin_names.flat_positions(layout.read(arrays, heads))
  if grid is None and 'pos_embedding' in flat and swin_names.maps(flat):
    grid = (math.isqrt(flat['pos_embedding'].shape[1]),) * 2
    assumed = (f'pos_grid={grid}: a square, as no other grid is recorded',)
  told['pos_grid'] = grid
  return family.Read({'params': tree.unflatten(flat)}, told, assumed)


def _told(beside: Beside) -> dict[str, Any]:
  """Returns activation and epsilon from a config.json; raises for unsupported ones."""
  config = beside.config
  activation = config.get('hidden_act', 'gelu')
  ours = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
  if activation not in ours:
    raise UserError(
      f'{beside.path}: config.json: our Swin does not have the activation'
      f' {activation!r}'
    )
  epsilon = config.get('layer_norm_eps', swin.LAYER_NORM_EPSILON)
  return {'activation': ours[activation], 'epsilon': epsilon}


def layout_of(names: Collection[str]) -> swin_names.Layout:
  """Returns the layout of a transformers file, of any version."""
  names = [*names]
  # Transformers 5 writes backbones without this prefix, except for the last norm.
  prefix = 'swin.' if any(name.startswith('swin.encoder.') for name in names) else ''
  old = any('.attention.self.' in name for name in names)
  return (swin_names.old_transformers if old else swin_names.transformers)(prefix)


def transformers_differences(names: Collection[str]) -> tree.Differences:
  """Returns `Layout.differences` for the names of any version of transformers."""
  return layout_of(names).differences(names)


def as_microsoft(name: str, size: Size | None, channels: int) -> Preprocessing:
  """Returns the preprocessing of the published code in evaluation.

  The names of published files end in their image size.
  """
  named = re.search(r'window\d+_(\d{3})(?!\d)', name)
  size = (int(named[1]),) * 2 if named else size or (224, 224)
  # Images of 224 pixels are a central crop; larger ones are resized, ignoring aspect.
  resize = int(256 / 224 * min(size)) if max(size) <= 224 else 'squash'
  return Preprocessing(
    size,
    resize=resize,
    interpolation='pillow_bicubic',
    rounding=('down', 'nearest'),
    mean=IMAGENET_MEAN if channels == 3 else (0.5,) * channels,
    std=IMAGENET_STD if channels == 3 else (0.5,) * channels,
    source='as published by microsoft/Swin-Transformer',
  )


def fit(
  weights: Published, images: Any, asked: Size | None, grid: Size | None
) -> tuple[Published, Any]:
  """Returns weights and images as they are written; windows must divide the images."""
  if not asked:
    return weights, images
  model, positions = weights.model, weights.params.get('pos_embedding')
  model.check(asked)
  tokens = math.prod(model.grid(asked))
  if positions is not None and positions.shape[1] != tokens:
    raise UserError(
      f'--image-size: the weights have {positions.shape[1]} absolute positions, which'
      f' are not resized here; images of {shape_text(asked)} have {tokens} tokens'
    )
  return weights, images.with_size(asked)


def written(
  weights: Published, layout: swin_names.Layout, library: str, posembs: Sequence[str]
) -> family.Arrays:
  """Returns arrays in the names of a library that has Swins with `posembs`."""
  architecture = weights.architecture
  check_plain(architecture, library, posembs)
  flat = tree.flatten(tree.unstack_blocks(weights.params))
  grid = architecture['pos_grid']
  if 'pos_embedding' in flat and grid and layout is swin_names.MICROSOFT:
    pos_1DN = flat['pos_embedding'].swapaxes(1, 2)
    flat['pos_embedding'] = pos_1DN.reshape(*pos_1DN.shape[:2], *grid)
  return layout.written(flat)


def check_plain(
  architecture: Mapping[str, Any], library: str, posembs: Sequence[str]
) -> None:
  """Raises a `UserError` for Swins that a library does not have."""
  if architecture['posemb'] not in posembs:
    raise UserError(f'{library} has no Swin with posemb={architecture["posemb"]!r}')
  if not architecture['shifted']:
    raise UserError(f'{library} has no Swin whose windows are not shifted')
  if (architecture['padding'] == 'dense') != bool(architecture['maps']):
    raise UserError(
      f'{library} has no Swin with maps={architecture["maps"]} and'
      f' padding={architecture["padding"]!r}'
    )


def to_timm(weights: Published) -> family.Arrays:
  """Returns timm's arrays, for classifiers only."""
  if weights.architecture['maps']:
    raise UserError(
      'timm rolls windows before it pads them, which is a different function than in'
      ' this backbone: write --to transformers'
    )
  return written(weights, swin_names.TIMM, 'timm', ('relative',))


def to_transformers(weights: Published) -> family.Arrays:
  """Returns the arrays of transformers 5."""
  _check_windows(weights)
  layout = swin_names.transformers('swin.' if _prefixed(weights) else '')
  return written(weights, layout, 'transformers', ('relative', 'both'))


def _prefixed(weights: Published) -> bool:
  """Returns whether transformers' class for the weights has the Swin as a part."""
  return bool(weights.num_classes or weights.architecture['maps'])


def _check_windows(weights: Published) -> None:
  """Raises if late stages have smaller windows, which transformers has no table for."""
  flat = tree.flatten(tree.unstack_blocks(weights.params))
  sides = {sizes.get('W') for sizes in swin_names.check_shapes(flat, 'parameters')}
  if len(sides) > 1:
    raise UserError(
      f'transformers has windows of one size, but these are {sorted(sides)}: write --to'
      ' timm'
    )


def timm_config(weights: Published, image_size: Size) -> dict[str, Any]:
  """Returns timm's config.json for a model.safetensors."""
  told = weights.architecture
  for name, value in (
    ('activation', 'gelu_exact'),
    ('epsilon', swin.LAYER_NORM_EPSILON),
  ):
    if told[name] != value:
      raise UserError(
        f'a config.json of timm cannot record {name}={told[name]!r}: write a'
        ' .safetensors file'
      )
  sizes = told['width'], tuple(told['depths'])
  features = told['width'] * 2 ** (len(told['depths']) - 1)
  return {
    'architecture': _TIMM_MODELS.get(sizes, 'swin_tiny_patch4_window7_224'),
    'num_classes': weights.num_classes,
    'num_features': features,
    'global_pool': 'avg',
    'model_args': dict(
      img_size=list(image_size),
      in_chans=weights.channels,
      patch_size=told['patch'],
      embed_dim=told['width'],
      depths=list(told['depths']),
      num_heads=list(told['num_heads']),
      window_size=told['window'],
      mlp_ratio=told['mlp_ratio'],
    ),
    'pretrained_cfg': dict(
      num_classes=weights.num_classes,
      fixed_input_size=True,
      first_conv='patch_embed.proj',
      classifier='head.fc',
    ),
  }


def transformers_config(weights: Published, image_size: Size) -> dict[str, Any]:
  """Returns transformers' config.json for a model.safetensors."""
  told, classes = weights.architecture, weights.num_classes
  kind = 'SwinForImageClassification' if classes else 'SwinModel'
  maps = [f'stage{stage}' for stage in told['maps']]
  return {
    'architectures': ['SwinBackbone' if maps else kind],
    'model_type': 'swin',
    'image_size': list(image_size),
    'patch_size': told['patch'],
    'num_channels': weights.channels,
    'embed_dim': told['width'],
    'depths': list(told['depths']),
    'num_heads': list(told['num_heads']),
    'window_size': told['window'],
    'mlp_ratio': told['mlp_ratio'],
    'qkv_bias': True,
    'hidden_act': _ACTIVATIONS[told['activation']],
    'layer_norm_eps': told['epsilon'],
    'use_absolute_embeddings': told['posemb'] == 'both',
    **({'out_features': maps} if maps else {}),
    **({'num_labels': classes} if classes else {}),
  }


FAMILY = family.Family(
  name='swin',
  model=swin.Swin,
  sources=(
    family.Source(
      name='timm Swin',
      suffixes=family.TORCH,
      differences=swin_names.TIMM.differences,
      read=partial(read, layout=swin_names.TIMM),
      writes={'timm': to_timm},
      config=hub_json.timm_folder(timm_config),
      fit=fit,
    ),
    family.Source(
      name='transformers Swin',
      suffixes=family.TORCH,
      differences=transformers_differences,
      read=read,
      writes={'transformers': to_transformers},
      config=hub_json.transformers_folder(transformers_config),
      fit=fit,
    ),
    family.Source(
      name='microsoft/Swin-Transformer',
      suffixes=family.TORCH,
      differences=swin_names.MICROSOFT.differences,
      read=partial(read, layout=swin_names.MICROSOFT),
      writes={
        'published': partial(
          written,
          layout=swin_names.MICROSOFT,
          library='microsoft/Swin-Transformer',
          posembs=swin.POSITIONS[:-1],
        )
      },
      config=family.no_config,
      fit=fit,
    ),
  ),
  describe=describe,
  untold=UNTOLD,
  choices=choices,
  images=partial(hub_json.classifier_images, published=as_microsoft),
  stem=('embed',),
  backbone=True,
)
