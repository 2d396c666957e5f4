import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import vit
from big_vision_like.ops import augmentation
from big_vision_like.ops.augmentation import Augment
from big_vision_like.tasks import classification

CLASSES = 3


class Small(nn.Module):
  """A minimal model for a task: two dense layers and, on request, a batch norm."""

  num_classes: int = CLASSES
  norm: bool = False
  dropout: float = 0.0

  @nn.compact
  def __call__(self, image, train=False):
    x = image.reshape(image.shape[0], -1)
    if self.norm:
      x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name='norm')(x)
    x = nn.tanh(nn.Dense(5, name='hidden')(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return {'logits': nn.Dense(self.num_classes, name='head')(x)}


def make(**options):
  options = {
    'model': Small(),
    'optimizer': optim.momentum(optax.linear_schedule(0.1, 0.0, 10)),
    **options,
  }
  return classification.Classification(**options)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (8, 2, 2, 1), dtype=np.uint8),
    label=rng.integers(0, CLASSES, 8).astype(np.int32),
  )


def normalized(batch):
  return batch['image'] / np.float32(127.5) - 1


KEY = jax.random.key(0)


def start(task, batch):
  """Returns a state with random parameters; statistics are ones, all else is zero."""
  shapes = jax.eval_shape(task.init, KEY, batch)
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype('f4'), state.params)
  return state.replace(
    params=params,
    ema=state.ema and {**jax.tree.map(jnp.ones_like, state.ema), 'params': params},
    mutable=jax.tree.map(jnp.ones_like, state.mutable),
  )


def stepped(task, batch):
  """Returns the states before and after a step, and its scalars."""
  before = start(task, batch)
  after, scalars = jax.jit(task.train_step)(before, batch, KEY)
  return before, after, scalars


@pytest.fixture(scope='module')
def plain(batch):
  return stepped(make(), batch)


def assert_close(got, want, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol, atol), got, want)


def test_the_state_before_the_first_step(batch):
  task = make(model=Small(norm=True), ema=optim.Ema(decay=0.9))
  state = jax.jit(task.init)(KEY, batch)
  assert state.step == 0 and state.frozen is None
  assert state.params['head']['kernel'].shape == (5, CLASSES)
  variables = {'params': state.params, **state.mutable}
  jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
  np.testing.assert_array_equal(state.mutable['batch_stats']['norm']['var'], 1.0)
  assert jax.eval_shape(make().init, KEY, batch).ema is None


def test_a_step_descends_the_mean_cross_entropy(batch, plain):
  before, after, scalars = plain

  @jax.jit
  @jax.value_and_grad
  def gradient(params):
    logits = Small().apply({'params': params}, normalized(batch))['logits']
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, batch['label'][:, None], axis=1).mean()

  loss, grads = gradient(before.params)
  np.testing.assert_allclose(scalars['loss'], loss, rtol=1e-5)
  assert_close(
    after.params, jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads)
  )
  np.testing.assert_allclose(scalars['gradient_norm'], optax.tree.norm(grads), 1e-5)
  logits = Small().apply({'params': before.params}, normalized(batch))['logits']
  top1 = (logits.argmax(axis=1) == batch['label']).mean()
  np.testing.assert_allclose(scalars['top1'], top1, rtol=1e-6)
  assert (before.step, after.step) == (0, 1)


def test_the_rate_logged_is_the_one_used(batch):
  task, step = make(), jax.jit(make().train_step)
  state = start(task, batch)
  rates = []
  for _ in range(3):
    state, scalars = step(state, batch, KEY)
    rates.append(scalars['rate'])
  np.testing.assert_allclose(rates, [0.1, 0.09, 0.08], rtol=1e-6)


