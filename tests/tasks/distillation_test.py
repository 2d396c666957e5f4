"""Tests of distillation: the losses of a student from labels and from its teacher."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops import augmentation, images
from big_vision_like.tasks import distillation, task

CLASSES, KEY = 3, jax.random.key(0)


class Small(nn.Module):
  """Two dense layers and, on request, a head for the teacher's decisions."""

  num_classes: int = CLASSES
  distilled: bool = False
  norm: bool = False

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BD = nn.Dense(5, name='hidden')(image_BHWC.reshape(len(image_BHWC), -1))
    if self.norm:
      x_BD = nn.BatchNorm(use_running_average=not train, name='norm')(x_BD)
    x_BD = nn.tanh(x_BD)
    logits_BC = nn.Dense(self.num_classes, name='head')(x_BD)
    if not self.distilled:
      return {'logits': logits_BC}
    distilled_BC = nn.Dense(self.num_classes, name='other')(x_BD)
    return {
      'logits': (logits_BC + distilled_BC) / 2,
      'class_logits': logits_BC,
      'distilled_logits': distilled_BC,
    }


def make(**options):
  options = {
    'model': Small(),
    'teacher': Small(),
    'optimizer': optim.momentum(0.1),
    **options,
  }
  return distillation.Distillation(**options)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (8, 2, 2, 1), dtype=np.uint8),
    label=rng.integers(0, CLASSES, 8).astype(np.int32),
  )


def started(this, batch):
  """Returns a state whose teacher has random weights."""
  state = jax.jit(this.init)(KEY, batch)
  inputs = this.networks()['teacher'].inputs(batch)
  teacher = this.teacher.init(jax.random.key(7), *inputs)
  return state.replace(frozen={'teacher': teacher})


@pytest.mark.parametrize('kind', distillation.KINDS)
@pytest.mark.parametrize('distilled', [False, True])
def test_the_loss_combines_labels_and_teacher(kind, distilled, batch):
  this = make(
    model=Small(distilled=distilled),
    kind=kind,
    weight=0.3,
    temperature=3.0,
    label_smoothing=0.1,
  )
  state = started(this, batch)
  _, scalars = jax.jit(this.train_step)(state, batch, KEY)
  image = batch['image'] / np.float32(127.5) - 1
  student = this.model.apply({'params': state.params}, image)
  teacher = this.teacher.apply(state.frozen['teacher'], image)['logits']
  target = 0.9 * np.eye(CLASSES)[batch['label']] + 0.1 / CLASSES
  heads = ('class_logits', 'distilled_logits') if distilled else ('logits',) * 2
  base = optax.softmax_cross_entropy(student[heads[0]], target).mean()
  imitating = student[heads[1]]
  if kind == 'hard':
    want = optax.softmax_cross_entropy_with_integer_labels(
      imitating, teacher.argmax(axis=-1)
    ).mean()
  else:
    p, q = (np.asarray(jax.nn.softmax(x / 3.0)) for x in (teacher, imitating))
    want = 9.0 * (p * np.log(p / q)).mean()
  np.testing.assert_allclose(scalars['loss'], 0.7 * base + 0.3 * want, rtol=1e-5)
  np.testing.assert_allclose(scalars['loss_teacher'], want, rtol=1e-5)
  np.testing.assert_allclose(scalars['loss_labels'], base, rtol=1e-5)
  best = student['logits'].argmax(-1)
  agree, right = ((best == x).mean() for x in (teacher.argmax(-1), batch['label']))
  np.testing.assert_allclose(scalars['agreement'], agree, rtol=1e-6)
  np.testing.assert_allclose(scalars['top1'], right, rtol=1e-6)
  assert scalars['labelled'] == 1.0


def test_the_teacher_sees_the_images_of_the_student(batch):
  augment = augmentation.Augment(mixup=0.8, partner='reversed')
  this = make(augment=augment)
  state = started(this, batch)
  prepared = jax.jit(this.prepare)(batch, KEY, state.frozen)
  logits = this.teacher.apply(state.frozen['teacher'], prepared['image'])['logits']
  np.testing.assert_allclose(prepared['teacher_logits'], logits, atol=1e-6)
  assert np.abs(prepared['image'] - (batch['image'] / 127.5 - 1)).max() > 0.1
  other = make(teacher_images=images.Normalization(0.4, 0.2))
  (image,) = other.teacher_inputs(batch)
  np.testing.assert_allclose(image, (batch['image'] / 255 - 0.4) / 0.2, atol=1e-5)


@pytest.mark.parametrize('loss_type', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_examples_without_a_label_are_learned_from_the_teacher_alone(
  loss_type, accumulate, batch
):
  """Checks batches in which all parts have labels, and in which only the first has."""
  labelled = np.array([True, False, True, False, True, False, True, False])
  hidden = batch | {'label': np.where(labelled, batch['label'], -1)}
  options = dict(loss_type=loss_type, label_smoothing=0.1, weight=0.4)
  this = make(accumulate=accumulate, **options)
  state = started(this, batch)
  after, scalars = jax.jit(this.train_step)(state, hidden, KEY)
  some = {name: x[labelled] for name, x in batch.items()}
  _, of_some = jax.jit(make(**options).train_step)(state, some, KEY)
  _, of_all = jax.jit(make(**options).train_step)(state, batch, KEY)
  for name in ('loss_labels', 'top1'):
    np.testing.assert_allclose(scalars[name], of_some[name], rtol=1e-5)
  np.testing.assert_allclose(scalars['loss_teacher'], of_all['loss_teacher'], rtol=1e-5)
  assert scalars['labelled'] == 0.5
  once, _ = jax.jit(make(**options).train_step)(state, hidden, KEY)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, once.params
  )


