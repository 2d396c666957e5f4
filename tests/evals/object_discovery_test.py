import functools

import found
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from hypothesis import strategies as st
from scipy import optimize
from sklearn import metrics

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import object_discovery

ITERATIONS, SLOTS, SIZE = 2, 4, (6, 5)


pairs = functools.partial(zip, strict=True)


def overlaps(true, predicted, num_slots=None):
  num_slots = num_slots or int(np.max(predicted)) + 1
  return jax.jit(object_discovery.overlaps, static_argnums=2)(
    np.uint8(true), np.int32(predicted), num_slots
  )


def ari(true, predicted):
  return np.asarray(
    jax.jit(object_discovery.adjusted_rand_index)(overlaps(true, predicted))
  )


def foreground_ari(true, predicted):
  counts = overlaps(true, predicted)[..., 1:]
  return np.asarray(jax.jit(object_discovery.adjusted_rand_index)(counts))


def iou(true, predicted):
  return np.asarray(jax.jit(object_discovery.mean_iou)(overlaps(true, predicted)))


def blobs(seed, size, entities, slots, noise):
  """Returns bands of entities, and slots that mostly agree with them."""
  rng = np.random.default_rng(seed)
  true = np.sort(rng.choice(entities, size, p=rng.dirichlet(np.ones(entities))), axis=1)
  predicted = rng.permutation(max(slots, entities))[true] % slots
  wrong = rng.random(size) < noise
  return true, np.where(wrong, rng.integers(slots, size=size), predicted)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 9999),
  entities=st.integers(1, 7),
  slots=st.integers(1, 9),
  noise=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
)
def test_ari_matches_sklearn(seed, entities, slots, noise):
  true, predicted = blobs(seed, (3, 40), entities, slots, noise)
  expected = [metrics.adjusted_rand_score(*pair) for pair in pairs(true, predicted)]
  np.testing.assert_allclose(ari(true, predicted), expected, atol=1e-6)
  expected = [
    metrics.adjusted_rand_score(t[t > 0], p[t > 0]) for t, p in pairs(true, predicted)
  ]
  np.testing.assert_allclose(foreground_ari(true, predicted), expected, atol=1e-6)


@pytest.mark.parametrize('noise', [0.0, 1e-4, 0.01, 0.3, 1.0])
@pytest.mark.parametrize('entities, slots', [(2, 2), (11, 7), (11, 11), (30, 40)])
def test_big_images_lose_nothing_in_float32(noise, entities, slots):
  assert not jax.config.jax_enable_x64
  true, predicted = blobs(0, (2, 240 * 320), entities, slots, noise)
  true[1] = np.arange(240 * 320) < 5  # five pixels, hardly anything to find
  expected = [metrics.adjusted_rand_score(*pair) for pair in pairs(true, predicted)]
  np.testing.assert_allclose(ari(true, predicted), expected, atol=3e-6)


def test_single_pixels_are_distinguished():
  assert ari([[1, 2, 3, 4]], [[3, 0, 2, 1]]) == 1.0
  assert ari([[1, 2, 3, 4]], [[0, 0, 0, 0]]) == 0.0


@pytest.mark.parametrize(
  'true, predicted, whole, foreground',
  [
    ([0, 0, 0, 0], [1, 1, 1, 1], 1.0, 1.0),  # no object: nothing to split
    ([0, 0, 0, 0], [1, 1, 2, 1], 0.0, 1.0),
    ([0, 0, 0, 1], [1, 2, 1, 2], 0.0, 1.0),  # a single pixel
    ([0, 0, 1, 1], [0, 1, 2, 2], None, 1.0),  # one object, found whole
    ([0, 0, 1, 1], [0, 0, 1, 2], None, 0.0),  # found in pieces
    ([1, 1, 1, 1], [0, 0, 0, 0], 1.0, 1.0),
  ],
)
def test_where_there_is_little_to_find(true, predicted, whole, foreground):
  if whole is not None:
    np.testing.assert_allclose(ari([true], [predicted]), whole, atol=1e-6)
  assert foreground_ari([true], [predicted]) == foreground


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(seed=st.integers(0, 9999))
def test_names_of_slots_and_order_of_pixels_do_not_matter(seed):
  true, predicted = blobs(seed, (2, 30), 4, 5, 0.2)
  rng = np.random.default_rng(seed)
  order, names = rng.permutation(30), rng.permutation(5)
  predicted[:, 0] = 4  # keeps the number of slots equal
  other = true[:, order], names[predicted][:, order]
  for measure in (ari, foreground_ari, iou):
    np.testing.assert_allclose(measure(true, predicted), measure(*other), atol=1e-6)


