"""Tests of evaluators of generated images, with a task that needs no training.

Axes: B batch, H W image, C channels, K components.
"""

import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mean_colours import REAL, STATE, MeanColours, generate, made, real
from scipy import linalg

from big_vision_like.data.input import cache
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import evaluator, generation, samples


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))


def drawn(count, batch_size=8, size=(8, 8)):
  """Returns the samples of an evaluator, uint8."""
  key = jax.random.key(0)
  batch = {'image': jnp.zeros((batch_size, *size, 3))}
  parts = [
    generate(STATE, batch, jax.random.fold_in(key, number))['image']
    for number in range(-(-count // batch_size))
  ]
  return np.asarray(samples.to_uint8(jnp.concatenate(parts)))[:count]


def by_numpy(images_NHWC):
  return np.asarray(
    MeanColours().outputs(np.float32(1.0), images_NHWC)['features'], float
  )


def test_fid_is_scipy_s_over_all_real_images_and_all_samples():
  results = made().run(generate, STATE)
  one, other = by_numpy(np.stack([x['image'] for x in REAL])), by_numpy(drawn(30))
  covariances = [np.cov(x, rowvar=False) for x in (one, other)]
  root = linalg.sqrtm(covariances[0] @ covariances[1]).real
  want = np.square(one.mean(0) - other.mean(0)).sum()
  want += np.trace(covariances[0] + covariances[1] - 2 * root)
  np.testing.assert_allclose(results.scalars['fid'], want, rtol=1e-4)
  assert results.scalars.keys() == {'fid', 'inception_score', 'inception_score_std'}
  (sheet,) = results.pictures['samples']
  assert sheet.dtype == np.uint8 and sheet.ndim == 3 and not results.texts


def test_the_data_themselves_have_distance_zero():
  def copies(state, batch, key):
    return {'image': batch['image']}

  # A single batch, which is drawn again and again.
  evaluator_ = made(source=REAL[:16], batch_size=16, samples=16)
  assert evaluator_.run(copies, STATE).scalars['fid'] < 1e-6
  both = made(generation.PrecisionRecall, REAL[:16], 16, samples=16)
  assert both.run(copies, STATE).scalars == {'precision': 1.0, 'recall': 1.0}


def test_confidence_and_inception_score_by_class():
  def certain(state, batch, key):
    rows = jnp.arange(len(batch['image'])) % 3
    image_BC = 2.0 * jax.nn.one_hot(rows, 3) - 1
    return {'image': jnp.broadcast_to(image_BC[:, None, None], batch['image'].shape)}

  scalars = made(batch_size=6, confident=0.9).run(certain, STATE).scalars
  assert scalars['confident'] == 1.0
  assert scalars['inception_score'] == pytest.approx(3, rel=1e-3)
  unsure = made(confident=0.999).run(generate, STATE).scalars
  assert unsure['confident'] < 1


def test_results_do_not_depend_on_devices_and_are_equal_every_time():
  one = made()
  first = one.run(generate, STATE).scalars
  assert one.run(generate, STATE).scalars == first
  four = meshes.make_mesh(devices=jax.devices()[:4])
  several = made().run(generate, STATE, four).scalars
  assert several.keys() == first.keys()
  for name, value in first.items():
    np.testing.assert_allclose(several[name], value, rtol=1e-4)


def test_real_images_are_computed_once_for_equal_data_and_networks(monkeypatch):
  calls = []
  rows = evaluator.Evaluator.rows
  monkeypatch.setattr(
    evaluator.Evaluator, 'rows', lambda *a, **k: calls.append(1) or rows(*a, **k)
  )
  first = made().run(generate, STATE).scalars
  assert len(calls) == 1
  assert made().run(generate, STATE).scalars == first
  assert len(calls) == 1
  made(network=MeanColours(2.0)).run(generate, STATE)
  made(source=real(seed=1)).run(generate, STATE)
  made(ratio=0.5).run(generate, STATE)
  assert len(calls) == 4


def test_processes_compute_together_unless_all_have_found_the_same(monkeypatch):
  found = []
  monkeypatch.setattr(generation, 'alike', lambda arrays: found.append(arrays) or False)
  first = made().run(generate, STATE).scalars
  again = made().run(generate, STATE).scalars
  assert [arrays is None for arrays in found] == [True, False] and first == again
  assert cache.file('generation', ['x']).parent.is_dir()


def test_fewer_samples_than_features_are_warned_about_once(capsys):
  few = made(samples=10)
  results = few.run(generate, STATE)
  told = capsys.readouterr().err
  assert '10 samples and 21 real images have fewer examples than features (12)' in told
  assert told.count('warning') == 1
  perfect = results.scalars['fid_perfect']
  assert f'would have a FID of about {perfect:.3g};' in told and perfect > 0
  assert list(results.texts) == ['too few samples']
  few.run(generate, STATE)
  assert capsys.readouterr().err == ''


def test_only_content_counts():
  # Padding of other colours, and what a generator draws there, is not compared.
  images = [x['image'].copy() for x in real(12, (16, 16))]
  black = [x.copy() for x in images]
  for one, other in zip(images, black, strict=True):
    one[:3], one[14:] = 200, 200
    other[:3], other[14:] = 0, 0
  scalars = [
    made(source=[{'image': x} for x in source], batch_size=4, ratio=0.5)
    .run(generate, STATE)
    .scalars['fid']
    for source in (images, black)
  ]
  assert scalars[0] == scalars[1]
  rows = samples.content(
    jnp.arange(256)[None, :, None, None] + jnp.zeros((1, 256, 256, 1)), 0.75
  )
  assert (int(rows.min()), int(rows.max()), rows.shape[1]) == (32, 224, 193)


def test_values_stand_for_equal_intervals():
  x_BHWC = jnp.array([-2.0, -1.0, -0.999, 0.0, 0.999, 1.0, 2.0]).reshape(1, 7, 1, 1)
  got = samples.to_uint8(x_BHWC).ravel()
  np.testing.assert_array_equal(got, [0, 0, 0, 128, 255, 255, 255])
  back = samples.to_uint8(
    jnp.arange(256, dtype=jnp.float32).reshape(1, 16, 16, 1) / 127.5 - 1
  )
  assert np.abs(np.asarray(back).ravel().astype(int) - np.arange(256)).max() <= 1


def test_other_predictions_are_refused():
  with pytest.raises(UserError, match="predict='generate' returns no `image`"):
    made().run(lambda state, batch, key: {'logits': state}, STATE)
  with pytest.raises(UserError, match='samples=1: at least 2'):
    made(samples=1)


def test_precision_and_recall_use_the_first_real_images():
  def near(state, batch, key):
    return {'image': batch['image']}

  options = dict(batch_size=7, samples=7, most=7, neighbours=2)
  scalars = found.run(made(generation.PrecisionRecall, **options), near, STATE, None)
  assert scalars == {'precision': 1.0, 'recall': 1.0}
  white = [{'image': np.full((8, 8, 3), 255, np.uint8)}] * 3
  source = [{'image': x['image']} for x in REAL[:7]] + white
  for most, recall in (7, 1.0), (10, 0.7):
    every = made(generation.PrecisionRecall, source, **options | {'most': most})
    scalars = every.run(near, STATE).scalars
    assert scalars == {'precision': 1.0, 'recall': pytest.approx(recall)}
