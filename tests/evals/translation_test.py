import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
import texts

from big_vision_like.data.input import pipeline
from big_vision_like.data.transforms import text
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import translation

REFERENCES = [pair['en'] for pair in texts.PAIRS[:11]]


@pytest.fixture
def evaluate(vocabulary):
  """Returns a function that scores `translations` (any text) as a model's output."""

  def run(translations, batch_size=4, devices=1, **options):
    ids = np.zeros((len(translations), 40), np.int32)
    for i, line in enumerate(translations):
      found = [*vocabulary.encode(line), vocabulary.eos_id]
      ids[i, : len(found)] = found
    source = [
      {'de': pair['de'].encode(), 'en': pair['en'].encode(), 'id': np.int32(i)}
      for i, pair in enumerate(texts.PAIRS[: len(translations)])
    ]

    def predict(state, batch, key):
      assert batch['source'].shape == (batch_size, 40)
      found = jnp.asarray(ids)[batch['id']]
      # Gives padding rows other words, which would change the scores.
      return {'ids': jnp.where(batch['mask'][:, None], found, 5), 'logits': state}

    tokenize = text.Tokenize(vocabulary, source='de', target='en')
    data = pipeline.EvalInput(
      source=source, batch_size=batch_size, transforms=[tokenize, text.Pad(40, 40)]
    )
    bleu = translation.Bleu(data=data, vocabulary=vocabulary, target='en', **options)
    mesh = meshes.make_mesh(devices=jax.devices()[:devices])
    results = bleu.run(predict, jnp.float32(0.0), mesh)
    assert len(results.texts['translations']) == 8
    return results.scalars

  return run


@pytest.mark.parametrize('batch_size, devices', [(11, 1), (4, 1), (8, 8)])
def test_the_references_score_100(evaluate, batch_size, devices):
  got = evaluate(REFERENCES, batch_size, devices)
  hundred = pytest.approx(100.0)
  assert got == {'bleu': hundred, 'chrf': hundred, 'length_ratio': 1.0}


@pytest.mark.parametrize('tokenize', ['13a', 'intl', 'none'])
def test_scores_match_sacrebleu(evaluate, tokenize):
  lines = [line.replace('tomcat', 'bear') for line in REFERENCES]
  lines[0], lines[8] = 'The dog sees, the dog', lines[8].lower()
  bleu = sacrebleu.corpus_bleu(lines, [REFERENCES], tokenize=tokenize, force=True)
  got = evaluate(lines, tokenize=tokenize)
  assert got['bleu'] == pytest.approx(bleu.score) and 20 < got['bleu'] < 99
  chrf = sacrebleu.corpus_chrf(lines, [REFERENCES]).score
  assert got['chrf'] == pytest.approx(chrf) and 50 < got['chrf'] < 99
  assert got['length_ratio'] == pytest.approx(bleu.sys_len / bleu.ref_len)


def test_an_untrained_model_scores_zero_and_not_an_error(evaluate):
  got = evaluate([''] * 11)
  assert got == {'bleu': 0.0, 'chrf': 0.0, 'length_ratio': 0.0}


def test_each_translation_meets_its_own_reference(evaluate):
  assert evaluate(REFERENCES[::-1])['bleu'] < 70


def test_only_known_tokenizers(evaluate):
  with pytest.raises(UserError, match="tokenize='moses' is not one of 13a, intl, zh"):
    evaluate(REFERENCES, tokenize='moses')


def test_a_missing_package_is_named_with_its_extra(evaluate, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sacrebleu', None)
  with pytest.raises(UserError, match='install the extra `text`'):
    evaluate(REFERENCES)