@pytest.mark.parametrize('entities, slots', [(3, 5), (5, 3), (1, 4), (6, 1)])
def test_iou_uses_the_best_matching(entities, slots):
  true, predicted = blobs(1, (6, 50), entities, slots, 0.3)
  expected = []
  for t, p in pairs(true, predicted):
    present = np.unique(t)
    table = np.array(
      [
        [
          np.sum((t == k) & (p == s)) / max(np.sum((t == k) | (p == s)), 1)
          for k in present
        ]
        for s in range(slots)
      ]
    )
    expected.append(table[optimize.linear_sum_assignment(-table)].sum() / len(present))
  np.testing.assert_allclose(iou(true, predicted), expected, rtol=1e-5)


def test_background_that_joins_an_object_shows_in_iou_alone():
  true = np.array([[0, 0, 0, 0, 1, 1, 2, 2]])
  swallowed = np.array([[1, 1, 1, 1, 1, 1, 2, 2]])
  assert foreground_ari(true, swallowed) == 1.0
  np.testing.assert_allclose(iou(true, swallowed), (4 / 6 + 1) / 3, rtol=1e-6)


def test_array_names_match_their_axes():
  rng = np.random.default_rng(0)
  outputs = {
    'masks': rng.random((3, SLOTS, *SIZE)),
    'iterate_masks': rng.random((3, ITERATIONS, SLOTS, *SIZE)),
    'mse': np.zeros(3),
  }
  true = np.zeros((3, *SIZE), np.uint8)
  with shapes.checked('big_vision_like/evals') as seen:
    jax.eval_shape(object_discovery.measures, outputs, true)
  assert {'counts_BSK', 'joint_BN', 'entity_BS1', 'iterates_TBHW'} <= seen.keys()


NUM_OBJECTS = [2, 0, 1, 3, 2, 2, 1]


def source():
  """Returns images of NUM_OBJECTS objects; slots find them as well as `found` does."""
  rng = np.random.default_rng(0)
  examples = []
  for count in NUM_OBJECTS:
    true = np.zeros(SIZE, np.uint8)
    true.flat[: 5 * count] = 1 + np.arange(5 * count) // 5
    found = np.where(rng.random(SIZE) < 0.2, rng.integers(SLOTS, size=SIZE), true)
    examples.append(
      {
        'image': rng.uniform(-1, 1, (*SIZE, 3)).astype(np.float32),
        'segmentation': true,
        'found': found.astype(np.int32),
      }
    )
  return examples


def predict(state, batch, key, num_slots=SLOTS, iterations=ITERATIONS):
  """Finds `found` in the last iteration, and half of it before; `mse` is the noise."""
  batch_size = len(batch['image'])
  found = jnp.minimum(batch['found'], num_slots - 1)
  masks = jax.nn.one_hot(found, num_slots, axis=1)
  halves = jnp.where(jnp.arange(SIZE[0])[:, None] < 3, found, 0)
  iterates = [jax.nn.one_hot(halves, num_slots, axis=1)] * (iterations - 1) + [masks]
  contents = jnp.broadcast_to(
    batch['image'][:, None, None], (batch_size, iterations, num_slots, *SIZE, 3)
  )
  return {
    'image': batch['image'],
    'masks': masks,
    'iterate_masks': jnp.stack(iterates, axis=1),
    'iterate_contents': contents,
    'iterate_reconstructions': contents[:, :, 0],
    'mse': state + jax.random.normal(key, (batch_size,)),
  }


