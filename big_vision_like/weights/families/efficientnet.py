"""Published EfficientNets, arXiv:1905.11946 and arXiv:1911.04252."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like.errors import UserError, listed
from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import EFFICIENTNET, Preprocessing
from big_vision_like.inference.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from big_vision_like.models import efficientnet as models
from big_vision_like.weights import efficientnet, family, fields, tree
from big_vision_like.weights.beside import Beside, size_of

# Differences between networks trained with TensorFlow and with PyTorch.
_TENSORFLOW = dict(padding='same', epsilon=1e-3)
_PYTORCH = dict(padding='symmetric', epsilon=1e-5)
_PADDINGS = {'same': 'same', '': 'symmetric', 'symmetric': 'symmetric'}
_TIMM_NAME = r'(tf_)?efficientnet_(b[0-8]|l2)'
_TIMM: fields.Table = {
  'architecture': fields.TEXT,
  'model_args': {'pad_type': fields.TEXT, 'bn_eps': fields.EPSILON},
}
# Arguments in transformers that are fixed in our model.
_FIXED = {
  'kernel_sizes': models.KERNELS,
  'expand_ratios': models.EXPANSIONS,
  'squeeze_expansion_ratio': 0.25,
  'pooling_type': 'mean',
}
_TRANSFORMERS: fields.Table = {
  'strides': fields.list_of(fields.whole(1, 4), len(models.STRIDES)),
  'depthwise_padding': fields.list_of(fields.whole(0)),
  'batch_norm_eps': fields.EPSILON,
  'hidden_act': fields.one_of('swish', 'silu'),
  'image_size': fields.SIDES,
}
_PROCESSOR: fields.Table = {
  'include_top': fields.FLAG,
  'rescale_offset': fields.FLAG,
  'image_processor_type': fields.TEXT,
}


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `EfficientNet`, from the shapes of its variables."""
  flat = tree.flatten({name: variables[name] for name in ('params', 'batch_stats')})

  def last(name: str) -> int:
    shape = getattr(flat.get(f'params/{name}'), 'shape', ())
    return (0, *shape)[-1]

  depths = efficientnet.depths(flat)
  if not 1 <= len(depths) <= len(models.KERNELS):
    raise UserError(
      f'{source}: an EfficientNet has 1 to {len(models.KERNELS)} stages, which differ'
      f' in kernels and channels, not {len(depths)}'
    )
  told = dict(
    num_classes=last('head/bias'),
    stem=last('stem/conv/kernel'),
    channels=tuple(
      last(f'stage{i + 1}/unit1/project/conv/kernel') for i in range(len(depths))
    ),
    depths=tuple(depths),
    top=last('top/conv/kernel'),
    strides=models.STRIDES[: len(depths)],
    stem_stride=2,
    **_TENSORFLOW,
  )
  _check_shapes(flat, told, source)
  return told


def _check_shapes(flat: tree.Arrays, told: Mapping[str, Any], source: str) -> None:
  """Raises for variables that do not match the model with these arguments."""
  stem = flat.get('params/stem/conv/kernel')
  channels = stem.shape[2] if stem is not None and stem.ndim == 4 else 3
  image = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
  if not told['stem'] or not told['top'] or 0 in told['channels']:
    raise UserError(f'{source}: a convolution of an EfficientNet is missing or empty')
  want = jax.eval_shape(models.EfficientNet(**told).init, jax.random.key(0), image)
  want = tree.flatten(want)
  tree.check_names(source, *tree.differences(flat, want))
  wrong = [
    f'{name} {x.shape} is not {want[name].shape}'
    for name, x in flat.items()
    if x.shape != want[name].shape
  ]
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')


def size_name(told: Mapping[str, Any]) -> str | None:
  """Returns the name of a published size, such as 'B0', None for other sizes."""
  for name in models.SIZES:
    sizes = models.variant(name)
    if all(told[field] == value for field, value in sizes.items()):
      return name
  return None


