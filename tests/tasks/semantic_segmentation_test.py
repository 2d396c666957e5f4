import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops import resampling
from big_vision_like.tasks import semantic_segmentation as tasks

CLASSES = 5
KEY = jax.random.key(0)


class Pixels(nn.Module):
  """A minimal model: a strided convolution to logits, and one to auxiliary logits."""

  num_classes: int = CLASSES
  auxiliary: bool = True

  @nn.compact
  def __call__(self, image, train=False):
    def logits(name, stride):
      return nn.Conv(self.num_classes, (3, 3), (stride, stride), name=name)(image)

    outputs = {'logits': logits('conv', 2)}
    if self.auxiliary:
      outputs['auxiliary_logits'] = logits('auxiliary', 4)
    return outputs


def make(**options):
  return tasks.Segmentation(
    **{'model': Pixels(), 'optimizer': optim.momentum(0.1), **options}
  )


def batch(count=3, height=8, width=12):
  rng = np.random.default_rng(count)
  label = rng.integers(0, CLASSES, (count, height, width)).astype(np.uint8)
  label[:, 0] = 255
  image = rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)
  return {'image': image, 'label_map': label}


def start(task, examples):
  task.check(examples)
  return jax.jit(task.init)(KEY, examples)


def test_the_loss_has_both_heads():
  examples = batch()
  task = make(auxiliary_weight=0.4)
  state = start(task, examples)
  with shapes.checked('big_vision_like/tasks/semantic', 'big_vision_like/ops/label'):
    _, scalars = jax.jit(task.train_step)(state, examples, KEY)
  total = scalars['loss_main'] + 0.4 * scalars['loss_auxiliary']
  np.testing.assert_allclose(scalars['loss'], total, rtol=1e-6)
  alone = make(model=Pixels(auxiliary=False))
  _, less = jax.jit(alone.train_step)(start(alone, examples), examples, KEY)
  assert 'loss_auxiliary' not in less and 0 <= less['aAcc'] <= 1


def test_parts_of_a_batch_are_weighted_by_their_pixels():
  examples = batch(4)
  examples['label_map'][1, 3:] = 255
  whole, parts = make(), make(accumulate=2)
  state = start(whole, examples)
  one, _ = jax.jit(whole.train_step)(state, examples, KEY)
  two, _ = jax.jit(parts.train_step)(state, examples, KEY)
  for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_padding_changes_nothing():
  examples = batch()
  task = make()
  state = start(task, examples)
  rng = np.random.default_rng(9)
  padded = {
    'image': rng.integers(0, 256, (3, 16, 24, 3)).astype(np.uint8),
    'label_map': np.full((3, 16, 24), 255, np.uint8),
    'size': np.array([[8, 12]] * 3, np.int32),
  }
  padded['image'][:, :8, :12] = examples['image']
  padded['label_map'][:, :8, :12] = examples['label_map']
  inner = task.model_inputs(padded)[0]
  assert not inner[:, 8:].any() and not inner[:, :, 12:].any()
  np.testing.assert_array_equal(inner[:, :8, :12], task.model_inputs(examples)[0])
  with shapes.checked('big_vision_like/tasks/semantic'):
    found = task.predict(state, padded, KEY)['found_map']
  want = task.predict(state, examples, KEY)['found_map']
  # The last cells of a map depend on the pixels after them.
  np.testing.assert_array_equal(found[:, :6, :10], want[:, :6, :10])


def predicted(task, state, image, size, mirrored=False):
  """Returns logits at the original size, one image at a time, as in mmsegmentation."""
  (x,) = task.model_inputs({'image': image[None]})
  x = x[:, :, ::-1] if mirrored else x
  logits = task.model.apply(state.variables, x)['logits']
  logits = resampling.resize(logits, image.shape[:2], 'bilinear')
  logits = resampling.resize(logits, size, 'bilinear')[0]
  return logits[:, ::-1] if mirrored else logits


