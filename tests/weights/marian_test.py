import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from random_weights import assert_same

from big_vision_like.errors import UserError
from big_vision_like.models import transformer
from big_vision_like.ops import positions
from big_vision_like.weights import marian, tree

# Written like published ones, with sizes that differ.
CONFIG = dict(
  model_type='marian',
  activation_function='swish',
  add_final_layer_norm=False,
  attention_dropout=0.0,
  activation_dropout=0.0,
  bad_words_ids=[[16]],
  d_model=12,
  decoder_attention_heads=3,
  decoder_ffn_dim=20,
  decoder_layers=3,
  decoder_start_token_id=16,
  decoder_vocab_size=17,
  dropout=0.1,
  encoder_attention_heads=3,
  encoder_ffn_dim=20,
  encoder_layers=2,
  eos_token_id=0,
  max_position_embeddings=64,
  normalize_before=False,
  normalize_embedding=False,
  num_beams=6,
  pad_token_id=16,
  scale_embedding=True,
  share_encoder_decoder_embeddings=True,
  static_position_embeddings=True,
  vocab_size=17,
)
LAYER = 'model.decoder.layers.2.'


@pytest.fixture(scope='module')
def model_args(tmp_path_factory):
  folder = tmp_path_factory.mktemp('marian')
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  return marian.read_config(folder).model_args


@pytest.fixture(scope='module')
def params(model_args):
  """Returns parameters of every kind, none of them constant."""
  ids = jnp.zeros((1, 2), jnp.int32)
  model = transformer.Transformer(**model_args)
  shapes = jax.eval_shape(model.init, jax.random.key(0), ids, ids)['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def state(params):
  return {name: array.copy() for name, array in marian.to_marian(params).items()}


@pytest.fixture
def folder(state, tmp_path):
  def write(changed=None, **config):
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG | config))
    file = tmp_path / 'model.safetensors'
    safetensors.numpy.save_file(state | (changed or {}), file)
    return tmp_path

  return write


def test_folder_to_parameters_and_back(folder, params, state):
  config, read = marian.read_folder(folder())
  assert_same(read, params)
  assert_same(marian.to_marian(read), state)
  assert_same(marian.to_marian(tree.stack_blocks(read)), state)
  assert (config.bos_id, config.eos_id, config.never) == (16, 0, (16,))
  assert (config.max_length, config.beams) == (64, 6)


def test_names_and_axes_are_theirs(state, params):
  assert len(state) == 2 + 2 * 16 + 3 * 26
  assert state['final_logits_bias'].shape == (1, 17)
  block = params['decoder']['block_2']
  np.testing.assert_array_equal(
    state[f'{LAYER}encoder_attn.k_proj.weight'],
    block['cross_attention']['key']['kernel'].reshape(12, 12).T,
  )
  np.testing.assert_array_equal(
    state[f'{LAYER}final_layer_norm.weight'], block['norm3']['scale']
  )


def test_the_config_is_the_style_of_the_model(model_args):
  style = dict(transformer.STYLES['marian'])
  assert style.pop('mlp_args').items() <= model_args['mlp_args'].items()
  assert style and {name: model_args[name] for name in style} == style
  assert model_args['embedding_scale'] == 'input'


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_two_byte_files_become_float32(state, folder, params, dtype):
  half = {name: array.astype(dtype) for name, array in state.items()}
  table = positions.sinusoid(jnp.arange(64), 12, 'halves')
  half['model.encoder.embed_positions.weight'] = np.asarray(table).astype(dtype)
  read = marian.read_params(folder(half))
  assert_same(read, jax.tree.map(lambda x: x.astype(dtype).astype('f4'), params))
  assert read['embedding'].dtype == np.float32


@pytest.mark.parametrize('names', [marian._EMBEDDINGS, marian._EMBEDDINGS[-1:]])
def test_embeddings_may_have_any_of_their_names(state, params, names):
  embedding = state.pop('model.shared.weight')
  state |= {name: embedding.copy() for name in names}
  assert_same(marian.from_marian(state, num_heads=3), params)


def test_logits_without_bias_have_a_bias_of_zero(state):
  del state['final_logits_bias']
  assert not marian.from_marian(state, num_heads=3)['logits_bias'].any()


def change_embedding(state):
  state['lm_head.weight'] = state['model.shared.weight'] + 1e-6


def transpose(state):
  name = f'{LAYER}fc1.weight'
  state[name] = np.ascontiguousarray(state[name].T)


def drop_names(state):
  del state['model.encoder.layers.1.self_attn.q_proj.bias'], state[f'{LAYER}fc2.bias']


def add_names(state):
  state['model.encoder.layer_norm.weight'] = np.ones(12, np.float32)
  state |= {f'x{i:02}': np.ones(1, np.float32) for i in range(20)}


def break_values(state):
  state[f'{LAYER}fc1.bias'][3] = np.nan
  state['final_logits_bias'][0, 2] = np.inf


