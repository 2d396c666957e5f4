"""Published TimeSformers, arXiv:2102.05095.

Files are the original ones (facebookresearch/TimeSformer) and transformers'. Those of
the scheme 'space_only' have no positions in time and the names of timm's ViT: they are
read as ViTs, from which a TimeSformer of this scheme may start.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference import clips, hub_json
from big_vision_like.inference.clips import ClipPreprocessing
from big_vision_like.models import timesformer
from big_vision_like.run import provenance
from big_vision_like.weights import family, timesformer_names, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import vit
from big_vision_like.weights.published import Published

Size = tuple[int, int]
# Arguments that no shape determines.
UNTOLD = (
  *('activation', 'epsilon', 'initializers', 'pos_grid', 'pos_frames'),
  *('posemb_time', 'posemb'),
)
# Names of schemes in transformers' config.json.
_SCHEMES = {'divided': 'divided_space_time', 'joint': 'joint_space_time'}
# Activations of transformers for ours.
_ACTIVATIONS = {'gelu_exact': 'gelu', 'gelu': 'gelu_pytorch_tanh', 'relu': 'relu'}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `TimeSformer`, from the shapes of its parameters."""
  flat = tree.flatten(variables['params'])
  sizes = timesformer_names.check_shapes(flat, source)
  patch = sizes['P'], sizes['Q']
  return dict(
    num_classes=len(flat.get('head/bias', ())),
    patch=patch[0] if patch[0] == patch[1] else patch,
    width=sizes['D'],
    depth=sizes['L'],
    num_heads=sizes['H'],
    mlp_dim=sizes['M'],
    attention=timesformer_names.scheme(flat),
    posemb='learned' if 'pos_embedding' in flat else 'none',
    posemb_time='learned' if 'time_embedding' in flat else 'none',
    pos_grid=None,
    pos_frames=None,
    initializers='reference',
    activation='gelu_exact',
    epsilon=1e-6,
  )


def choices(told: Mapping[str, Any]) -> dict[str, Collection[Any]]:
  """Returns the possible values of arguments that shapes do not determine."""
  return {
    'activation': {*_ACTIVATIONS},
    'initializers': {*timesformer.STARTS},
    'posemb': (told['posemb'],),
    'posemb_time': (told['posemb_time'],),
    'pos_grid': (None,),
    'pos_frames': (None,),
  }


def read(
  arrays: tree.Arrays, beside: Beside, layout: timesformer_names.Layout
) -> family.Read:
  """Reads arrays in the names of `layout`, with facts of a config.json."""
  config = beside.config
  heads, assumed = vit.num_heads_of(arrays[layout.theirs('embed/bias')].size, beside)
  activation = config.get('hidden_act', 'gelu')
  ours = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
  if activation not in ours:
    raise UserError(
      f'{beside.path}: config.json: our TimeSformer does not have the activation'
      f' {activation!r}'
    )
  told = {
    'activation': ours[activation],
    'epsilon': config.get('layer_norm_eps', 1e-6),
  }
  return family.Read({'params': layout.read(arrays, heads)}, told, assumed)


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: Size | None,
  num_classes: int,
  channels: int = 3,
) -> ClipPreprocessing:
  """Returns the preprocessing of weights, from the JSON files next to them.

  The number of frames is read from `config.json`, else from the name of the file, such
  as `TimeSformer_divST_8x32_224_K400`, else it is 8.
  """
  if own := hub_json.written(metadata, ClipPreprocessing):
    return hub_json.fitting(own, num_classes, channels)
  config = metadata.get('config.json', {})
  frames, side = config.get('num_frames'), (size or (224, 224))[0]
  if frames is None:
    frames = clips.named_frames(name)
  found = clips.as_published(name, frames, side, num_classes)
  return clips.with_processor(found, metadata, hub_json.label_names(config))


def with_frames(images: ClipPreprocessing, params: tree.Tree) -> ClipPreprocessing:
  """Returns preprocessing to as many frames as there are positions in time."""
  if 'time_embedding' not in params:
    return images
  return images.with_frames(params['time_embedding'].shape[1])


def fit(
  weights: Published, images: ClipPreprocessing, asked: Size | None, grid: Size | None
) -> tuple[Published, ClipPreprocessing]:
  """Returns weights and preprocessing as they are written."""
  told = weights.architecture
  if told['attention'] not in _SCHEMES or 'none' in (
    told['posemb'],
    told['posemb_time'],
  ):
    raise UserError(
      f'no other code has a TimeSformer with attention={told["attention"]!r},'
      f' posemb={told["posemb"]!r} and posemb_time={told["posemb_time"]!r}, except'
      ' that a space_only one is a ViT of timm'
    )
  for name in ('pos_grid', 'pos_frames'):
    if told[name] is not None:
      raise UserError(
        f'{name}={told[name]} resizes positions in each step: no file can record it'
      )
  side = (grid or provenance.square(weights.params['pos_embedding'].shape[1] - 1))[0]
  own = (side * weights.model.stride[0],) * 2
  if asked not in (None, own):
    raise UserError(
      f'--image-size: the positions are for frames of {own[0]}x{own[1]}, and are not'
      ' resized here'
    )
  return weights, with_frames(images.with_size(own), weights.params)


def config(weights: Published, size: Size) -> dict[str, Any]:
  """Returns transformers' config.json for weights that `fit` returned."""
  told, classes = weights.architecture, weights.num_classes
  return {
    'architectures': ['TimesformerForVideoClassification'],
    'model_type': 'timesformer',
    'attention_type': _SCHEMES[told['attention']],
    'drop_path_rate': 0,  # this library rejects 0.0
    'hidden_act': _ACTIVATIONS[told['activation']],
    'hidden_size': told['width'],
    'image_size': size[0],
    'intermediate_size': told['mlp_dim'],
    'layer_norm_eps': told['epsilon'],
    'num_attention_heads': told['num_heads'],
    'num_channels': weights.channels,
    'num_frames': weights.params['time_embedding'].shape[1],
    'num_hidden_layers': told['depth'],
    'num_labels': classes,
    'patch_size': told['patch'],
    'qkv_bias': True,
  }


FAMILY = family.Family(
  name='timesformer',
  model=timesformer.TimeSformer,
  sources=(
    family.Source(
      name='facebookresearch/TimeSformer',
      suffixes=family.TORCH,
      differences=timesformer_names.PUBLISHED.differences,
      read=partial(read, layout=timesformer_names.PUBLISHED),
      writes={'published': family.to_params(timesformer_names.PUBLISHED.written)},
      config=family.no_config,
      fit=fit,
    ),
    family.Source(
      name='transformers TimeSformer',
      suffixes=family.TORCH,
      differences=timesformer_names.TRANSFORMERS.differences,
      read=partial(read, layout=timesformer_names.TRANSFORMERS),
      writes={'transformers': family.to_params(timesformer_names.TRANSFORMERS.written)},
      config=hub_json.transformers_folder(config),
      fit=fit,
    ),
  ),
  describe=describe,
  untold=UNTOLD,
  choices=choices,
  images=images,
  stem=('embed',),
  features=lambda told: told['width'],
  adapt=with_frames,
)