def pictures(sizes, scale, shape):
  """Returns images of several sizes in one array, and their sizes."""
  rng = np.random.default_rng(3)
  image = np.zeros((len(sizes), *shape, 3), np.uint8)
  for i, (height, width) in enumerate(sizes):
    image[i, :height, :width] = rng.integers(0, 256, (height, width, 3))
  return {
    f'image{scale}': image,
    f'size{scale}': np.array(sizes, np.int32),
  }


class Points(Pixels):
  """A model whose logits at a pixel depend on this pixel alone."""

  @nn.compact
  def __call__(self, image, train=False):
    return {'logits': nn.Conv(self.num_classes, (1, 1), name='conv')(image)}


def test_scales_and_mirrored_images_are_averaged_at_the_original_size():
  task = make(model=Points())
  originals, sizes, small = [(9, 14), (12, 7)], [(8, 12), (12, 6)], [(4, 6), (6, 3)]
  examples = pictures(sizes, '', (12, 12)) | pictures(small, '_0.5', (6, 6))
  examples |= {
    'original_size': np.array(originals, np.int32),
    'truth_map': np.zeros((2, 15, 16), np.uint8),
  }
  state = start(
    task, pictures(sizes, '', (12, 12)) | {'label_map': np.zeros((2, 12, 12))}
  )
  found = task.predict(state, examples, KEY, scales=(0.5, 1.0), flip=True)['found_map']
  assert found.shape == (2, 15, 16) and found.dtype == jnp.int32
  for i, size in enumerate(originals):
    total = 0.0
    for scale, own in ('', sizes[i]), ('_0.5', small[i]):
      image = examples[f'image{scale}'][i, : own[0], : own[1]]
      for mirrored in False, True:
        logits = predicted(task, state, image, size, mirrored)
        total += jax.nn.softmax(logits)
    np.testing.assert_array_equal(
      found[i, : size[0], : size[1]], total.argmax(-1), err_msg=str(size)
    )
  with pytest.raises(UserError, match='no `image_2`, which scales=2 needs'):
    task.predict(state, examples, KEY, scales=(1.0, 2.0))


def test_windows_are_averaged_where_they_overlap():
  task = make()
  sizes = [(8, 20), (14, 17)]
  examples = pictures(sizes, '', (16, 20))
  state = start(task, examples | {'label_map': np.zeros((2, 16, 20))})
  with shapes.checked('big_vision_like/tasks/semantic', 'big_vision_like/ops/label'):
    found = task.predict(state, examples, KEY, window=8, stride=5)['found_map']
  for i, (height, width) in enumerate(sizes):
    (image,) = task.model_inputs({'image': examples['image'][i : i + 1]})
    total, count = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    for row in range(max(height - 8 + 4, 0) // 5 + 1):
      for column in range(max(width - 8 + 4, 0) // 5 + 1):
        top, left = min(row * 5, height - 8), min(column * 5, width - 8)
        part = slice(top, top + 8), slice(left, left + 8)
        logits = task.model.apply(state.variables, image[:, *part])['logits']
        total[part] += resampling.resize(logits, (8, 8), 'bilinear')[0]
        count[part] += 1
    want = (total / count).argmax(-1)
    np.testing.assert_array_equal(found[i, :height, :width], want)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda x: x.pop('label_map'), 'batches have no `label_map`.*they have image'),
    (
      lambda x: x.update(label_map=x['label_map'][:, :5]),
      r'`label_map` is \[3, 5, 12\], but with images \[3, 8, 12, 3\] it must be',
    ),
    (
      lambda x: x['label_map'].__setitem__((1, 2, 3), 7),
      'row 1 has label 7 at row 2, column 3, .* 5 classes .0 to 4.*num_classes',
    ),
  ],
)
def test_bad_batches_give_one_sentence(change, words):
  examples = batch()
  change(examples)
  with pytest.raises(UserError, match=words):
    make().check(examples)


def test_an_unknown_average_is_refused():
  with pytest.raises(UserError, match="average='some' is not one of valid, all"):
    make(average='some')