def evaluate(batch_size=7, devices=1, examples=None, **options):
  examples = source() if examples is None else examples
  data = pipeline.EvalInput(source=examples, batch_size=batch_size)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  evaluator = object_discovery.Segmentation(data=data, **options)
  return found.run(evaluator, predict, jnp.float32(3.0), mesh)


def scalars(results):
  return {k: v for k, v in results.items() if k not in ('slots', 'mse')}


@pytest.fixture(scope='module')
def whole():
  return evaluate()


def test_images_with_objects_count_once(whole):
  counted = [e for e, n in pairs(source(), NUM_OBJECTS) if n]
  true, found = (
    np.stack([e[k] for e in counted]).reshape(6, -1) for k in ('segmentation', 'found')
  )
  assert scalars(whole) == {
    'ari_foreground': pytest.approx(foreground_ari(true, found).mean(), rel=1e-5),
    'ari': pytest.approx(ari(true, found).mean(), rel=1e-5),
    'miou': pytest.approx(iou(true, found).mean(), rel=1e-5),
    'ari_foreground_1': pytest.approx(
      foreground_ari(true, found * (np.arange(30) < 15)).mean(), rel=1e-5
    ),
    'ari_foreground_2': pytest.approx(foreground_ari(true, found).mean(), rel=1e-5),
  }


@pytest.mark.parametrize('batch_size, devices', [(3, 1), (16, 1), (8, 8)])
def test_neither_batches_nor_devices_matter(whole, batch_size, devices):
  got = evaluate(batch_size, devices)
  assert scalars(got) == pytest.approx(scalars(whole), rel=1e-5)
  # The first batch of 3 has two images that count.
  np.testing.assert_array_equal(got['slots'], whole['slots'])
  if batch_size > 7:  # the noise is the same if all images are in the first batch
    assert got['mse'] == pytest.approx(whole['mse'], rel=1e-5)


def test_images_can_be_chosen_by_the_number_of_objects():
  got = evaluate(3, objects=(2, 3))
  chosen = [e for e, n in pairs(source(), NUM_OBJECTS) if n in (2, 3)]
  assert scalars(got) == pytest.approx(scalars(evaluate(4, examples=chosen)), rel=1e-5)
  assert len(got['slots']) == 4
  with pytest.raises(UserError, match='no image shows 4 to 9 objects'):
    evaluate(objects=(4, 9))


def test_slots_and_iterations_can_be_others():
  got = evaluate(predict_args=dict(num_slots=2, iterations=3))
  assert {'ari_foreground_1', 'ari_foreground_3'} <= got.keys()
  assert got['miou'] < evaluate(pictures=0)['miou']


def test_pictures_show_the_first_images_that_count(whole):
  assert whole['slots'].shape[0] == 4 and whole['slots'].dtype == np.uint8
  few = evaluate(2, pictures=2)['slots']
  np.testing.assert_array_equal(few, whole['slots'][:2])
  assert 'slots' not in evaluate(pictures=0)
  more = evaluate(2, pictures=99)['slots']
  assert len(more) == len({sheet.tobytes() for sheet in more}) == 6


@pytest.mark.parametrize(
  'segmentation_of',
  [lambda s: s[:3], lambda s: s[..., None], lambda s: s.astype(np.int32)],
)
def test_a_segmentation_that_does_not_fit_is_reported(segmentation_of):
  examples = [
    e | {'segmentation': segmentation_of(e['segmentation'])} for e in source()
  ]
  with pytest.raises(UserError, match='crop and resize it like the image'):
    evaluate(examples=examples)