def side(told: Mapping[str, Any]) -> int | None:
  """Returns the side of images for evaluation, None if the size is not published.

  L2 is trained on smaller images than those it is fine-tuned and evaluated on.
  """
  name = size_name(told)
  if name == 'L2':
    return 800
  return name and models.SIZES[name].resolution


def as_published(
  name: str, size: tuple[int, int] | None, channels: int
) -> Preprocessing:
  """Returns the preprocessing of TensorFlow's code in evaluation.

  The name of a file may give the size (`l2_475`). It may also contain `advprop`, or
  timm's `_ap`: AdvProp has a different normalization.
  """
  named = re.search(r'_(\d{3})$', name)
  size = (int(named[1]),) * 2 if named else size or (224, 224)
  mean, std = IMAGENET_MEAN, IMAGENET_STD
  if re.search(r'advprop|_ap(?![a-z])', name):
    mean = std = (0.5,) * 3
  return Preprocessing(
    size,
    resize=EFFICIENTNET,
    interpolation='tf1_bicubic',
    mean=mean if channels == 3 else (0.5,) * channels,
    std=std if channels == 3 else (0.5,) * channels,
    source='as published with TensorFlow',
  )


def images(metadata: Mapping[str, Any], *told: Any) -> Preprocessing:
  """Returns preprocessing from the JSON files of weights, as `Family.images`.

  For a classifier, the image processor of transformers normalizes twice, the second
  time with a mean of 0.
  """
  found = hub_json.classifier_images(metadata, *told, published=as_published)
  processor = metadata.get('preprocessor_config.json', {})
  fields.check(processor, _PROCESSOR, 'preprocessor_config.json')
  kind = processor.get('image_processor_type', 'EfficientNetImageProcessor')
  if found.source != 'preprocessor_config.json' or 'EfficientNet' not in kind:
    return found
  if processor.get('rescale_offset'):
    raise UserError(
      'preprocessor_config.json: rescale_offset moves pixels to [-1, 1] before they are'
      ' normalized, which is not supported: set it to false, and mean and std to match'
    )
  if not processor.get('include_top', True) or not processor.get('do_normalize', True):
    return found
  return dataclasses.replace(found, std=tuple(std**2 for std in found.std))


