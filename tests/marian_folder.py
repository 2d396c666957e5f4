"""A tiny Marian folder with random weights, shared by tests of translation."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import sentencepiece
import texts

from big_vision_like.models import transformer
from big_vision_like.weights import marian

LANGUAGES = ['>>deu<<', '>>nds<<']


def write(folder: pathlib.Path, languages: bool = True, **changes) -> pathlib.Path:
  """Writes all files and returns the folder; `changes` apply to config.json."""
  pieces = {}
  for side, language in ('source', 'en'), ('target', 'de'):
    with (folder / f'{side}.spm').open('wb') as file:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([pair[language] for pair in texts.PAIRS]),
        model_writer=file,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
      )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f'{side}.spm'))
    pieces |= dict.fromkeys(map(model.id_to_piece, range(model.get_piece_size())))
  for special in '<unk>', '<s>', '</s>':
    del pieces[special]
  # In the published order: EOS, unknown, the pieces of both sides, padding last.
  codes = LANGUAGES if languages else []
  vocabulary = ['</s>', '<unk>', *codes, *pieces, '<pad>']
  ids = {piece: i for i, piece in enumerate(vocabulary)}
  (folder / 'vocab.json').write_text(json.dumps(ids))
  size, pad = len(ids), len(ids) - 1
  config = dict(
    model_type='marian',
    vocab_size=size,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_position_embeddings=40,
    activation_function='swish',
    scale_embedding=True,
    pad_token_id=pad,
    eos_token_id=0,
    decoder_start_token_id=pad,
    num_beams=2,
  )
  (folder / 'config.json').write_text(json.dumps(config | changes))
  one = jnp.zeros((1, 1), jnp.int32)
  model = transformer.Transformer(**marian.read_config(folder).model_args)
  params = jax.jit(model.init)(jax.random.key(0), one, one)['params']
  # With these biases, searches find EOS now and then, but never padding.
  bias = np.random.default_rng(0).normal(size=size).astype(np.float32)
  bias[0], bias[pad] = 0.0, 9.0
  state = marian.to_marian(params | {'logits_bias': bias})
  # Scales weights up, so that the output depends on the source.
  layers = [name for name in state if 'layers' in name and 'norm' not in name]
  state |= {name: 6 * state[name] for name in layers}
  safetensors.numpy.save_file(state, folder / 'model.safetensors')
  return folder