def test_the_same_key_gives_the_same_step(batch):
  task = make(model=Small(dropout=0.5))
  step, state = jax.jit(task.train_step), start(task, batch)
  kernels = [
    step(state, batch, jax.random.key(seed))[0].params['head']['kernel']
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert not np.allclose(kernels[0], kernels[2])


def test_accumulation_changes_nothing(batch, plain):
  _, whole, scalars = plain
  _, parts, part_scalars = stepped(make(accumulate=4), batch)
  assert_close(parts.params, whole.params)
  assert part_scalars.keys() == scalars.keys()
  assert_close(part_scalars, scalars)


def test_accumulated_parts_have_randomness_of_their_own():
  same = dict(image=np.full((8, 2, 2, 1), 200, np.uint8), label=np.zeros(8, np.int32))
  task = make(model=Small(dropout=0.5), accumulate=8)
  _, parts, _ = stepped(task, same)
  # With the dropout of a single part, the mean over parts must differ.
  one = jax.tree.map(lambda x: x[:1], same)
  alone = jax.jit(dataclasses.replace(task, accumulate=1).train_step)
  kernel = parts.params['head']['kernel']
  for key in (KEY, *(jax.random.fold_in(KEY, part) for part in range(8))):
    state, _ = alone(start(task, one), one, key)
    assert not np.allclose(state.params['head']['kernel'], kernel, rtol=1e-5)


def test_accumulation_carries_statistics_from_part_to_part(batch):
  task = make(model=Small(norm=True), accumulate=2)
  _, state, _ = stepped(task, batch)
  image = normalized(batch).reshape(8, -1)
  mean = np.ones(4)
  for part in (image[0::2], image[1::2]):
    mean = 0.5 * mean + 0.5 * part.mean(axis=0)
  got = state.mutable['batch_stats']['norm']['mean']
  np.testing.assert_allclose(got, mean, rtol=1e-5, atol=1e-6)


def test_accumulation_must_divide_the_batch(batch):
  task = make(accumulate=3)
  with pytest.raises(ValueError, match='batch of 8 does not divide into accumulate=3'):
    jax.eval_shape(task.train_step, start(task, batch), batch, KEY)


# Augmentation on the device


def augmented(batch, **options):
  prepared = prepare(make(**split(options)), batch)
  return np.asarray(prepared['image']), np.asarray(prepared['target'])


def split(options):
  smoothing = {k: v for k, v in options.items() if k == 'label_smoothing'}
  rest = {k: v for k, v in options.items() if k not in smoothing}
  return smoothing | {'augment': Augment(**rest)}


def prepare(task, batch):
  return task.prepare(batch, KEY)


def test_nothing_is_augmented_unless_asked(batch):
  image, target = augmented(batch)
  np.testing.assert_allclose(image, normalized(batch), rtol=1e-6)
  np.testing.assert_array_equal(target, np.eye(CLASSES)[batch['label']])


def test_the_loss_uses_augmented_images_and_targets(batch, monkeypatch):
  monkeypatch.setattr(jax.random, 'beta', lambda key, a, b: jnp.float32(0.4))
  options = dict(flip=True, erasing=0.5, cutmix=1.0, label_smoothing=0.1)
  before, _, scalars = stepped(make(**split(options)), batch)
  image, target = augmented(batch, **options)
  logits = Small().apply({'params': before.params}, image)['logits']
  want = -(target * np.asarray(jax.nn.log_softmax(logits))).sum(axis=1).mean()
  np.testing.assert_allclose(scalars['loss'], want, rtol=1e-5)


def test_more_augmentation_leaves_the_randomness_of_mixup():
  # Keys from before tasks could also flip and erase: runs resume with the same draws.
  four, two = (jax.random.key_data(jax.random.split(KEY, n)) for n in (4, 2))
  np.testing.assert_array_equal(four[:2], two)


def test_images_are_flipped_and_erased_one_by_one():
  rng = np.random.default_rng(0)
  big = dict(
    image=rng.integers(0, 256, (40, 6, 7, 3), dtype=np.uint8), label=np.arange(40) % 3
  )
  plain = augmented(big)[0]
  flipped, target = augmented(big, flip=True)
  turned = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
  assert 10 < turned.sum() < 30
  np.testing.assert_array_equal(flipped[~turned], plain[~turned])
  erased, _ = augmented(big, erasing=0.4)
  changed = (erased != plain).any(axis=(1, 2, 3))
  assert 6 < changed.sum() < 26
  np.testing.assert_array_equal(target, np.eye(CLASSES)[big['label']])


def test_erasing_comes_before_mixing(batch, monkeypatch):
  monkeypatch.setattr(jax.random, 'beta', lambda key, a, b: jnp.float32(0.25))
  noise = jnp.arange(8.0).reshape(8, 1, 1, 1) * jnp.ones((8, 2, 2, 1))
  erase = lambda key, image, probability: noise  # noqa: E731
  monkeypatch.setattr(augmentation.erasing, 'erase', erase)
  options = dict(mixup=0.8, erasing=0.25, label_smoothing=0.1)
  image, target = augmented(batch, partner='reversed', **options)
  np.testing.assert_allclose(image, 0.25 * noise + 0.75 * noise[::-1], rtol=1e-6)
  smooth = 0.9 * np.eye(CLASSES)[batch['label']] + 0.1 / CLASSES
  np.testing.assert_allclose(target, 0.25 * smooth + 0.75 * smooth[::-1], rtol=1e-5)


def test_one_of_mixup_and_cutmix_or_either(batch, monkeypatch):
  called = []

  def recording(name):
    def mix(key, image, target, *rest):
      called.append((name, *rest))
      return image, target

    return mix

  for name in ('mixup', 'cutmix', 'mixup_or_cutmix'):
    monkeypatch.setattr(augmentation.mixing, name, recording(name))
  for options in (dict(mixup=0.8), dict(cutmix=1.0), dict(mixup=0.8, cutmix=1.0)):
    augmented(batch, switch=0.4, partner='reversed', **options)
  assert called == [
    ('mixup', 0.8, 'reversed'),
    ('cutmix', 1.0, 'reversed'),
    ('mixup_or_cutmix', 0.8, 1.0, 0.4, 'reversed'),
  ]


# Prediction


def test_predict(batch):
  task = make(model=Small(dropout=0.5))
  _, state, _ = stepped(task, batch)
  outputs = task.predict(state, batch, KEY)
  logits = task.model.apply({'params': state.params}, normalized(batch))['logits']
  np.testing.assert_allclose(outputs['logits'], logits, rtol=1e-6)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
  np.testing.assert_allclose(outputs['loss'], losses, rtol=1e-5)
  unlabelled = task.predict(state, dict(image=batch['image']), KEY)
  assert unlabelled.keys() == {'logits'}


def test_predict_uses_the_running_average(batch):
  task = make(ema=optim.Ema(decay=0.9, warmup=True))
  before, state, _ = stepped(task, batch)
  assert_close(before.ema, {'params': before.params})
  # The first step's decay is (1 + 0) / (10 + 0).
  want = jax.tree.map(lambda a, p: 0.1 * a + 0.9 * p, before.params, state.params)
  assert_close(state.ema, {'params': want})
  got = task.predict(state, batch, KEY)['logits']
  averaged, last = (
    task.model.apply({'params': params}, normalized(batch))['logits']
    for params in (state.ema['params'], state.params)
  )
  np.testing.assert_allclose(got, averaged, rtol=1e-6)
  assert not np.allclose(got, last, rtol=1e-6)


def test_predict_uses_statistics_and_leaves_them(batch):
  task = make(model=Small(norm=True))
  before, state, _ = stepped(task, batch)
  got = task.predict(state, batch, KEY)['logits']
  variables = {'params': state.params, **state.mutable}
  want = task.model.apply(variables, normalized(batch))['logits']
  np.testing.assert_allclose(got, want, rtol=1e-6)
  stale = {'params': state.params, **before.mutable}
  assert not np.allclose(got, task.model.apply(stale, normalized(batch))['logits'])


def test_sigmoid_with_head_bias_starts_from_rare_classes(batch):
  model = vit.ViT(
    num_classes=50, patch=1, width=4, depth=0, num_heads=1, mlp_dim=4, head_bias=-10.0
  )
  task = make(model=model, loss_type='sigmoid')

  @jax.jit
  def losses():
    state = task.init(KEY, batch)
    loss, _ = task.loss(state.params, {}, task.prepare(batch, KEY), KEY)
    return loss, task.predict(state, batch, KEY)['loss']

  want = 49 * np.log1p(np.exp(-10.0)) + np.log1p(np.exp(10.0))
  loss, loss_B = losses()
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(loss_B, np.full(8, want), rtol=1e-5)


# Named inputs


class Graph(nn.Module):
  """Mean of the existing nodes, after one exchange along the edges."""

  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, nodes_BNF, edges_BNN, mask_BN, train=False):
    x_BNF = nodes_BNF + edges_BNN.astype(jnp.float32) @ nodes_BNF
    x_BNF = jnp.where(mask_BN[..., None], nn.Dense(6, name='embed')(x_BNF), 0.0)
    x_BF = x_BNF.sum(axis=1) / mask_BN.sum(axis=1, keepdims=True)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BF)}


