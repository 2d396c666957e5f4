import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes

from big_vision_like.errors import UserError
from big_vision_like.ops import label_maps, resampling

RNG = np.random.default_rng(0)


def test_the_loss_is_a_mean_over_valid_or_over_all_pixels():
  logits = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
  label = RNG.integers(0, 5, (2, 3, 4))
  label[0, 0], label[1, 2, 3] = 255, 255
  want, count = 0.0, 0
  for place in np.ndindex(label.shape):
    if label[place] != 255:
      odds = np.exp(logits[place].astype(np.float64))
      want -= np.log(odds[label[place]] / odds.sum())
      count += 1
  assert count == 19
  loss, over = label_maps.cross_entropy(logits, label)
  np.testing.assert_allclose([loss, over], [want / count, count], rtol=1e-6)
  loss, over = label_maps.cross_entropy(logits, label, 'all')
  np.testing.assert_allclose([loss, over], [want / 24, 24], rtol=1e-6)
  nothing = np.full((2, 3, 4), 255)
  gradient = jax.grad(lambda x: label_maps.cross_entropy(x, nothing)[0])(logits)
  assert label_maps.cross_entropy(logits, nothing)[0] == 0 and not gradient.any()
  right = (logits.argmax(-1) == label)[label != 255].mean()
  np.testing.assert_allclose(label_maps.accuracy(logits, label), right, rtol=1e-6)


def test_confusion_counts_each_pixel_once():
  truth = np.array([[0, 0, 1], [2, 255, 2], [1, 255, 0]], np.uint8)
  found = np.array([[0, 1, 1], [2, 0, 0], [2, 2, 0]], np.int32)
  want = [[2, 1, 0], [0, 1, 1], [1, 0, 1]]
  np.testing.assert_array_equal(label_maps.confusion(truth, found, 3), want)


def test_weights_for_several_sizes_match_those_of_each_size():
  old, new = jnp.array([3, 5]), jnp.array([7, 4])
  with shapes.checked('big_vision_like/ops') as seen:
    weights = label_maps.linear_weights(old, new, 6, 9)
    mirrored = label_maps.linear_weights(old, new, 6, 9, mirrored=True)
  assert 'source_BW' in seen
  for i, (size, new_size) in enumerate([(3, 7), (5, 4)]):
    want = resampling.linear_matrix(size, new_size)
    np.testing.assert_allclose(weights[i, :new_size, :size], want, atol=1e-6)
    np.testing.assert_allclose(mirrored[i, :new_size, :size], want[::-1], atol=1e-6)
    assert not weights[i, :new_size, size:].any()


def test_classes_maximize_mean_probabilities():
  # More rows than a block, and not a multiple of it.
  height, width = label_maps.BLOCK + 5, 6
  parts, total = [], 0.0
  for size in (4, 3), (7, 5):
    scores = RNG.normal(size=(2, *size, 3)).astype(np.float32) * 3
    rows, columns = (
      np.stack([resampling.linear_matrix(old, new)] * 2).astype(np.float32)
      for old, new in zip(size, (height, width), strict=True)
    )
    parts.append(label_maps.Scores(scores, rows, columns))
    full = resampling.resize(scores, (height, width), 'bilinear')
    total += jax.nn.softmax(full)
  one = label_maps.best_classes(parts[:1])
  full = resampling.resize(parts[0].scores_BhwC, (height, width), 'bilinear')
  np.testing.assert_array_equal(one, full.argmax(-1))
  np.testing.assert_array_equal(label_maps.best_classes(parts), total.argmax(-1))


@pytest.mark.parametrize('size', [8, 11, 14, 17, 20])
def test_windows_are_placed_as_in_mmsegmentation(size):
  window, stride = 8, 5
  starts, used = label_maps.window_starts(jnp.array([size]), 20, window, stride)
  count = max(size - window + stride - 1, 0) // stride + 1
  want = [min(i * stride + window, size) - window for i in range(count)]
  assert starts[used].tolist() == want


def test_windows_that_leave_gaps_are_refused():
  with pytest.raises(UserError, match='windows of 8 pixels, 9 apart, do not cover 20'):
    label_maps.window_starts(jnp.array([20]), 20, 8, 9)
