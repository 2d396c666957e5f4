"""What is known of a file of weights apart from its arrays: JSON files beside it."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.files import read_fields

# Files of weights in folders of timm and transformers, and what tells of them there.
_IN_FOLDERS = ('model.safetensors', 'pytorch_model.bin')
_METADATA = ('config.json', 'preprocessor_config.json')


@dataclasses.dataclass(frozen=True)
class Beside:
  """The path of a file, the JSON files beside it by name, and what the user says.

  `no_embed_class` is as in timm.
  """

  path: pathlib.Path
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_heads: int | None = None
  no_embed_class: bool | None = None

  @property
  def name(self) -> str:
    """The name of the file, or that of its folder if files are always called so."""
    path = self.path.absolute()
    return path.parent.name if path.name in _IN_FOLDERS else path.name

  @property
  def config(self) -> Mapping[str, Any]:
    """The config.json of timm or transformers; empty without one."""
    return self.metadata.get('config.json', {})

  @property
  def ours(self) -> Mapping[str, Any] | None:
    """The fields of the JSON file of our writer; None if others wrote the weights."""
    content = self.metadata.get(sidecar(self.path).name, {})
    return content if _is_ours(content) else None


def sidecar(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of the JSON file that our writer puts beside weights."""
  return pathlib.Path(path).with_suffix('.json')


def read(path: str | os.PathLike) -> Beside:
  """Finds a file of weights, which may be that of a folder, and what is beside it.

  JSON files that our writer put into one count as if they were there.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    files = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    if not files:
      raise UserError(f'{path} has no model.safetensors: name a file of weights')
    path = files[0]
  found = {}
  for name in (sidecar(path).name, *(_METADATA if path.suffix != '.npz' else ())):
    file = path.with_name(name)
    if not file.is_file():
      continue
    content = read_fields(file)
    found |= {name: content} | (content['metadata'] if _is_ours(content) else {})
  return Beside(path, found)


def told_sizes(metadata: Mapping[str, Any]) -> list[tuple[int, int]]:
  """Returns heights and widths that the JSON files beside weights tell.

  Those of our own writer come first, then those of the model, then the images'.
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
  """Returns height and width, in whichever way they are written."""
  if isinstance(told, Mapping):
    told = told.get('height'), told.get('width')
  if isinstance(told, int):
    return told, told
  if isinstance(told, list | tuple) and len(told) == 2:
    return (told[0], told[1]) if all(isinstance(x, int) for x in told) else None
  return None


def _field(content: Mapping[str, Any], group: str, name: str) -> Any:
  found = content.get(group)
  return found.get(name) if isinstance(found, Mapping) else None


def _is_ours(content: Mapping[str, Any]) -> bool:
  """Returns whether a JSON file beside weights is that of our writer."""
  return {'family', 'architecture', 'assumed', 'metadata'} <= content.keys()