class Video(nn.Module):
  """Mean of the frames, each processed by `Small`."""

  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, video_BTHWC, train=False):
    return Small(self.num_classes, name='small')(video_BTHWC.mean(axis=1), train)


class Tokens(nn.Module):
  """Mean of embeddings."""

  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, ids_BT, train=False):
    x_BTD = nn.Embed(9, 6, name='embed')(ids_BT)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BTD.mean(axis=1))}


NAMED = {
  'graph': (Graph(), ('nodes', 'edges', 'mask')),
  'video': (Video(), ('video',)),
  'tokens': (Tokens(), ('ids',)),
}


@pytest.mark.parametrize('name', NAMED)
def test_any_named_inputs_are_classified(name):
  rng = np.random.default_rng(0)
  arrays = dict(
    nodes=rng.normal(size=(8, 5, 4)).astype(np.float32),
    edges=rng.integers(0, 2, (8, 5, 5)).astype(np.int32),
    mask=np.arange(5)[None] < rng.integers(1, 6, (8, 1)),
    video=rng.integers(0, 256, (8, 3, 2, 2, 1), dtype=np.uint8),
    ids=rng.integers(0, 9, (8, 7)).astype(np.int32),
  )
  model, inputs = NAMED[name]
  batch = {k: arrays[k] for k in inputs} | {'label': rng.integers(0, CLASSES, 8)}
  augment = Augment(flip=True) if name == 'video' else None
  task = make(model=model, inputs=inputs, augment=augment, accumulate=2)
  task.check(batch)
  _, state, scalars = stepped(task, batch)
  assert np.isfinite(scalars['loss']) and int(state.step) == 1
  assert jax.jit(task.predict)(state, batch, KEY)['logits'].shape == (8, CLASSES)
  given = task.model_inputs(batch)
  for key, x in zip(inputs, given, strict=True):
    want = batch[key] / np.float32(127.5) - 1 if key == 'video' else batch[key]
    np.testing.assert_allclose(x, want, rtol=1e-6)
  del batch[inputs[-1]]
  with pytest.raises(UserError, match=f'no {inputs[-1]!r}, which task.inputs names'):
    task.check(batch)


