"""Marian's translation models in the format of Hugging Face (`opus-mt-*`).

A folder has `config.json`, `model.safetensors` and often `generation_config.json`.
Matrices are (out, in). One embedding serves source, target and logits; files may store
it under several names. They may also store tables of positions, although positions are
computed.
"""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.files import read_fields
from big_vision_like.weights import fields, files, linear, tree

_EMBEDDINGS = (
  'model.shared.weight',
  'model.encoder.embed_tokens.weight',
  'model.decoder.embed_tokens.weight',
  'lm_head.weight',
)
_BIAS = 'final_logits_bias'
_POSITIONS = 'embed_positions.weight'
_ATTENTIONS = {'self_attn': 'attention', 'encoder_attn': 'cross_attention'}
_PROJECTIONS = {
  'q_proj': 'query',
  'k_proj': 'key',
  'v_proj': 'value',
  'out_proj': 'out',
}
# In the order of the branches that precede them.
_NORMS = {
  'encoder': ('self_attn_layer_norm', 'final_layer_norm'),
  'decoder': ('self_attn_layer_norm', 'encoder_attn_layer_norm', 'final_layer_norm'),
}
_ACTIVATIONS = {
  'swish': 'silu',
  'silu': 'silu',
  'relu': 'relu',
  'gelu': 'gelu_exact',
  'gelu_new': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
}
# Kinds of fields that are not compared with shapes.
_FIELDS: fields.Table = {
  **dict.fromkeys(('dropout', 'attention_dropout', 'activation_dropout'), fields.SHARE),
  'activation_function': fields.TEXT,
  'scale_embedding': fields.FLAG,
  'max_position_embeddings': fields.whole(1, 2**16),
  'num_beams': fields.whole(1, 1000),
  'bad_words_ids': fields.list_of(fields.list_of(fields.whole(0))),
}
# Fields of a config that must have these values, as others describe another model.
_FIXED = {
  'model_type': 'marian',
  'normalize_before': False,
  'normalize_embedding': False,
  'add_final_layer_norm': False,
  'static_position_embeddings': True,
  'share_encoder_decoder_embeddings': True,
  'tie_word_embeddings': True,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """The settings of a model from its folder.

  `model_args` are the arguments of `models.transformer.Transformer`. `bos_id` is the
  first input token of the decoder, `never` the tokens that search must not produce,
  `max_length` the number of positions of source and target, and `beams` the number of
  beams used.
  """

  model_args: dict[str, Any]
  bos_id: int
  eos_id: int
  never: tuple[int, ...]
  max_length: int
  beams: int


def read_folder(path: str | os.PathLike) -> tuple[Config, tree.Tree]:
  """Reads the settings and the parameters (float32) of a model from its folder.

  Raises a `UserError` that says what does not match.
  """
  config, file = read_config(path), pathlib.Path(path) / 'model.safetensors'
  if not file.is_file():
    hint = ''
    if (file.parent / 'pytorch_model.bin').is_file():
      hint = (
        '; its pytorch_model.bin is a pickle, which is not read. Convert it where'
        ' transformers is installed: MarianMTModel.from_pretrained(FOLDER)'
        '.save_pretrained(FOLDER)'
      )
    raise UserError(f'{path} has no model.safetensors{hint}')
  state = files.read_safetensors(file)
  args = config.model_args
  params = from_marian(state, args['num_heads'], source=str(file))
  vocab_size, width = params['embedding'].shape
  found = dict(
    vocab_size=vocab_size,
    width=width,
    depth=_depth(params['encoder']),
    decoder_depth=_depth(params['decoder']),
    mlp_dim=len(params['encoder']['block_0']['mlp']['fc1']['bias']),
  )
  for name, size in found.items():
    if args[name] != size:
      raise UserError(f'{file}: {name} is {size}, but {args[name]} in its config.json')
  return config, params


def read_params(path: str | os.PathLike) -> tree.Tree:
  """Reads the parameters in a folder, to start a run from (`init_from.InitFrom`)."""
  return read_folder(path)[1]


def read_config(path: str | os.PathLike) -> Config:
  """Reads the settings of a model from its folder, without its parameters."""
  file = pathlib.Path(path) / 'config.json'
  config = read_fields(file, plain=True)
  fields.check(config, _FIELDS, str(file))
  for name, value in _FIXED.items():
    if config.get(name, value) != value or 'model_type' not in config:
      raise UserError(
        f'{file}: {name} is {config.get(name)!r}, but only {value!r} is supported'
      )
  vocab_size = _size(file, config, 'vocab_size')
  if config.get('decoder_vocab_size', vocab_size) not in (vocab_size, None):
    raise UserError(
      f'{file}: decoder_vocab_size {config["decoder_vocab_size"]} is not vocab_size'
      f' {vocab_size}: source and target must share one vocabulary'
    )
  activation = config.get('activation_function')
  if activation not in _ACTIVATIONS:
    known = ', '.join(_ACTIVATIONS)
    raise UserError(f'{file}: activation_function {activation!r} is not one of {known}')
  width = _size(file, config, 'd_model')
  heads = _size(file, config, 'encoder_attention_heads', 'decoder_attention_heads')
  if width % heads or width % 2:
    raise UserError(
      f'{file}: d_model {width} does not divide into {heads} heads, or is odd'
    )
  # Older folders store search settings in config.json.
  search_file = file.with_name('generation_config.json')
  search = config
  if search_file.exists():
    told = read_fields(search_file, plain=True)
    fields.check(told, _FIELDS, str(search_file))
    search = config | told
  never = search.get('bad_words_ids') or []
  if any(len(ids) != 1 for ids in never):
    raise UserError(f'{file}: bad_words_ids {never!s:.200} has words of several tokens')
  if any(not 0 <= ids[0] < vocab_size for ids in never):
    raise UserError(
      f'{file}: bad_words_ids {never!s:.200} are not all tokens 0 to {vocab_size - 1}'
    )
  pad_id = _token(file, search, vocab_size, 'pad_token_id')
  return Config(
    model_args=dict(
      vocab_size=vocab_size,
      width=width,
      depth=_size(file, config, 'encoder_layers'),
      decoder_depth=_size(file, config, 'decoder_layers'),
      num_heads=heads,
      mlp_dim=_size(file, config, 'encoder_ffn_dim', 'decoder_ffn_dim'),
      dropout=_told(config, 'dropout', 0.1),
      epsilon=1e-5,
      positions='halves',
      embedding_scale='input' if config.get('scale_embedding') else 'none',
      logits_bias=True,
      pad_id=pad_id,
      attention_args=dict(dropout=_told(config, 'attention_dropout', 0.0)),
      mlp_args=dict(
        activation=_ACTIVATIONS[activation],
        hidden_dropout=_told(config, 'activation_dropout', 0.0),
      ),
    ),
    bos_id=_token(file, search, vocab_size, 'decoder_start_token_id'),
    eos_id=_token(file, search, vocab_size, 'eos_token_id'),
    never=tuple(sorted({pad_id, *(ids[0] for ids in never)})),
    max_length=_size(file, config, 'max_position_embeddings'),
    beams=search.get('num_beams') or 1,
  )


def from_marian(
  state: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to the parameters of our Transformer, float32.

  Raises a `UserError` that lists names which are unknown or missing, shapes that do not
  fit, and arrays with NaN or infinities. Its message names `source`.
  """
  state = {name: tree.as_float32(name, array) for name, array in state.items()}
  embedding = _embedding(state, source)
  depths = _depths(state, r'model\.(\w+)\.layers\.(\d+)\.')
  first = state.get('model.encoder.layers.0.fc1.weight')
  mlp_dim = len(first) if first is not None and first.ndim else 0
  shapes = _shapes(depths, *embedding.shape, mlp_dim)
  state.setdefault(_BIAS, np.zeros(shapes[_BIAS], np.float32))  # as transformers does
  positions = {name for name in state if name.endswith(f'coder.{_POSITIONS}')}
  unknown = state.keys() - shapes.keys() - positions - set(_EMBEDDINGS)
  tree.check_names(source, unknown, shapes.keys() - state.keys())
  wrong = [
    f'{name} {state[name].shape} is not {shape}'
    for name, shape in shapes.items()
    if state[name].shape != shape
  ]
  _refuse(source, 'shapes that do not fit', wrong)
  broken = [name for name, x in state.items() if not np.isfinite(x).all()]
  _refuse(source, 'NaN or infinities in', broken)
  _check_positions(source, {name: state[name] for name in positions}, embedding)
  if embedding.shape[1] % num_heads:
    raise UserError(
      f'{source}: width {embedding.shape[1]} does not divide into {num_heads} heads'
    )

  flat = {'embedding': embedding, 'logits_bias': state[_BIAS][0]}
  flat |= linear.from_state(state, linear.table(modules(depths), {}), num_heads)
  return tree.unflatten(flat)


def to_marian(params: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Converts our parameters (unrolled or scanned) to names of `model.safetensors`."""
  flat = tree.flatten(tree.unstack_blocks(params))
  plain = {_EMBEDDINGS[0]: 'embedding', _BIAS: 'logits_bias'}
  known = linear.table(modules(_depths(flat, r'(\w+)/block_(\d+)/')), plain)
  names = [name for names in known.values() for name in names]
  tree.check_names('parameters', *tree.differences(flat, names))
  result = linear.to_state(flat, known)
  return result | {_BIAS: result[_BIAS][None]}


def modules(depths: Mapping[str, int]) -> dict[str, list[str]]:
  """Returns our module for each of theirs that has a weight and a bias."""
  found = {}
  for stack, depth in depths.items():
    norms = _NORMS[stack]
    for i in range(depth):
      theirs, ours = f'model.{stack}.layers.{i}.', f'{stack}/block_{i}/'
      for name, attention in _ATTENTIONS.items():
        if f'{name}_layer_norm' in norms:
          for their_part, part in _PROJECTIONS.items():
            found[f'{theirs}{name}.{their_part}'] = [f'{ours}{attention}/{part}']
      found |= {f'{theirs}{fc}': [f'{ours}mlp/{fc}'] for fc in ('fc1', 'fc2')}
      found |= {f'{theirs}{x}': [f'{ours}norm{n}'] for n, x in enumerate(norms, 1)}
  return found


def _shapes(
  depths: Mapping[str, int], vocab_size: int, width: int, mlp_dim: int
) -> dict[str, tuple[int, ...]]:
  """Returns names and shapes that a state dict needs in addition to an embedding."""
  sizes = {'fc1': (mlp_dim, width), 'fc2': (width, mlp_dim)}
  shapes: dict[str, tuple[int, ...]] = {_BIAS: (1, vocab_size)}
  for module in modules(depths):
    kind = module.rpartition('.')[2]
    shape = sizes.get(kind, (width, width) if kind in _PROJECTIONS else (width,))
    shapes |= {f'{module}.weight': shape, f'{module}.bias': shape[:1]}
  return shapes


def _embedding(state: tree.Arrays, source: str) -> np.ndarray:
  """Returns the one embedding, which may be stored under several names."""
  stored = [name for name in _EMBEDDINGS if name in state]
  if not stored:
    raise UserError(f'{source}: missing {_EMBEDDINGS[0]}.')
  embedding = state[stored[0]]
  if embedding.ndim != 2:
    raise UserError(f'{source}: {stored[0]} {embedding.shape} is not (tokens, width)')
  for name in stored[1:]:
    if not np.array_equal(state[name], embedding, equal_nan=True):
      raise UserError(
        f'{source}: {name} differs from {stored[0]}, but source, target and logits must'
        ' share one embedding'
      )
  return embedding


def _check_positions(source: str, tables: tree.Arrays, embedding: np.ndarray) -> None:
  """Raises if stored positions differ from computed ones, within two-byte floats."""
  width = embedding.shape[1]
  for name, table_LD in tables.items():
    if table_LD.ndim != 2 or table_LD.shape[1] != width:
      raise UserError(f'{source}: {name} {table_LD.shape} is not (positions, {width})')
    frequency = 10_000.0 ** -(np.arange(0, width, 2) / width)
    angle = np.arange(len(table_LD))[:, None] * frequency[None]
    computed_LD = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    if not np.allclose(table_LD, computed_LD, rtol=0, atol=5e-3):
      raise UserError(
        f'{source}: {name} differs from the sines and cosines that are computed'
      )


def _depths(names: Collection[str], block: str) -> dict[str, int]:
  """Returns the number of blocks per stack that names show, at least one."""
  return {stack: max(n, 1) for stack, n in linear.depths(names, block).items()}


def _depth(stack: Mapping[str, Any]) -> int:
  return sum(name.startswith('block_') for name in stack)


def _size(file: pathlib.Path, config: Mapping[str, Any], *names: str) -> int:
  """Returns a positive whole number, which all of `names` must share."""
  values = {name: config.get(name) for name in names}
  if any(type(value) is not int or value < 1 for value in values.values()):
    raise UserError(f'{file}: {_said(values)}: not a positive whole number')
  if len(set(values.values())) > 1:
    raise UserError(f'{file}: {_said(values)}: encoder and decoder must agree')
  return values[names[0]]


def _token(
  file: pathlib.Path, search: Mapping[str, Any], vocab_size: int, name: str
) -> int:
  value = search.get(name)
  value = value[0] if isinstance(value, list) and len(value) == 1 else value
  if type(value) is not int or not 0 <= value < vocab_size:
    raise UserError(
      f'{file}: {name} is {value!r}, not one of the tokens 0 to {vocab_size - 1}'
    )
  return value


def _told(config: Mapping[str, Any], name: str, default: float) -> float:
  return default if config.get(name) is None else config[name]


def _said(values: Mapping[str, Any]) -> str:
  return ', '.join(f'{name} is {value!r}' for name, value in values.items())


def _refuse(source: str, what: str, found: list[str]) -> None:
  if found:
    raise UserError(f'{source}: {what}: {listed(found)}')
