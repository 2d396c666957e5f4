import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from scipy import optimize

from big_vision_like import optim
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import boxes, sharding
from big_vision_like.tasks import set_detection

QUERIES, CLASSES, LAYERS, ROWS = 7, 5, 2, 4
KEY = jax.random.key(0)
MEAN = np.float32([0.485, 0.456, 0.406])
STD = np.float32([0.229, 0.224, 0.225])


class Queries(nn.Module):
  """A minimal model for the task: queries that see the mean colour of the picture."""

  num_queries: int = QUERIES
  num_classes: int = CLASSES
  dropout: float = 0.0
  masks: bool = False

  @nn.compact
  def __call__(self, image, size=None, train=False):
    area_B = jnp.float32(size[:, 0] * size[:, 1])
    colour_BC = image.sum(axis=(1, 2)) / area_B[:, None]
    colour_B1D = nn.Dense(8, name='colour')(colour_BC)[:, None]
    query_QD = self.param('query', nn.initializers.normal(1.0), (self.num_queries, 8))
    x_BQD = nn.Dropout(self.dropout, deterministic=not train)(
      nn.tanh(query_QD[None] + colour_B1D)
    )
    classes = nn.Dense(self.num_classes + 1, name='class')
    sides = nn.Dense(4, name='box')
    hidden_LBQD = jnp.stack([x_BQD, nn.tanh(nn.Dense(8, name='layer')(x_BQD))])
    logits, found = classes(hidden_LBQD), nn.sigmoid(sides(hidden_LBQD))
    outputs = {
      'logits': logits[-1],
      'boxes': found[-1],
      'layer_logits': logits,
      'layer_boxes': found,
      'features': hidden_LBQD[-1],
    }
    if self.masks:
      height, width = (side // 4 for side in image.shape[1:3])
      flat = nn.Dense(height * width, name='masks')(hidden_LBQD[-1])
      outputs['mask_logits'] = flat.reshape(*flat.shape[:2], height, width)
    return outputs


def make(**options):
  options = {
    'model': Queries(),
    'optimizer': optim.momentum(0.1),
    **options,
  }
  return set_detection.Detection(**options)


@pytest.fixture(scope='module')
def batch():
  """Returns pictures of different sizes; the first has no objects, the second most."""
  rng = np.random.default_rng(0)
  size = rng.integers(10, [17, 21], (8, 2)).astype(np.int32)
  sides = np.sort(rng.uniform(0, 1, (8, ROWS, 2, 2)), axis=2) + [[0], [1e-2]]
  limits = np.tile(size[:, ::-1], (1, 2))[:, None]
  count = np.concatenate([[0, ROWS], rng.integers(0, ROWS + 1, 6)])
  return {
    'image': rng.integers(0, 256, (8, 16, 20, 3), dtype=np.uint8),
    'size': size,
    'boxes': np.float32(sides.reshape(8, ROWS, 4) / 1.01 * limits),
    'box_labels': rng.integers(0, CLASSES, (8, ROWS)).astype(np.int32),
    'box_mask': np.arange(ROWS) < count[:, None],
    'id': np.arange(100, 108),
  }


@pytest.fixture(scope='module')
def task():
  return make()


@pytest.fixture(scope='module')
def state(task, batch):
  return jax.jit(task.init)(KEY, batch)


@pytest.fixture(scope='module')
def step(task):
  return jax.jit(task.train_step)


@pytest.fixture(scope='module')
def outputs(batch, state):
  """Returns the outputs of the model for the prepared batch."""
  apply = jax.jit(Queries().apply)
  return apply({'params': state.params}, normalised(batch), batch['size'])


@pytest.fixture(scope='module')
def loss(task, state):
  """Returns a function of a batch: loss and scalars with the parameters of `state`."""

  @jax.jit
  def of(batch):
    prepared = task.prepare(batch, KEY)
    value, (_, scalars) = task.loss(state.params, {}, prepared, KEY)
    return value, scalars

  return of


def corners(box):
  centre, size = box[..., :2], box[..., 2:]
  return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def expected_giou(a, b):
  """Returns the generalized IoU of one pair of cxcywh boxes, by the definition."""
  a, b = corners(a), corners(b)
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  both = max(sides[0], 0) * max(sides[1], 0)
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
  hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
  return both / union - (hull - union) / hull


def expected_layer(logits, found, labels, truth):
  """Returns the losses and pairs of one layer by numpy and scipy, image by image."""
  logits, found = np.float64(logits), np.float64(found)
  p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  queries, none = p.shape[1], p.shape[2] - 1
  weighted, weights, l1, giou, matches = 0.0, 0.0, 0.0, 0.0, []
  for i, (label, box) in enumerate(zip(labels, truth, strict=True)):
    cost = np.zeros((queries, len(label)))
    for q, k in np.ndindex(cost.shape):
      cost[q, k] = 5 * np.abs(found[i, q] - box[k]).sum()
      cost[q, k] -= p[i, q, label[k]] + 2 * expected_giou(found[i, q], box[k])
    rows, columns = optimize.linear_sum_assignment(cost)
    matches.append((rows, columns))
    target = np.full(queries, none)
    target[rows] = label[columns]
    w = np.where(target == none, 0.1, 1.0)
    weighted -= (w * np.log(p[i, np.arange(queries), target])).sum()
    weights += w.sum()
    for q, k in zip(rows, columns, strict=True):
      l1 += np.abs(found[i, q] - box[k]).sum()
      giou += 1 - expected_giou(found[i, q], box[k])
  count = max(sum(map(len, labels)), 1)
  return {'class': weighted / weights, 'l1': l1 / count, 'giou': giou / count}, matches


def objects_of(batch):
  """Returns labels and boxes, relative to the valid picture, of each image."""
  limits = np.float64(np.tile(batch['size'][:, ::-1], (1, 2)))[:, None]
  relative = batch['boxes'] / limits
  low, high = relative[..., :2], relative[..., 2:]
  sides = np.concatenate([(low + high) / 2, high - low], axis=-1)
  valid = batch['box_mask']
  labels = [row[v] for row, v in zip(batch['box_labels'], valid, strict=True)]
  return labels, [row[v] for row, v in zip(sides, valid, strict=True)]


def normalised(batch):
  image = (batch['image'] / np.float32(255) - MEAN) / STD
  for picture, (height, width) in zip(image, batch['size'], strict=True):
    picture[height:], picture[:, width:] = 0, 0
  return image


def test_matching_costs_match_scipy():
  """Checks 1000 images: boxes and classes near objects, duplicates, and pure noise."""
  rng = np.random.default_rng(0)
  images, queries, rows = 1000, 20, 8
  truth = np.float32(rng.uniform(0.1, 0.9, (images, rows, 4)))
  labels = rng.integers(0, 3, (images, rows))
  near = truth[:, rng.integers(0, rows, queries)]
  near += rng.normal(size=near.shape) * 10.0 ** rng.uniform(-6, 0, (images, 1, 1))
  found = np.float32(np.clip(near, 0.01, 0.99))
  found[:100] = found[:100, :1]  # all queries are equal
  logits = np.float32(rng.normal(size=(images, queries, 4)) * 3)
  valid = np.arange(rows) < rng.integers(0, rows + 1, (images, 1))
  objects = set_detection.Objects(truth, labels, valid)
  costs = set_detection.COSTS
  query_BK = jax.jit(set_detection.match_layers)(
    logits[None], found[None], objects, costs
  )
  cost_BKQ = jax.jit(set_detection.pair_costs)(logits, found, objects, costs)
  query_BK, cost_BKQ = np.asarray(query_BK[0]), np.float64(cost_BKQ)
  for cost_KQ, query_K, valid_K in zip(cost_BKQ, query_BK, valid, strict=True):
    cost_KQ, query_K = cost_KQ[valid_K], query_K[valid_K]
    least = cost_KQ[optimize.linear_sum_assignment(cost_KQ)].sum()
    assert len(set(query_K)) == len(query_K)
    got = cost_KQ[np.arange(len(query_K)), query_K].sum()
    np.testing.assert_allclose(got, least, atol=1e-5)


def test_loss_matches_numpy_and_scipy(batch, outputs, loss):
  total, earlier = 0.0, 0.0
  value, scalars = loss(batch)
  for layer in range(LAYERS):
    found, _ = expected_layer(
      outputs['layer_logits'][layer], outputs['layer_boxes'][layer], *objects_of(batch)
    )
    earlier = total
    total += found['class'] + 5 * found['l1'] + 2 * found['giou']
  np.testing.assert_allclose(value, total, rtol=1e-5)
  np.testing.assert_allclose(scalars['loss_auxiliary'], earlier, rtol=1e-5)
  for name, expected in found.items():
    np.testing.assert_allclose(scalars[f'loss_{name}'], expected, rtol=1e-5)


def test_order_of_objects_does_not_matter(batch, loss):
  order = np.random.default_rng(1).permuted(np.tile(np.arange(ROWS), (8, 1)), axis=1)
  row = np.arange(8)[:, None]
  names = ('boxes', 'box_labels', 'box_mask')
  value, scalars = loss(batch)
  other, others = loss(batch | {name: batch[name][row, order] for name in names})
  np.testing.assert_allclose(other, value, rtol=1e-6)
  np.testing.assert_allclose(others['class_error'], scalars['class_error'], rtol=1e-6)


def test_padding_does_not_matter(batch, state, step):
  extra = (8, QUERIES - ROWS)
  added = {
    'boxes': np.full((*extra, 4), np.nan, np.float32),
    'box_labels': np.full(extra, -7, np.int32),
    'box_mask': np.zeros(extra, bool),
  }
  full = batch | {
    name: np.concatenate([batch[name], rest], axis=1) for name, rest in added.items()
  }
  expected, scalars = step(state, batch, KEY)
  after, others = step(state, full, KEY)
  np.testing.assert_allclose(others['loss'], scalars['loss'], rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    after.params,
    expected.params,
  )


def test_no_gradient_flows_through_the_assignment(batch, outputs):
  """Checks that the gradient equals that of losses with a given assignment."""
  logits_LBQC, boxes_LBQ4 = outputs['layer_logits'], outputs['layer_boxes']
  count = np.float32(batch['box_mask'].sum())
  # Joins all layers and images: the matched queries, and their objects.
  target_LBQ = np.full((LAYERS, 8, QUERIES), CLASSES)
  pairs, truth_N4 = [], []
  labels, truth = objects_of(batch)
  for layer in range(LAYERS):
    _, found = expected_layer(logits_LBQC[layer], boxes_LBQ4[layer], labels, truth)
    for i, (rows, columns) in enumerate(found):
      target_LBQ[layer, i, rows] = labels[i][columns]
      pairs += [(layer, i, row) for row in rows]
      truth_N4 += [*truth[i][columns]]
  weight_LBQ = np.where(target_LBQ == CLASSES, np.float32(0.1), np.float32(1))
  total_L11 = weight_LBQ.sum(axis=(1, 2), keepdims=True)
  place, truth_N4 = tuple(np.array(pairs).T), np.float32(truth_N4)

  def given(logits_LBQC, boxes_LBQ4):
    logp_LBQC = jax.nn.log_softmax(logits_LBQC)
    logp_LBQ = jnp.take_along_axis(logp_LBQC, target_LBQ[..., None], axis=-1)[..., 0]
    a, b = (boxes.cxcywh_to_xyxy(x) for x in (boxes_LBQ4[place], truth_N4))
    of_boxes = 5 * jnp.abs(boxes_LBQ4[place] - truth_N4).sum()
    of_boxes += 2 * (1 - boxes.generalized_iou(a, b)).sum()
    return of_boxes / count - (weight_LBQ / total_L11 * logp_LBQ).sum()

  def whole(logits_LBQC, boxes_LBQ4):
    found, query_LBK = set_detection.set_losses(
      logits_LBQC,
      boxes_LBQ4,
      set_detection.objects_of(batch),
      count,
      set_detection.COSTS,
      0.1,
    )
    total = sum(set_detection.WEIGHTS[n] * loss_L.sum() for n, loss_L in found.items())
    return total + query_LBK.astype(jnp.float32).sum()  # has a gradient of zero

  @jax.jit
  def gradients(*x):
    return [jax.grad(loss, (0, 1))(*x) for loss in (whole, given)]

  for got, want in zip(*gradients(logits_LBQC, boxes_LBQ4), strict=True):
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_model_sees_zeros_in_the_padding(batch, task):
  inputs = jax.jit(task.model_inputs)
  image, size = inputs(batch)
  np.testing.assert_allclose(image, normalised(batch), atol=1e-5)
  np.testing.assert_array_equal(size, batch['size'])
  floats, _ = inputs(batch | {'image': np.ones((8, 16, 20, 3), np.float32)})
  assert floats.sum() == 3 * (batch['size'][:, 0] * batch['size'][:, 1]).sum()
  other = make(mean=0.5, std=0.5)
  image, size = jax.jit(other.model_inputs)({'image': batch['image']})
  np.testing.assert_array_equal(size, np.tile([[16, 20]], (8, 1)))
  np.testing.assert_allclose(image, batch['image'] / np.float32(127.5) - 1, atol=1e-6)


def test_no_object_at_all_is_fine(batch, task, state, step, outputs, loss):
  empty = batch | {'box_mask': np.zeros_like(batch['box_mask'])}
  task.check(empty)
  _, scalars = step(state, empty, KEY)
  assert scalars['loss_l1'] == scalars['loss_giou'] == 0
  assert scalars['class_error'] == 100 and scalars['gradient_norm'] > 0
  none = -jax.nn.log_softmax(outputs['logits'])[..., -1].mean()
  np.testing.assert_allclose(scalars['loss_class'], none, rtol=1e-5)
  wanted = (outputs['logits'].argmax(-1) != CLASSES).sum(1).mean()
  np.testing.assert_allclose(scalars['cardinality_error'], wanted)
  rowless = {name: batch[name][:, :0] for name in ('boxes', 'box_labels', 'box_mask')}
  task.check(batch | rowless)
  value, _ = loss(batch | rowless)
  np.testing.assert_allclose(value, scalars['loss'], rtol=1e-6)


def test_class_error_counts_matched_queries_with_another_class():
  logits = np.zeros((1, 4, CLASSES + 1), np.float32)
  best = [2, CLASSES, 1, 0]
  logits[0, np.arange(4), best] = 1
  objects = set_detection.Objects(
    None, np.array([[2, 1, 1, 9]]), np.array([[1, 1, 1, 0]]) > 0
  )
  found = jax.jit(set_detection.errors)(logits, objects, np.array([[0, 1, 3, -1]]))
  # Of three objects, one is right, one predicted as none, one as another class; three
  # queries predict an object.
  np.testing.assert_allclose(found['class_error'], 200 / 3, rtol=1e-6)
  np.testing.assert_allclose(found['cardinality_error'], 0)


def test_parts_of_a_batch_are_as_the_whole(batch, state, step):
  expected, scalars = step(state, batch, KEY)
  after, others = jax.jit(make(accumulate=4).train_step)(state, batch, KEY)
  for name in 'loss', 'loss_class', 'loss_l1', 'loss_giou', 'gradient_norm':
    np.testing.assert_allclose(others[name], scalars[name], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    after.params,
    expected.params,
  )


def test_a_step_is_the_same_on_two_devices(batch, task, state, step):
  mesh = meshes.make_mesh(data=2, devices=jax.devices()[:2])

  def on_mesh(state, batch):
    with sharding.on_mesh(mesh):
      return task.train_step(state, batch, KEY)

  after, scalars = jax.jit(on_mesh)(
    jax.device_put(state, sharding.replicated(mesh)), sharding.put(batch, mesh)
  )
  expected, alone = step(state, batch, KEY)
  for name, value in alone.items():
    np.testing.assert_allclose(scalars[name], value, rtol=1e-5, err_msg=name)
  for got, want in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(expected.params), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_it_learns(batch, state, step):
  losses = []
  for _ in range(100):
    state, scalars = step(state, batch, KEY)
    losses.append(scalars['loss'])
  assert losses[-1] < 0.75 * losses[0]


def test_dropout_depends_on_the_key(batch, state):
  task = make(model=Queries(dropout=0.5))
  prepared = task.prepare(batch, KEY)
  loss = jax.jit(lambda key: task.loss(state.params, {}, prepared, key)[0])
  assert loss(KEY) == loss(KEY) != loss(jax.random.key(1))


def test_parts_of_the_loss_can_be_left_out(batch, state, loss):
  @jax.jit
  def losses(params):
    tasks = make(auxiliary=False), make(weights={'giou': 0.0})
    prepared = tasks[0].prepare(batch, KEY)
    return [task.loss(params, {}, prepared, KEY) for task in tasks]

  value, scalars = loss(batch)
  (alone, (_, own)), (other, (_, others)) = losses(state.params)
  np.testing.assert_allclose(alone, value - scalars['loss_auxiliary'], rtol=1e-5)
  assert own['loss_auxiliary'] == 0
  np.testing.assert_allclose(others['loss_giou'], scalars['loss_giou'], rtol=1e-6)
  last = scalars['loss_class'] + 5 * scalars['loss_l1'] + others['loss_auxiliary']
  np.testing.assert_allclose(other, last, rtol=1e-5)


def test_costs_have_the_given_weights(batch, outputs):
  objects = set_detection.objects_of(batch)
  cost = jax.jit(set_detection.pair_costs)(
    outputs['logits'], outputs['boxes'], objects, {'class': 3.0, 'l1': 0.0, 'giou': 0.0}
  )
  p = jax.nn.softmax(outputs['logits'])
  for i, k in np.argwhere(batch['box_mask']):
    np.testing.assert_allclose(cost[i, k], -3 * p[i, :, batch['box_labels'][i, k]])


def test_masks(batch, loss):
  segments = np.random.default_rng(3).integers(0, ROWS + 1, (8, 16, 20), np.uint8)
  task = make(model=Queries(masks=True), weights={'dice': 3.0})
  with_masks = batch | {'segment_map': segments}
  task.check(with_masks)
  state = jax.jit(task.init)(KEY, with_masks)
  prepared = task.prepare(with_masks, KEY)
  value, (_, scalars) = jax.jit(task.loss)(state.params, {}, prepared, KEY)
  _, others = loss(batch)  # for a model with the same parameters, except those of masks
  plain = sum(
    set_detection.WEIGHTS[name] * others[f'loss_{name}'] for name in set_detection.COSTS
  )
  expected = plain + scalars['loss_focal'] + 3 * scalars['loss_dice']
  np.testing.assert_allclose(value - scalars['loss_auxiliary'], expected, rtol=1e-5)
  assert scalars['loss_focal'] > 0 and 0 < scalars['loss_dice'] < 1
  with pytest.raises(UserError, match='no `segment_map` and no `masks`: .*boxes'):
    jax.eval_shape(task.loss, state.params, {}, task.prepare(batch, KEY), KEY)
  wrong = batch | {'segment_map': segments[:, :4]}
  with pytest.raises(UserError, match=r'map` is \[8, 4, 20\], .*be \[8, 16, 20\]'):
    task.check(wrong)
  wrong = batch | {'masks': np.zeros((8, ROWS, 4, 20), bool)}
  with pytest.raises(UserError, match=r'`masks` is \[8, 4, 4, 20\].*\[8, 4, 16, 20\]'):
    task.check(wrong)


def test_masks_are_made_of_maps_of_segments(batch):
  segments = np.random.default_rng(3).integers(0, ROWS + 2, (8, 16, 20), np.uint8)
  masks = np.zeros((8, ROWS, 16, 20), bool)
  for i, row, column in np.ndindex(segments.shape):
    if 1 <= segments[i, row, column] <= ROWS:  # 0 is no segment
      masks[i, segments[i, row, column] - 1, row, column] = True
  of = jax.jit(set_detection.masks_of)
  np.testing.assert_array_equal(of(batch | {'segment_map': segments}), masks)
  both = batch | {'segment_map': segments, 'masks': ~masks}  # these may overlap
  np.testing.assert_array_equal(of(both), ~masks)


def test_prediction(batch, state, outputs):
  task = make(ema=optim.Ema(decay=0.5))
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  state = state.replace(params=zeros, ema={'params': state.params})
  original = np.int32(batch['size'] * [[3, 5]])
  inputs = {'image': batch['image'], 'size': batch['size'], 'original_size': original}
  expected, outputs = outputs, jax.jit(task.predict)(state, inputs, KEY)
  for name in 'logits', 'boxes', 'features':
    np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
  for name in 'layer_logits', 'layer_boxes':
    np.testing.assert_allclose(
      outputs[name], np.moveaxis(expected[name], 0, 1), atol=1e-5
    )
  p = np.asarray(jax.nn.softmax(expected['logits']))[..., :CLASSES]
  np.testing.assert_array_equal(outputs['labels'], p.argmax(-1))
  np.testing.assert_allclose(outputs['scores'], p.max(-1), atol=1e-5)
  assert outputs['labels'].dtype == jnp.int32
  height, width = np.split(original[:, None], 2, axis=-1)
  scale = np.concatenate([width, height, width, height], axis=-1)
  np.testing.assert_allclose(
    outputs['boxes_xyxy'], corners(expected['boxes']) * scale, rtol=1e-4, atol=1e-3
  )
  del inputs['original_size']
  valid = np.asarray(jax.jit(task.predict)(state, inputs, KEY)['boxes_xyxy'])
  valid = valid * np.float32([5, 3, 5, 3])
  np.testing.assert_allclose(valid, outputs['boxes_xyxy'], rtol=1e-5, atol=1e-4)


def with_box(box):
  return lambda batch: batch | {'boxes': changed(batch['boxes'], (1, 2), box)}


def changed(array, place, value):
  array = array.copy()
  array[place] = value
  return array


@pytest.mark.parametrize(
  'change, message',
  [
    (with_box([5, 5, 5, 9]), r'object 2 of the example with id 101 has box \[5.0, 5.0'),
    (with_box([5, 9, 8, 6]), 'no area: boxes are left, top, right, bottom'),
    (with_box([np.nan, 1, 2, 3]), r'id 101 has box \[nan, 1.0, .* not finite'),
    (with_box([0, 1, np.inf, 3]), 'not finite; leave it out'),
    (with_box([-3, 1, 5, 3]), 'leaves its image of'),
    (with_box([1, 1, 5, 99]), r'\[1.0, 1.0, 5.0, 99.0\], .* clip boxes to the image'),
    (
      lambda b: b | {'box_labels': changed(b['box_labels'], (1, 0), CLASSES)},
      r'label 5, which is out of range: .* 5 classes \(0 to 4\).*num_classes',
    ),
    (
      lambda b: (
        b | {'box_labels': changed(b['box_labels'], (1, 0), -1), 'id': b['id'] + 9}
      ),
      'object 0 of the example with id 110 has label -1',
    ),
    (
      lambda b: {n: np.repeat(a, 2, axis=1) if 'box' in n else a for n, a in b.items()},
      r'\[8, 8, 4\]: 8 rows an image, up to 8 .*7 queries; .*num_queries to 8 or more',
    ),
    (lambda b: b | {'boxes': b['boxes'][..., :3]}, r'\[8, 4, 3\].*\(batch, rows, 4\)'),
    (
      lambda b: b | {'box_mask': b['box_mask'][:, :3]},
      r'`box_mask` is \[8, 3\].*\[8, 4\]',
    ),
  ],
)
def test_unusable_objects_are_reported(batch, task, change, message):
  task.check(batch)
  with pytest.raises(UserError, match=message):
    task.check(change(batch))


def test_padding_is_not_checked_and_rounding_forgiven(batch, task):
  boxes_BK4 = changed(batch['boxes'], 0, np.nan)  # the first picture has no objects
  height, width = batch['size'][1]
  boxes_BK4[1, 0] = [-1e-3, -1e-3, width + 1e-3, height + 1e-3]
  task.check(
    batch | {'boxes': boxes_BK4, 'box_labels': changed(batch['box_labels'], 0, -1)}
  )
  anonymous = {name: array for name, array in batch.items() if name != 'id'}
  with pytest.raises(UserError, match='object 2 of row 1 has box'):
    task.check(with_box([5, 5, 5, 9])(anonymous))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'costs': {'box': 1.0}}, "costs: 'box' is not one of class, l1, giou"),
    (
      {'weights': {'mask': 1.0}},
      "weights: 'mask' is not one of class, l1, giou, focal",
    ),
    ({'no_object_weight': 0.0}, 'no_object_weight=0.0 is not positive'),
  ],
)
def test_meaningless_options_are_reported(options, message):
  with pytest.raises(UserError, match=message):
    make(**options)


def test_array_names_match_their_axes(batch):
  task = make(model=Queries(masks=True))
  masks = batch | {'segment_map': np.zeros((8, 16, 20), np.uint8)}
  with shapes.checked('big_vision_like/tasks/set_detection') as seen:
    task.check(masks)
    state = jax.eval_shape(task.init, KEY, masks)
    jax.eval_shape(task.train_step, state, masks, KEY)
    jax.eval_shape(task.predict, state, masks, KEY)
  assert {'cost_BLKQ', 'found_BK4', 'logits_NP', 'outside_BK2', 'p_BKQ'} <= seen.keys()