def test_inputs_are_a_list_of_names():
  with pytest.raises(UserError, match="inputs='image' must list names of arrays"):
    make(inputs='image')


# Wrong input


@pytest.mark.parametrize('label', [CLASSES, -1])
def test_a_label_out_of_range_is_named_with_the_remedy(label, batch):
  labels = batch['label'].copy()
  labels[5] = label
  bad = batch | dict(label=labels, id=np.arange(100, 108))
  with pytest.raises(UserError) as error:
    make().check(bad)
  assert str(error.value) == (
    f'label {label} of the example with id 105 is out of range: the model has 3'
    ' classes (0 to 2); set task.model.num_classes to match the data.'
  )
  del bad['id']
  with pytest.raises(UserError, match=rf'^label {label} is out of range'):
    make().check(bad)


def test_an_unknown_partner_is_named():
  with pytest.raises(UserError, match="partner='any' is not one of rolled, reversed"):
    Augment(partner='any')


@pytest.mark.parametrize('options', [dict(erasing=1.5), dict(switch=-0.1)])
def test_probabilities_are_checked(options):
  with pytest.raises(UserError, match=r'=\S+ is not a probability, 0 to 1'):
    Augment(**options)


def test_an_unknown_loss_is_named():
  with pytest.raises(UserError, match="loss_type='hinge' is not one of softmax, sigm"):
    make(loss_type='hinge')
  with pytest.raises(UserError, match='makes all of them so: set label_smoothing=0.0'):
    make(loss_type='binary', label_smoothing=0.1)
