"""Tests of the agreement of attention with the foreground of generated images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import squares
from big_vision_like.errors import UserError
from big_vision_like.evals import attention_segments

(CONFIG,) = squares.Squares.BUILDER_CONFIGS
EXAMPLES = [squares.draw(CONFIG, 'test', index) for index in range(8)]
DATA = [{'image': e['image'], 'id': np.int32(e['id'])} for e in EXAMPLES]
IDS = np.stack([e['segmentation'][..., 0] for e in EXAMPLES])


def run(attention_BKhw, image=None, **options):
  def generate(state, batch, key):
    shown = batch['image'] if image is None else image
    return {'image': shown / 127.5 - 1, 'attention': attention_BKhw}

  data = pipeline.EvalInput(source=DATA, batch_size=8)
  made = attention_segments.AttentionSegments(data=data, samples=8, **options)
  return made.run(generate, jnp.zeros(()))


def one_hot(ids_BHW, count):
  one_hot_BHWK = jax.nn.one_hot(ids_BHW.astype(np.int32), count)
  return jnp.moveaxis(one_hot_BHWK, -1, 1)


def test_the_foreground_by_colour_is_the_true_one():
  results = run(one_hot(IDS > 0, 2))
  assert results.scalars == {'ari': 1.0, 'ari_merged': 1.0, 'drawn': 1.0}
  (sheet,) = results.pictures['attention']
  assert sheet.dtype == np.uint8 and sheet.shape[0] > 8 * 64


def test_values_are_scikit_learn_s():
  parts = np.random.default_rng(0).integers(0, 4, (8, 16, 16))
  parts = np.where(np.random.default_rng(1).random(parts.shape) < 0.6, IDS, parts)
  scalars = run(one_hot(parts, 4)).scalars
  front = IDS > 0
  pairs = list(zip(front, parts, strict=True))
  want = [metrics.adjusted_rand_score(a.ravel(), b.ravel()) for a, b in pairs]
  np.testing.assert_allclose(scalars['ari'], np.mean(want), atol=1e-5)
  merged = []
  for a, b in pairs:
    mostly = [a[b == k].mean() > 0.5 for k in range(4)]
    merged.append(metrics.adjusted_rand_score(a.ravel(), np.take(mostly, b).ravel()))
  np.testing.assert_allclose(scalars['ari_merged'], np.mean(merged), atol=1e-5)


def test_random_attention_is_at_chance_and_coarse_maps_are_resized():
  noise = jax.random.uniform(jax.random.key(0), (8, 4, 16, 16))
  assert abs(run(noise).scalars['ari']) < 0.02
  coarse = one_hot(IDS > 0, 2)[:, :, ::2, ::2]
  scalars = run(coarse).scalars
  assert 0.5 < scalars['ari'] < 1


def test_images_without_foreground_are_left_out():
  image = jnp.asarray(np.stack([e['image'] for e in DATA]))
  image = image.at[4:].set(squares.GREY)
  scalars = run(one_hot(IDS > 0, 2), image).scalars
  assert scalars == {'ari': 1.0, 'ari_merged': 1.0, 'drawn': 0.5}
  nothing = run(one_hot(IDS > 0, 2), image.at[:].set(squares.GREY)).scalars
  assert nothing == {'ari': 0.0, 'ari_merged': 0.0, 'drawn': 0.0}


def test_generators_without_attention_are_refused():
  def generate(state, batch, key):
    return {'image': batch['image'] / 127.5 - 1}

  data = pipeline.EvalInput(source=DATA, batch_size=8)
  made = attention_segments.AttentionSegments(data=data, samples=8)
  with pytest.raises(UserError, match='no `attention`: the generator does not attend'):
    made.run(generate, jnp.zeros(()))