def test_a_batch_without_labels_has_no_loss_of_labels(batch):
  this = make()
  state = started(this, batch)
  hidden = batch | {'label': np.full(8, -1)}
  after, scalars = jax.jit(this.train_step)(state, hidden, KEY)
  assert scalars['loss_labels'] == scalars['labelled'] == 0.0
  assert all(map(np.all, map(np.isfinite, jax.tree.leaves(after.params))))


def test_a_mixed_label_counts_by_its_share(batch):
  """Checks a mix of a labelled and an unlabelled image: the label counts by share."""
  target = np.eye(CLASSES)[batch['label']] * np.array([1, 0, 1, 0, 0, 0, 1, 1])[:, None]
  target = (0.25 * target + 0.75 * target[::-1]).astype(np.float32)
  this = make(weight=0.0)
  state = started(this, batch)
  prepared = jax.jit(this.prepare)(batch, KEY, state.frozen)
  prepared['target'] = distillation.weighted(target)
  loss, _ = jax.jit(this.loss)(state.params, {}, prepared, KEY)
  logits = this.model.apply({'params': state.params}, prepared['image'])['logits']
  want = optax.softmax_cross_entropy(logits, target).sum() / target.sum()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_only_examples_to_train_on_may_have_no_label(batch):
  this = make()
  hidden = batch | {'label': np.array([0, 1, 2, -1, 0, 1, 2, -1])}
  this.check(hidden)
  with pytest.raises(UserError, match='label -2 is out of range: the model has 3'):
    this.check(batch | {'label': np.full(8, -2)})
  with pytest.raises(UserError, match='label -1 is out of range'):
    this.check(hidden | {'mask': np.ones(8, bool)})


def test_the_teacher_is_in_evaluation_mode(batch):
  """Checks that the teacher normalizes by its running statistics, which stay equal."""
  this = make(model=Small(norm=True), teacher=Small(norm=True))
  state = started(this, batch)
  stats = jax.tree.map(lambda x: x + 0.5, state.frozen['teacher']['batch_stats'])
  state.frozen['teacher']['batch_stats'] = stats
  prepared = jax.jit(this.prepare)(batch, KEY, state.frozen)
  logits = this.teacher.apply(state.frozen['teacher'], prepared['image'])['logits']
  np.testing.assert_allclose(prepared['teacher_logits'], logits, atol=1e-6)
  after, _ = jax.jit(this.train_step)(state, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
  assert np.any(after.mutable['batch_stats']['norm']['mean'])  # the student's change


@pytest.mark.parametrize('accumulate', [1, 4])
def test_the_teacher_stays_and_takes_no_gradient(accumulate, batch):
  this = make(accumulate=accumulate)
  state = started(this, batch)
  after, _ = jax.jit(this.train_step)(state, batch, KEY)
  jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
  whole, _ = jax.jit(make().train_step)(state, batch, KEY)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    after.params,
    whole.params,
  )


def test_a_plan_needs_no_teacher(batch):
  shapes = jax.eval_shape(make().init, KEY, batch).frozen['teacher']
  assert shapes['params']['head']['kernel'].shape == (5, CLASSES)
  zeros = jax.jit(make().init)(KEY, batch).frozen
  assert not any(jnp.any(x) for x in jax.tree.leaves(zeros))
  assert task.frozen_shapes(make(), batch).keys() == {'teacher'}


def test_predictions_need_no_teacher(batch):
  this = make()
  state = started(this, batch).replace(frozen=None)
  outputs = jax.jit(this.predict)(state, batch, KEY)
  assert outputs['logits'].shape == (8, CLASSES) and outputs['loss'].shape == (8,)


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(teacher=Small(num_classes=7)), 'the teacher has 7 classes and the model 3'),
    (dict(kind='warm'), "kind='warm' is not one of hard, soft"),
    (dict(weight=1.5), r'weight=1.5 of the teacher is not in \[0, 1\]'),
    (dict(temperature=0.0), 'temperature=0.0 is not above 0'),
    (dict(loss_type='hinge'), "loss_type='hinge' is not one of"),
  ],
)
def test_wrong_fields_are_reported(options, words):
  with pytest.raises(UserError, match=words):
    make(**options)


def test_labels_teach_the_class_head_and_the_teacher_the_other(batch):
  class Heads(nn.Module):
    """Two heads and their mean, as in a DeiT."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, image_BHWC, train=False):
      x_BD = image_BHWC.reshape(len(image_BHWC), -1)
      one_BC = nn.Dense(self.num_classes, name='head')(x_BD)
      other_BC = nn.Dense(self.num_classes, name='head_dist')(x_BD)
      both = {'class_logits': one_BC, 'distilled_logits': other_BC}
      return both | {'logits': (one_BC + other_BC) / 2}

  def gradients(weight):
    this = make(model=Heads(), weight=weight)
    state = started(this, batch)
    prepared = this.prepare(batch, KEY, state.frozen)
    loss = lambda params: this.loss(params, {}, prepared, KEY)[0]  # noqa: E731
    found = jax.jit(jax.grad(loss))(state.params)
    return {name: float(jnp.abs(part['kernel']).max()) for name, part in found.items()}

  assert gradients(0.0)['head'] > 1e-3 and gradients(0.0)['head_dist'] == 0
  assert gradients(1.0)['head_dist'] > 1e-3 and gradients(1.0)['head'] == 0