def from_tensorflow(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of TensorFlow, preferring running averages."""
  variables, assumed = efficientnet.from_tensorflow(arrays, str(beside.path))
  return family.Read(variables, _TENSORFLOW, assumed)


def to_tensorflow(weights: Any) -> family.Arrays:
  """Returns weights under the names of a checkpoint, without averages."""
  name = size_name(weights.architecture)
  root = f'efficientnet-{name.lower()}/' if name else 'efficientnet/'
  return efficientnet.to_tensorflow(weights.variables, root)


def from_timm(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of timm, with the padding from config.json or else the file's name."""
  variables = efficientnet.from_timm(arrays, str(beside.path))
  fields.check(beside.config, _TIMM, 'config.json')
  name = beside.config.get('architecture')
  if name is not None and not re.fullmatch(_TIMM_NAME, name):
    raise UserError(
      f'{beside.path}: config.json: {name!r} makes a different network from the same'
      ' arrays; supported are efficientnet_b0 to b8 and l2, also with the prefix tf_'
    )
  assumed: tuple[str, ...] = ()
  if name is None:
    found = re.search(_TIMM_NAME, beside.name)
    name = found[0] if found else 'tf_efficientnet'
    how = 'the name of the file' if found else 'as in most published files'
    assumed = (f'architecture={name!r}: {how}; no config.json records it',)
  told = _TENSORFLOW if name.startswith('tf_') else _PYTORCH
  arguments = beside.config.get('model_args') or {}
  padding = arguments.get('pad_type', told['padding'])
  if padding not in _PADDINGS:
    raise UserError(f'{beside.path}: config.json: pad_type={padding!r} is unsupported')
  told = dict(
    padding=_PADDINGS[padding], epsilon=arguments.get('bn_eps', told['epsilon'])
  )
  return family.Read(variables, told, assumed)


def from_transformers(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads files of transformers, padded like TensorFlow for images of one size."""
  variables = efficientnet.from_transformers(arrays, str(beside.path))
  config, place = beside.config, f'{beside.path}: config.json'
  fields.check(config, _TRANSFORMERS, place)
  for name, ours in _FIXED.items():
    value = config.get(name, ours)
    if (tuple(value) if isinstance(value, list) else value) != ours:
      raise UserError(f'{place}: {name}={value!r:.99}, but our model has {ours}')
  strides = tuple(config.get('strides', models.STRIDES))
  depths = efficientnet.depths(tree.flatten(variables))
  size, padded = size_of(config.get('image_size')), config.get('depthwise_padding')
  if size is not None and padded is not None:
    want = [evenly_padded(depths, strides, length) for length in size]
    if any(sorted(padded) != x for x in want):
      raise UserError(
        f'{place}: depthwise_padding={padded} does not match images of'
        f' {size[0]}x{size[1]}, which need {" or ".join(map(str, want))}'
      )
  told = dict(
    padding='same',
    epsilon=config.get('batch_norm_eps', _TENSORFLOW['epsilon']),
    strides=strides[: len(depths)],
  )
  return family.Read(variables, told)


def evenly_padded(
  depths: Sequence[int], strides: Sequence[int], length: int
) -> list[int]:
  """Returns the units with a stride that TensorFlow pads evenly on both sides.

  `length` is a side of images. In these units the input has an odd side.
  """
  found, unit, length = [], 0, -(-length // 2)
  for depth, stride in zip(depths, strides, strict=False):
    if stride > 1:
      found += [unit] if length % 2 else []
      length = -(-length // stride)
    unit += depth
  return found


def timm_config(weights: Any, size: tuple[int, int]) -> dict[str, Any]:
  """Returns the config.json for a file, for timm.create_model."""
  told, name = weights.architecture, size_name(weights.architecture)
  if name in (None, 'L0', 'L1'):
    raise UserError(
      'timm only has EfficientNets B0 to B8 and L2: write a .safetensors file without'
      ' config.json'
    )
  if (told['stem_stride'], *told['strides']) != (2, *models.STRIDES):
    raise UserError(
      f'strides={tuple(told["strides"])}, stem_stride={told["stem_stride"]}: timm has'
      ' no such EfficientNet; write a .safetensors file without config.json'
    )
  same = told['padding'] == 'same'
  usual = (_TENSORFLOW if same else _PYTORCH)['epsilon']
  other = {} if told['epsilon'] == usual else {'bn_eps': told['epsilon']}
  return {
    'architecture': f'{"tf_" if same else ""}efficientnet_{name.lower()}',
    'num_classes': weights.num_classes,
    'num_features': told['top'],
    'model_args': {'in_chans': weights.channels, **other},
    'pretrained_cfg': dict(
      num_classes=weights.num_classes,
      first_conv='conv_stem',
      classifier='classifier',
    ),
  }


FAMILY = family.Family(
  name='efficientnet',
  model=models.EfficientNet,
  sources=(
    family.Source(
      name='TensorFlow EfficientNet',
      suffixes=family.TENSORFLOW,
      differences=efficientnet.tensorflow_differences,
      read=from_tensorflow,
      writes={'published': to_tensorflow},
    ),
    family.Source(
      name='timm EfficientNet',
      suffixes=family.TORCH,
      differences=efficientnet.timm_differences,
      read=from_timm,
      writes={'timm': lambda x: efficientnet.to_timm(x.variables)},
      config=hub_json.timm_folder(timm_config),
    ),
    family.Source(
      name='transformers EfficientNet',
      suffixes=family.TORCH,
      differences=efficientnet.transformers_differences,
      read=from_transformers,
    ),
  ),
  describe=describe,
  untold=('strides', 'stem_stride', 'padding', 'epsilon'),
  choices=lambda told: {'padding': {*_PADDINGS.values()}},
  images=images,
  stem=('stem/conv',),
  side=side,
)
