import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.errors import UserError
from big_vision_like.models import deit, vit
from big_vision_like.ops import positions
from big_vision_like.report import vit as report_vit
from big_vision_like.viz import attention

SIZES = dict(num_classes=3, patch=4, width=12, depth=2, num_heads=3, mlp_dim=5)


def trained(params=None, model=None, **kwargs):
  """Returns a model of 8 x 16 images with one channel, and 3 such images."""
  model = model or vit.ViT(**SIZES | kwargs)
  image_BHWC = np.random.default_rng(0).normal(size=(3, 8, 16, 1)).astype(np.float32)
  if params is None:
    params = jax.jit(model.init)(jax.random.key(0), image_BHWC[:1])['params']
  return report_vit.Trained(
    model=model,
    variables={'params': params},
    inputs=lambda image_BHWC: (image_BHWC,),
    images=lambda: image_BHWC,
  )


KINDS = {
  'map': dict(
    pool='map', registers=2, posemb='learned2d', posemb_at='every', scan=True
  ),
  'hybrid': dict(
    resnet=(), patch=1, registers=2, posemb='relative', posemb_at='shared'
  ),
}


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_attention_of_every_kind_of_vit_has_its_grid(kind, monkeypatch):
  monkeypatch.setattr(report_vit, 'ATTENTION_BYTES', 1)  # one image at a time
  found = trained(**kind)
  assert found.grid == (2, 4) and found.patch == (4.0, 4.0)
  rows, shown = np.arange(3), np.array([0, 2])
  attended = report_vit.attend(found, rows, shown)
  sown = jax.jit(found.collect)(found.variables, found.images())
  probs_LBHNN = attention.stack_attention(sown)
  num_prefix = 2 + (found.model.pool == 'token')
  assert probs_LBHNN.shape == (2, 3, 3, num_prefix + 8, num_prefix + 8)
  output_BN = attention.output_weights(sown, found.model.pool, registers=2)
  expected_BP = attention.rollout(probs_LBHNN, output_BN, num_prefix)
  [rollout_BP] = attended.rollouts.values()
  np.testing.assert_allclose(rollout_BP, expected_BP[shown], rtol=1e-4)
  expected_LH = attention.attention_distance(probs_LBHNN, (2, 4), 4, num_prefix)
  np.testing.assert_allclose(attended.distance_LH, expected_LH, rtol=1e-4)
  assert attended.count == 3


def test_tokens_of_class_and_distillation_are_read_apart():
  model = deit.DeiT(**SIZES, registers=1)
  found = trained(model=model)
  attended = report_vit.attend(found, np.arange(3), np.array([1]))
  sown = jax.jit(found.collect)(found.variables, found.images())
  probs_LBHNN = attention.stack_attention(sown)
  both_BN = attention.output_weights(sown, 'token', registers=1, leading=2)
  mean_BP = attention.rollout(probs_LBHNN, both_BN, num_prefix=3)[1:2]
  apart = attended.rollouts
  assert [*apart] == ['class token', 'distillation token']
  one_BP, other_BP = apart.values()
  np.testing.assert_allclose((one_BP + other_BP) / 2, mean_BP, rtol=1e-4)
  assert np.abs(one_BP - other_BP).max() > 1e-4
  shown = report_vit.rollout_pictures(
    np.zeros((8, 16, 3), np.uint8), attended.of(0), found.grid
  )
  assert shown.count('<img') == 5 and 'distillation token' in shown
  assert 'the class token and the distillation token' in (
    report_vit.how_to_read_rollouts(found)
  )


def test_positions_follow_the_cells_of_the_grid():
  random = np.random.default_rng(0)
  table_LND = random.normal(size=(2, 9, 12)).astype(np.float32)
  found = trained({'pos_embedding': table_LND[:1]})
  embedding_ND, what = report_vit.grid_positions(found)
  np.testing.assert_array_equal(embedding_ND, table_LND[0, 1:])
  assert what == ''
  found = trained({'pos_embedding': table_LND}, posemb_at='every')
  assert 'first of 2 blocks' in report_vit.grid_positions(found)[1]

  rows_LhE, columns_LwE = random.normal(size=(2, 2, 6)), random.normal(size=(2, 4, 6))
  params = {'pos_rows': rows_LhE, 'pos_columns': columns_LwE}
  embedding_ND, what = report_vit.grid_positions(trained(params))
  np.testing.assert_allclose(embedding_ND[6, :6], columns_LwE[0, 2], rtol=1e-6)
  np.testing.assert_allclose(embedding_ND[6, 6:], rows_LhE[0, 1], rtol=1e-6)
  assert 'separate tables' in what and 'of 2 blocks' in what

  embedding_ND, what = report_vit.grid_positions(trained({}, posemb='sincos2d'))
  np.testing.assert_array_equal(embedding_ND, positions.sincos2d(2, 4, 12)[0])
  assert 'computed, not learned' in what


@pytest.mark.parametrize(
  ('params', 'message'),
  [({'relative_keys': np.zeros(1)}, 'keys for distances'), ({}, 'no position embed')],
)
def test_positions_without_places_are_a_reason(params, message):
  with pytest.raises(UserError, match=message):
    report_vit.grid_positions(trained(params, posemb='none'))


def test_the_first_filters_of_a_hybrid_come_from_its_resnet():
  random = np.random.default_rng(0)
  kernel_PQCD = random.normal(2.0, 3.0, size=(7, 7, 3, 64))
  params = {
    'resnet': {'conv_root': {'kernel': jnp.asarray(kernel_PQCD)}},
    'embed': {'kernel': random.normal(size=(1, 1, 64, 12))},
  }
  found_PQCD, what = report_vit.first_kernel(trained(params, resnet=()))
  expected_PQCD = (kernel_PQCD - kernel_PQCD.mean((0, 1, 2))) / kernel_PQCD.std(
    (0, 1, 2)
  )
  np.testing.assert_allclose(found_PQCD, expected_PQCD, atol=1e-4)
  assert 'ResNet' in what
  del params['resnet']
  found_PQCD, what = report_vit.first_kernel(trained(params))
  assert found_PQCD.shape == (1, 1, 64, 12) and what == 'patch filters'
