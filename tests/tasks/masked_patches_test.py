import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import masked_vit, vit
from big_vision_like.tasks import masked_patches as tasks

SIZES = dict(patch=8, width=16, depth=1, num_heads=2, mlp_dim=16)
KEY = jax.random.key(0)


def make(num_classes=512, **options):
  model = masked_vit.MaskedViT(num_classes=num_classes, **SIZES)
  return tasks.MaskedPatches(model=model, optimizer=optim.adamw(1e-2), **options)


def batch(channels=3, count=4):
  image = np.random.default_rng(0).integers(0, 256, (count, 24, 32, channels))
  return {'image': image.astype(np.uint8)}


def test_mean_colors_keep_three_bits_of_each_channel():
  image = np.zeros((1, 8, 16, 3), np.uint8)
  image[0, :, :8] = 255, 64, 31
  image[0, :4, 8:] = 32  # the mean over the patch is 16
  got = tasks.mean_colors(jnp.asarray(image), (8, 8))
  np.testing.assert_array_equal(got, [[7 * 64 + 2 * 8 + 0, 0]])
  one = tasks.mean_colors(jnp.asarray(image[..., :1]), (8, 8), bits=8)
  np.testing.assert_array_equal(one, [[255, 16]])


def test_shares_of_corrupted_patches():
  hidden, source = map(np.asarray, tasks.corruption(KEY, 400, 50, 0.5, 0.8, 0.1))
  own = np.arange(50)[None]
  assert (hidden.sum(axis=1) == 25).all() and (source == own)[~hidden].all()
  count = hidden.sum()
  masked = (source == masked_vit.MASK)[hidden].sum()
  kept = (source == own)[hidden].sum()
  # Of 10,000 draws; one swapped patch in 50 draws itself. Five standard deviations.
  assert abs(masked / count - 0.8) < 0.02 and abs(kept / count - 0.102) < 0.016
  places = hidden.mean(axis=0)
  assert abs(places - 0.5).max() < 0.13  # all places alike, 400 draws of each


def test_each_patch_gets_the_embedding_of_its_source():
  model = masked_vit.MaskedViT(num_classes=8, **SIZES, posemb='none', pool='gap')
  image = np.random.default_rng(1).uniform(-1, 1, (1, 8, 24, 3)).astype(np.float32)
  variables = model.init(KEY, image)

  def call(source, image=image):
    return model.apply(variables, image, np.int32([source]))

  plain = model.apply(variables, image)
  np.testing.assert_array_equal(call([0, 1, 2])['tokens'], plain['tokens'])
  moved = np.concatenate([image[:, :, 16:], image[:, :, 8:16], image[:, :, :8]], axis=2)
  np.testing.assert_allclose(
    call([2, 1, 0])['tokens'], model.apply(variables, moved)['tokens'], atol=1e-6
  )
  other = call([-1, -1, -1], image=image[:, :, ::-1])
  np.testing.assert_array_equal(call([-1, -1, -1])['logits'], other['logits'])


def test_features_are_those_of_a_vit():
  image = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
  masked = masked_vit.MaskedViT(num_classes=512, **SIZES)
  params = masked.init(KEY, image)['params']
  shared = {name: x for name, x in params.items() if name not in ('head', 'mask')}
  plain = vit.ViT(num_classes=3, **SIZES)
  own = plain.init(KEY, image)['params'] | shared
  np.testing.assert_array_equal(
    plain.apply({'params': own}, image)['features'],
    masked.apply({'params': params}, image)['features'],
  )


def test_a_step_lowers_the_loss_of_the_same_patches_and_counts_them():
  task, data = make(), batch()
  state = task.init(KEY, data)
  step = jax.jit(task.train_step)
  before = task.fill(state, data, KEY)
  assert before['patches'].tolist() == [6] * 4  # of 12
  # The head starts at zero, so all colors are equally likely.
  np.testing.assert_allclose(before['nll'], 6 * np.log(512), rtol=1e-6)
  for _ in range(3):
    state, scalars = step(state, data, KEY)
  assert scalars['loss'] < np.log(512) and 0 <= scalars['accuracy'] <= 1
  after = task.fill(state, data, KEY)
  assert after['nll'].sum() < before['nll'].sum()
  assert (after['right_patches'] <= after['patches']).all()


def test_only_corrupted_patches_count():
  task, data = make(num_classes=8), batch(channels=1)
  state = task.init(KEY, data)
  prepared = task.prepare(data, KEY)
  params = jax.tree.map(lambda x: x + 0.01, state.params)
  loss, _ = task.loss(params, {}, prepared, KEY)
  outputs = task.model.apply(
    {'params': params}, prepared['image'], prepared['source'], train=True
  )
  each = optax.softmax_cross_entropy_with_integer_labels(
    outputs['logits'], prepared['color']
  )
  np.testing.assert_allclose(loss, each[prepared['hidden']].mean(), rtol=1e-6)


def test_masks_of_all_patches_and_of_at_least_one():
  for share, count in ((1.0, 12), (0.001, 1)):
    hidden = make(corrupted=share).prepare(batch(), KEY)['hidden']
    assert (hidden.sum(axis=1) == count).all()


@pytest.mark.parametrize(
  'options, sentence',
  [
    (dict(corrupted=0.0), r'corrupted=0 must be above 0, or there is nothing to pred'),
    (dict(corrupted=1.5), r'corrupted=1.5 must be'),
    (dict(masked=0.8, swapped=0.3), r'masked=0.8 and swapped=0.3 .* at most 1'),
    (dict(bits=9), r'bits=9 must be from 1 to 8'),
  ],
)
def test_bad_shares(options, sentence):
  with pytest.raises(UserError, match=sentence):
    make(**options)


def test_bad_batches():
  with pytest.raises(UserError, match='num_classes=512 must be 8'):
    make().check(batch(channels=1))
  with pytest.raises(UserError, match='float32: colors are predicted of uint8'):
    make().check({'image': batch()['image'].astype(np.float32)})
  with pytest.raises(UserError, match='24x32 do not divide into patches of 7x7'):
    task = make()
    model = masked_vit.MaskedViT(num_classes=512, **{**SIZES, 'patch': 7})
    tasks.MaskedPatches(model=model, optimizer=task.optimizer).check(batch())
