"""Facts about a file of weights beyond its arrays, from JSON files stored with it."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.files import read_fields
from big_vision_like.weights import fields, tf_checkpoint
from big_vision_like.weights.fields import COUNT, FLAG, SIDES, TEXT

# Files of weights in folders of timm and transformers, and their JSON files.
_IN_FOLDERS = ('model.safetensors', 'pytorch_model.bin')
# words.json has the words of captions, by id.
_METADATA = ('config.json', 'preprocessor_config.json', 'words.json')
_RESNET: fields.Table = {
  'architecture': TEXT,
  'downsample_in_first_stage': FLAG,
  'downsample_in_bottleneck': FLAG,
}
# For all blocks, or for the blocks of each stage.
_HEADS = fields.either(COUNT, fields.list_of(COUNT))
# Fields of config.json about models. `inference.hub_json` has the fields about images.
_CONFIG: fields.Table = {
  'num_attention_heads': COUNT,
  'encoder_attention_heads': COUNT,
  'decoder_attention_heads': COUNT,
  'hidden_act': TEXT,
  'activation_function': TEXT,
  'layer_norm_eps': fields.EPSILON,
  'global_pool': TEXT,
  'image_size': SIDES,
  'dilation': FLAG,
  'model_args': {
    'num_heads': _HEADS,
    'act_layer': TEXT,
    'no_embed_class': FLAG,
    'img_size': SIDES,
  },
  'pretrained_cfg': {},
  'backbone_config': _RESNET,
  **_RESNET,
}
# Fields of our writer's files, and their kinds.
_OURS = ('family', 'architecture', 'assumed', 'metadata')
_SIDECAR: fields.Table = {
  'family': TEXT,
  'architecture': {'num_heads': _HEADS, 'epsilon': fields.EPSILON},
  'assumed': fields.list_of(TEXT),
  'metadata': fields.Kind(
    lambda x: isinstance(x, Mapping) and all(isinstance(y, dict) for y in x.values()),
    'fields of each file by name',
  ),
  'preprocessing': {},
}


@dataclasses.dataclass(frozen=True)
class Beside:
  """The path of a file, the JSON files next to it by name, and the user's choices.

  `num_heads` may have one number per stage. `no_embed_class` is as in timm.
  """

  path: pathlib.Path
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_heads: int | Sequence[int] | None = None
  no_embed_class: bool | None = None

  def __post_init__(self) -> None:
    config = self.metadata.get('config.json', {})
    fields.check(config, _CONFIG, 'config.json')
    _check_heads(config.get('model_args') or {}, 'config.json: model_args')

  @property
  def name(self) -> str:
    """The name of the file, or of its folder if the file has a standard name."""
    path = self.path.absolute()
    unnamed = path.name in _IN_FOLDERS or path.stem == 'model.ckpt'
    return path.parent.name if unnamed else path.name

  @property
  def config(self) -> Mapping[str, Any]:
    """The fields of timm's or transformers' config.json; empty if there is none."""
    told = self.metadata.get('config.json', {})
    return {name: value for name, value in told.items() if value is not None}

  @property
  def ours(self) -> Mapping[str, Any] | None:
    """The fields of our writer's JSON file; None if others wrote the weights."""
    content = self.metadata.get(sidecar(self.path).name, {})
    return content if content.keys() >= {*_OURS} else None


def sidecar(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of the JSON file that our writer stores with weights."""
  return pathlib.Path(path).with_suffix('.json')


def read(path: str | os.PathLike) -> Beside:
  """Finds a file of weights, possibly within a folder, and the JSON files next to it.

  JSON files that our writer embedded in its own count as files next to it.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    files = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    # With checkpoints of several steps, the user must choose one.
    checkpoints = sorted(path.glob(f'*{tf_checkpoint.SUFFIX}'))
    files += checkpoints if len(checkpoints) == 1 else []
    if not files:
      raise UserError(f'{path} has no model.safetensors: name a file of weights')
    path = files[0]
  index = path.with_name(f'{path.name}{tf_checkpoint.SUFFIX}')
  if not path.exists() and index.is_file():  # as TensorFlow names a checkpoint
    path = index
  found = {}
  others = () if path.suffix in ('.npz', tf_checkpoint.SUFFIX) else _METADATA
  for name in (sidecar(path).name, *others):
    file = path.with_name(name)
    if not file.is_file():
      continue
    content = read_fields(file, plain=True)
    found[name] = content
    lacking = [field for field in _OURS if field not in content]
    if not lacking:
      fields.check(content, _SIDECAR, str(file), null=False)
      _check_heads(content['architecture'], f'{file}: architecture')
      found |= {k: x for k, x in content['metadata'].items() if k != name}
    elif len(lacking) == 1:  # no other writer has the rest
      raise UserError(f'{file} lacks {lacking[0]!r}: write it again')
  return Beside(path, found)


def told_sizes(metadata: Mapping[str, Any]) -> list[tuple[int, int]]:
  """Returns the heights and widths recorded in the JSON files of weights.

  Our writer's come first, then the model's, then those of images.
  """
  told = [_field(content, 'preprocessing', 'size') for content in metadata.values()]
  config = metadata.get('config.json', {})
  told += [config.get('image_size'), _field(config, 'model_args', 'img_size')]
  shape = _field(config, 'pretrained_cfg', 'input_size')
  told.append(shape[1:] if isinstance(shape, list) else None)
  processor = metadata.get('preprocessor_config.json', {})
  told += [processor.get(name) for name in ('crop_size', 'size')]
  return [size for size in map(size_of, told) if size is not None]


def size_of(told: Any) -> tuple[int, int] | None:
  """Returns height and width from any of the forms they are written in."""
  if isinstance(told, Mapping):
    told = told.get('height'), told.get('width')
  told = (told, told) if isinstance(told, int) else told
  fits = fields.list_of(fields.whole(1), 2).fits(told)
  return (told[0], told[1]) if fits else None


def _check_heads(told: Mapping[str, Any], source: str) -> None:
  """Raises if a model without stages has a list of heads."""
  if isinstance(told.get('num_heads'), list) and 'depths' not in told:
    raise UserError(
      f"{source} lacks or misstates 'num_heads': a list is for a model with depths"
    )


def _field(content: Mapping[str, Any], group: str, name: str) -> Any:
  found = content.get(group)
  return found.get(name) if isinstance(found, Mapping) else None
