"""Tests of self-training: a student learns from labels and a teacher's predictions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.layers import convolution
from big_vision_like.ops import augmentation
from big_vision_like.tasks import self_training

CLASSES, KEY = 3, jax.random.key(0)


class Small(nn.Module):
  """Dropout and a dense layer."""

  num_classes: int = CLASSES
  dropout: float = 0.0

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BHWC = nn.Dropout(self.dropout, deterministic=not train)(image_BHWC)
    x_BD = x_BHWC.reshape(len(image_BHWC), -1)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BD)}


class Normed(nn.Module):
  """The same model, after batch norm in groups."""

  norm_groups: int
  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    norm = convolution.BatchNorm(groups=self.norm_groups, name='norm')
    return Small(self.num_classes, name='rest')(norm(image_BHWC, train), train)


def make(**options):
  return self_training.SelfTraining(
    **{'model': Small(), 'optimizer': optim.momentum(0.1), **options}
  )


def batch_of(labelled=4, unlabelled=8, seed=0):
  rng = np.random.default_rng(seed)

  def images(count, size=2):
    return rng.integers(0, 256, (count, size, size, 1), dtype=np.uint8)

  probability = rng.gamma(1.0, size=(unlabelled, CLASSES)).astype(np.float32)
  return dict(
    labelled=dict(
      image=images(labelled),
      label=rng.integers(0, CLASSES, labelled).astype(np.int32),
    ),
    unlabelled=dict(
      image=images(unlabelled),
      teacher_image=images(unlabelled, 4),
      probabilities=probability / probability.sum(axis=-1, keepdims=True),
    ),
  )


def normalized(image):
  return image / np.float32(127.5) - 1


@pytest.mark.parametrize('kind', self_training.KINDS)
@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_loss_adds_ratio_times_the_loss_of_pseudo_labels(kind, accumulate):
  batch = batch_of()
  this = make(kind=kind, temperature=2.0, accumulate=accumulate)
  state = jax.jit(this.init)(KEY, batch)
  _, scalars = jax.jit(this.train_step)(state, batch, KEY)
  labelled, unlabelled = batch['labelled'], batch['unlabelled']
  logits = [
    this.model.apply({'params': state.params}, normalized(part['image']))['logits']
    for part in (labelled, unlabelled)
  ]
  smooth = 0.9 * np.eye(CLASSES) + 0.1 / CLASSES
  if kind == 'hard':
    target = smooth[unlabelled['probabilities'].argmax(-1)]
  else:
    root = np.sqrt(unlabelled['probabilities'])
    target = root / root.sum(axis=-1, keepdims=True)
  from_labels, from_pseudo = (
    optax.softmax_cross_entropy(*pair).mean()
    for pair in ((logits[0], smooth[labelled['label']]), (logits[1], target))
  )
  want = from_labels + 2 * from_pseudo
  np.testing.assert_allclose(scalars['loss'], want, rtol=1e-5)
  np.testing.assert_allclose(scalars['loss_pseudo'], from_pseudo, rtol=1e-5)
  agree = (logits[1].argmax(-1) == unlabelled['probabilities'].argmax(-1)).mean()
  np.testing.assert_allclose(scalars['agreement'], agree, rtol=1e-6)


@pytest.mark.parametrize('sizes', [(4, 8), (4, 6), (6, 4), (3, 5)])
def test_parts_are_joined_in_proportion_and_separated_again(sizes):
  labelled, unlabelled = jnp.arange(sizes[0]), 100 + jnp.arange(sizes[1])
  whole = self_training.interleaved(labelled, unlabelled)
  groups = np.gcd(*sizes)
  share = np.asarray(whole < 100).reshape(groups, -1).sum(axis=1)
  np.testing.assert_array_equal(share, sizes[0] // groups)
  for got, want in zip(
    self_training.separated(whole, *sizes), (labelled, unlabelled), strict=True
  ):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('accumulate', [1, 2])
def test_each_group_of_batch_norm_has_both_parts(accumulate):
  batch = batch_of(8, 16)
  this = make(model=Normed(norm_groups=2), accumulate=accumulate)
  state = jax.jit(this.init)(KEY, batch)
  # All images of a part are equal, so groups in proportion have one mean and variance.
  for name, value in (('labelled', 0), ('unlabelled', 255)):
    batch[name]['image'] = np.full_like(batch[name]['image'], value)
  after, _ = jax.jit(this.train_step)(state, batch, KEY)
  keep = 0.9**accumulate
  np.testing.assert_allclose(
    after.mutable['batch_stats']['norm']['mean'], (1 - keep) * (1 / 3), rtol=1e-5
  )
  variance, count = 8 / 9, 4 * 24 / accumulate / 2
  np.testing.assert_allclose(
    after.mutable['batch_stats']['norm']['var'],
    keep + (1 - keep) * variance * count / (count - 1),
    rtol=1e-5,
  )


def test_a_batch_that_does_not_divide_is_reported():
  batch = batch_of(4, 6)
  this = make(model=Normed(norm_groups=4))
  state = make().init(KEY, batch)
  with pytest.raises(UserError, match='4 labelled and 6 unlabelled examples do not'):
    this.loss(state.params, {}, this.prepare(batch, KEY), KEY)
  odd = make(accumulate=4)
  with pytest.raises(UserError, match='a batch of 6 does not divide into accumulate=4'):
    odd.train_step(state, batch, KEY)


def test_a_teacher_predicts_clean_images_at_its_own_resolution():
  batch, teacher = batch_of(), Small(dropout=0.9)
  variables = teacher.init(
    jax.random.key(7), normalized(batch['unlabelled']['teacher_image'])
  )
  live = make(teacher=teacher, model=Small(dropout=0.5))
  clean = normalized(batch['unlabelled']['teacher_image'])
  want = jax.nn.softmax(teacher.apply(variables, clean)['logits'])
  for key in (KEY, jax.random.key(5)):
    prepared = jax.jit(live.prepare)(batch, key, {'teacher': variables})
    np.testing.assert_allclose(prepared['unlabelled']['target'], want, atol=1e-6)
  state = jax.jit(live.init)(KEY, batch).replace(frozen={'teacher': variables})
  stored = make(model=Small(dropout=0.5))
  batch['unlabelled']['probabilities'] = want
  after = [
    jax.jit(this.train_step)(start, batch, KEY)[0]
    for this, start in ((live, state), (stored, state.replace(frozen=None)))
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    after[0].params,
    after[1].params,
  )
  jax.tree.map(np.testing.assert_array_equal, after[0].frozen['teacher'], variables)


def test_images_are_mixed_within_their_part():
  batch = batch_of()
  batch['labelled']['image'][:] = 0
  batch['unlabelled']['image'][:] = 255
  this = make(augment=augmentation.Augment(mixup=0.8, partner='reversed'))
  prepared = jax.jit(this.prepare)(batch, KEY)
  np.testing.assert_allclose(prepared['labelled']['image'], -1.0)
  np.testing.assert_allclose(prepared['unlabelled']['image'], 1.0, rtol=1e-6)
  target = prepared['unlabelled']['target']
  np.testing.assert_allclose(target.sum(axis=-1), 1.0, rtol=1e-5)
  assert np.abs(target - batch['unlabelled']['probabilities']).max() > 1e-3


def test_predictions_need_one_part():
  this, batch = make(), batch_of()
  state = jax.jit(this.init)(KEY, batch)
  outputs = jax.jit(this.predict)(state, batch['labelled'], KEY)
  assert outputs['logits'].shape == (4, CLASSES) and outputs['loss'].shape == (4,)
  assert this.part('') is this and this.part('unlabelled') is None
  assert this.part('labelled').num_classes == CLASSES
  with pytest.raises(UserError, match="batches of 'extra', but the parts"):
    this.part('extra')


def without(batch, part, name):
  return batch | {part: {k: x for k, x in batch[part].items() if k != name}}


@pytest.mark.parametrize(
  'options, change, words',
  [
    ({}, lambda b: {'labelled': b['labelled']}, "have no part 'unlabelled'"),
    ({}, lambda b: without(b, 'unlabelled', 'probabilities'), 'no `probabilities`'),
    (
      {'model': Small(num_classes=4)},
      lambda b: b,
      'the pseudo labels have 3 classes and the model has 4',
    ),
    (
      {'teacher': Small()},
      lambda b: without(b, 'unlabelled', 'teacher_image'),
      "no 'teacher_image'",
    ),
    (
      {},
      lambda b: (
        b
        | {'unlabelled': b['unlabelled'] | {'image': b['unlabelled']['teacher_image']}}
      ),
      'labelled part is 2x2x1 and of the unlabelled one 4x4x1',
    ),
    (
      {},
      lambda b: b | {'labelled': b['labelled'] | {'label': np.array([0, 1, 2, 7])}},
      'label 7 is out of range',
    ),
  ],
)
def test_unusable_batches_are_reported(options, change, words):
  with pytest.raises(UserError, match=words):
    make(**options).check(change(batch_of()))


def test_good_batches_pass():
  make().check(batch_of())
  make().check(batch_of()['labelled'])
  make(teacher=Small()).check(without(batch_of(), 'unlabelled', 'probabilities'))


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(kind='warm'), "kind='warm' is not one of soft, hard"),
    (dict(temperature=0.0), 'temperature=0.0 is not above 0'),
    (dict(teacher=Small(num_classes=5)), 'the teacher has 5 classes and the model 3'),
    (dict(teacher_images=(0.5, 0.5)), 'there is none'),
  ],
)
def test_wrong_fields_are_reported(options, words):
  with pytest.raises(UserError, match=words):
    make(**options)