def interleave(state):
  table = positions.sinusoid(jnp.arange(64), 12, 'interleaved')
  state['model.decoder.embed_positions.weight'] = np.asarray(table)


@pytest.mark.parametrize(
  'change, message',
  [
    (change_embedding, r'lm_head\.weight differs from model\.shared\.weight'),
    (lambda state: state.pop('model.shared.weight'), r'missing model\.shared\.weight'),
    (transpose, r'layers\.2\.fc1\.weight \(12, 20\) is not \(20, 12\)'),
    (
      drop_names,
      r'missing model\.decoder\.layers\.2\.fc2\.bias,'
      r' model\.encoder\.layers\.1\.self_attn\.q_proj\.bias$',
    ),
    (add_names, r'unknown model\.encoder\.layer_norm\.weight, x00, .*x08 and 11 more'),
    (break_values, r'NaN or infinities in: final_logits_bias, model\.decoder'),
    (interleave, r'embed_positions\.weight differs from the sines and'),
  ],
)
def test_files_that_do_not_fit(state, folder, change, message):
  change(state)
  with pytest.raises(UserError, match=message):
    marian.from_marian(state, num_heads=3)
  with pytest.raises(UserError, match=f'model.safetensors: .*{message}'):
    marian.read_folder(folder())


@pytest.mark.parametrize(
  'config, message',
  [
    (dict(model_type='bart'), "model_type is 'bart'"),
    (dict(normalize_before=True), 'normalize_before is True'),
    (dict(share_encoder_decoder_embeddings=False), 'but only True is supported'),
    (dict(decoder_vocab_size=99), 'decoder_vocab_size 99 is not vocab_size 17'),
    (
      dict(activation_function='tanh'),
      "activation_function 'tanh' is not one of swish",
    ),
    (
      dict(decoder_ffn_dim=24),
      'encoder_ffn_dim is 20, decoder_ffn_dim is 24: encoder and decoder must agree',
    ),
    (dict(encoder_attention_heads=4), 'encoder and decoder must agree'),
    (dict(pad_token_id=17), 'pad_token_id is 17, not one of the tokens 0 to 16'),
    (dict(d_model=None), 'd_model is None: not a positive whole number'),
    (dict(bad_words_ids=[[1, 2]]), 'words of several tokens'),
    (dict(decoder_layers=4), 'decoder_depth is 3, but 4 in its config.json'),
    (dict(activation_function=['relu']), "misstates 'activation_function'"),
    (dict(dropout=1.0), "misstates 'dropout': 1.0 is not a number from 0 to below 1"),
    (dict(attention_dropout='0'), "misstates 'attention_dropout'"),
    (dict(scale_embedding=1), "misstates 'scale_embedding'"),
    (dict(num_beams=10**9), "misstates 'num_beams'"),
    (dict(max_position_embeddings=10**9), "misstates 'max_position_embeddings'"),
    (dict(bad_words_ids=[['1']]), "misstates 'bad_words_ids'"),
    (dict(bad_words_ids=[[99]]), 'are not all tokens 0 to 16'),
    (dict(dropout=float('nan')), 'config.json: dropout is nan, not a finite number'),
  ],
)
def test_configs_that_do_not_fit(folder, config, message):
  with pytest.raises(UserError, match=message):
    marian.read_folder(folder(**config))


def test_the_search_has_a_file_of_its_own(folder):
  path = folder()
  search = dict(num_beams=4, bad_words_ids=[[16], [1]], decoder_start_token_id=16)
  (path / 'generation_config.json').write_text(json.dumps(search))
  config = marian.read_config(path)
  assert (config.beams, config.never) == (4, (1, 16))


def test_folders_without_a_readable_file(folder, tmp_path):
  path = folder()
  file = path / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(
    UserError, match='is not a whole .safetensors file .*copy it again'
  ):
    marian.read_folder(path)
  file.unlink()
  with pytest.raises(UserError, match='has no model.safetensors$'):
    marian.read_folder(path)
  (path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(UserError, match=r'is a pickle.*\.save_pretrained'):
    marian.read_folder(path)
  (path / 'config.json').write_text('{')
  with pytest.raises(UserError, match='config.json is not JSON'):
    marian.read_folder(path)
  with pytest.raises(UserError, match='config.json cannot be read: No such file'):
    marian.read_folder(tmp_path / 'nowhere')


def test_wrong_number_of_heads(state):
  with pytest.raises(UserError, match='width 12 does not divide into 5 heads'):
    marian.from_marian(state, num_heads=5)


def test_parameters_of_another_model_are_not_written(params):
  with pytest.raises(ValueError, match='missing logits_bias'):
    marian.to_marian({k: v for k, v in params.items() if k != 'logits_bias'})
  with pytest.raises(ValueError, match='unknown decoder/norm/scale'):
    marian.to_marian(
      params | {'decoder': params['decoder'] | {'norm': {'scale': np.ones(12)}}}
    )
