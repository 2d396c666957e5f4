"""Marian's translation models as Hugging Face keeps them (`opus-mt-*`).

A folder has `config.json`, `model.safetensors` and often `generation_config.json`.
Matrices are (out, in). One embedding serves source, target and logits; files may have
it under each of their names. Tables of positions may be there too, though they are
computed.

Axes: L positions, D width.
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
# In the order of the branches that they follow.
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
# Kinds of the fields that no shape is compared with.
_FIELDS: fields.Table = {
  **dict.fromkeys(('dropout', 'attention_dropout', 'activation_dropout'), fields.SHARE),
  'activation_function': fields.TEXT,
  'scale_embedding': fields.FLAG,
  'max_position_embeddings': fields.whole(1, 2**16),
  'num_beams': fields.whole(1, 1000),
  'bad_words_ids': fields.list_of(fields.list_of(fields.whole(0))),
}
# Fields of a config that describe another model where they are not so.
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
  """What a folder says of its model.

  `model_args` are the arguments of `models.transformer.Transformer`. `bos_id` is what
  the decoder reads first, `never` what is not to be found, `max_length` the number of
  positions of source and target, `beams` how many were used.
  """

  model_args: dict[str, Any]
  bos_id: int
  eos_id: int
  never: tuple[int, ...]
  max_length: int
  beams: int


def read_folder(path: str | os.PathLike) -> tuple[Config, tree.Tree]:
  """Reads a folder: what its model is, and the parameters, float32.

  Raises a `UserError` that says what does not fit.
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
  """The parameters in a folder, to start a run from (`init_from.InitFrom`)."""
  return read_folder(path)[1]


def read_config(path: str | os.PathLike) -> Config:
  """What a folder says of its model, without its parameters."""
  file = pathlib.Path(path) / 'config.json'
  config = read_fields(file, plain=True)
  fields.check(config, _FIELDS, str(file))
  for name, value in _FIXED.items():
    if config.get(name, value) != value or 'model_type' not in config:
      raise UserError(
        f'{file}: {name} is {config.get(name)!r}; read are Marian models with {value!r}'
      )
  vocab_size = _size(file, config, 'vocab_size')
  if config.get('decoder_vocab_size', vocab_size) not in (vocab_size, None):
    raise UserError(
      f'{file}: decoder_vocab_size {config["decoder_vocab_size"]} is not vocab_size'
      f' {vocab_size}: one vocabulary for source and target is read'
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
  # Older folders say in config.json how sequences are found.
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
  """A state dict as the parameters of our Transformer, float32.

  Raises a `UserError` that lists names which are unknown or missing, shapes that do not
  fit, and arrays that hold NaN or infinities; `source` is named in it.
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
  """Our parameters (unrolled or scanned) under the names of a `model.safetensors`."""
  flat = tree.flatten(tree.unstack_blocks(params))
  plain = {_EMBEDDINGS[0]: 'embedding', _BIAS: 'logits_bias'}
  known = linear.table(modules(_depths(flat, r'(\w+)/block_(\d+)/')), plain)
  names = [name for names in known.values() for name in names]
  tree.check_names('parameters', *tree.differences(flat, names))
  result = linear.to_state(flat, known)
  return result | {_BIAS: result[_BIAS][None]}


def modules(depths: Mapping[str, int]) -> dict[str, list[str]]:
  """Our module for each of theirs that has a weight and a bias."""
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
  """All that a state dict must have besides an embedding."""
  sizes = {'fc1': (mlp_dim, width), 'fc2': (width, mlp_dim)}
  shapes: dict[str, tuple[int, ...]] = {_BIAS: (1, vocab_size)}
  for module in modules(depths):
    kind = module.rpartition('.')[2]
    shape = sizes.get(kind, (width, width) if kind in _PROJECTIONS else (width,))
    shapes |= {f'{module}.weight': shape, f'{module}.bias': shape[:1]}
  return shapes


def _embedding(state: tree.Arrays, source: str) -> np.ndarray:
  """The one embedding, which may be there under several names."""
  stored = [name for name in _EMBEDDINGS if name in state]
  if not stored:
    raise UserError(f'{source}: missing {_EMBEDDINGS[0]}.')
  embedding = state[stored[0]]
  if embedding.ndim != 2:
    raise UserError(f'{source}: {stored[0]} {embedding.shape} is not (tokens, width)')
  for name in stored[1:]:
    if not np.array_equal(state[name], embedding, equal_nan=True):
      raise UserError(
        f'{source}: {name} is not the same as {stored[0]}; read are models with one'
        ' embedding for source, target and logits'
      )
  return embedding


def _check_positions(source: str, tables: tree.Arrays, embedding: np.ndarray) -> None:
  """Stored tables of positions must be what is computed, up to two-byte floats."""
  width = embedding.shape[1]
  for name, table_LD in tables.items():
    if table_LD.ndim != 2 or table_LD.shape[1] != width:
      raise UserError(f'{source}: {name} {table_LD.shape} is not (positions, {width})')
    frequency = 10_000.0 ** -(np.arange(0, width, 2) / width)
    angle = np.arange(len(table_LD))[:, None] * frequency[None]
    computed_LD = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    if not np.allclose(table_LD, computed_LD, rtol=0, atol=5e-3):
      raise UserError(
        f'{source}: {name} are not the sines and cosines that are computed'
      )


def _depths(names: Collection[str], block: str) -> dict[str, int]:
  """How many blocks the names tell of each stack, at least one."""
  return {stack: max(n, 1) for stack, n in linear.depths(names, block).items()}


def _depth(stack: Mapping[str, Any]) -> int:
  return sum(name.startswith('block_') for name in stack)


def _size(file: pathlib.Path, config: Mapping[str, Any], *names: str) -> int:
  """A positive whole number, which all of `names` must be."""
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
