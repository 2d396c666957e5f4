"""Golden files of I3D, of actors with a context graph, and of video mAP."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import context_graph, i3d
from big_vision_like.ops import images, roi, tubes
from big_vision_like.weights import acgcn_names, i3d_names, tree
from tools.golden.common import (
  EXACT,
  FLOAT,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

LAYER, GRADIENT = Tolerance(relative=1e-4), Tolerance(relative=1e-3)
PERCENT = Tolerance(absolute=1e-3)
MERGES = {'concat': 'concat', 'sum': 'sum'}


def units(description: Fields, arrays: Fields) -> Results:
  """Computes units of I3D and its max pooling."""
  results: Results = {}
  for number, (_, channels, size, stride, _) in enumerate(description['unit_cases']):
    name = f'unit{number}'
    if len({*size}) > 1 or len({*stride}) > 1:
      raise UserError(f'{name}: kernel {size} and stride {stride} are not cubes')
    table = i3d_names.of_units('', 'x', ('',))
    state = select(arrays, f'param/{name}/')
    tree.check_names(name, *tree.differences(state, table))
    flat = {
      ours.replace('/x/', '/'): array
      for ours, array in i3d_names.linear.from_state(state, table, 1).items()
    }
    unit = i3d.Unit(channels, size[0], stride[0], dtype=float_name())
    y_BthwC = unit.apply(
      widened(tree.unflatten(flat)), channels_last(arrays[f'input/{name}'])
    )
    results[f'output/{name}'] = (channels_first(y_BthwC), FLOAT)
  for number, (window, stride, _) in enumerate(description['pool_cases']):
    x_BthwC = channels_last(arrays[f'input/pool{number}'])
    y_BthwC = i3d.max_pool(x_BthwC, window, stride)
    results[f'output/pool{number}'] = (channels_first(y_BthwC), FLOAT)
  return results


def actors(description: Fields, arrays: Fields) -> Results:
  """Computes maps, regions, actors, logits of attention, scores, loss, gradients."""
  state = select(arrays, 'param/')
  tree.check_names('its parameters', *acgcn_names.differences(state))
  flat = acgcn_names.read(state)
  told = acgcn_names.architecture(flat, 'its parameters')
  variables = widened(tree.unflatten(flat))
  check_told(description, told)
  if description.get('merge') == 'sum' and told['graph']:
    told['merge'] = 'sum'  # a single graph has the same shapes either way
  model = context_graph.published(
    **told, pool=size_of(description['crop']), dtype=float_name()
  )
  video_BTHWI = images.normalize(jnp.asarray(arrays['input/clip_uint8']))
  video_BTHWI = video_BTHWI.astype(float_name())
  every = 4  # frames of a slice, of which the last has its box
  boxes_BAS4 = np.swapaxes(arrays['input/boxes_featuremap_xyxy'], 1, 2)[
    :, :, every - 1 :: every
  ]
  count_B = arrays['input/num_actors']
  mask_BA = np.arange(boxes_BAS4.shape[1])[None] < count_B[:, None]
  fit_parameters(model, variables['params'], video_BTHWI, boxes_BAS4, mask_BA)
  label_N, rows = arrays['input/labels'], np.nonzero(mask_BA)

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    others = {'batch_stats': variables['batch_stats']}
    outputs, modules = captured(
      model, {'params': params} | others, video_BTHWI, boxes_BAS4, mask_BA
    )
    log_NC = jax.nn.log_softmax(outputs['logits'][rows])
    return -log_NC[np.arange(len(label_N)), label_N].mean(), (outputs, modules)

  value, (outputs, modules), gradients = loss_and_gradients(loss, variables['params'])
  map_BthwC = modules['backbone'][acgcn_names.ENDPOINT]
  slices = map_BthwC.shape[1]
  boxes_NS4 = boxes_BAS4[rows]
  place_NS = rows[0][:, None] * slices + np.arange(slices)[None]
  pooled = roi.pool(
    map_BthwC.reshape(-1, *map_BthwC.shape[2:]),
    jnp.asarray(place_NS.reshape(-1)),
    jnp.asarray(boxes_NS4.reshape(-1, 4)),
    1.0,
    (model.pool,) * 2,
  )
  places = np.concatenate(
    [place_NS.reshape(-1, 1).astype(boxes_NS4.dtype), boxes_NS4.reshape(-1, 4)], axis=1
  )
  results: Results = {
    'output/feature_map_mixed4f': (channels_first(map_BthwC), LAYER),
    'output/roi_boxes': (places, EXACT),
    'output/roi_pooled': (channels_first(pooled), LAYER),
    'output/actor_features': (outputs['features'][rows], LAYER),
    'output/scores': (outputs['logits'][rows], LAYER),
    'loss/cross_entropy': (value, LAYER),
  }
  if told['graph']:
    places_BA4 = context_graph.coordinates(jnp.asarray(boxes_BAS4), model.side)
    x_NF = outputs['features'][rows]
    for layer in range(told['layers']):
      module = f'graph/layer{layer + 1}'
      results[f'output/gcn{layer}_input'] = (
        jnp.concatenate([x_NF, places_BA4[rows]], axis=-1),
        LAYER,
      )
      y_NGK = modules[module][rows]
      last_sum = model.graph.merge == 'sum' and layer == told['layers'] - 1
      x_NF = y_NGK.sum(axis=1) if last_sum else y_NGK.reshape(len(y_NGK), -1)
      results[f'output/gcn{layer}'] = (x_NF, LAYER)
      for graph in range(told['graphs']):
        name = f'output/adjacency_logits_layer{layer}_graph{graph}'
        logits_BAthw = modules[f'{module}/logits'][:, graph, : count_B.max()]
        results[name] = (logits_BAthw.reshape(*logits_BAthw.shape[:2], -1), LAYER)
  if select(arrays, 'grad/'):
    results |= gradient_results(gradients, lambda x: renamed(x, variables), GRADIENT)
  return results


def check_told(description: Fields, told: Fields) -> None:
  """Raises unless the description agrees with the shapes of parameters."""
  fields = {'classes': 'num_classes', 'width_divisor': 'divisor'}
  if told['graph']:
    fields |= {'layers': 'layers', 'graphs': 'graphs', 'gcn': 'width'}
  for theirs, ours in fields.items():
    if description.get(theirs, told[ours]) != told[ours]:
      if theirs == 'width_divisor':
        told[ours] = description[theirs]  # several divisors may give the same channels
        continue
      raise UserError(
        f'its {theirs} is {description[theirs]}, but the arrays have {told[ours]}'
      )


def renamed(params: tree.Tree, variables: tree.Tree) -> dict[str, np.ndarray]:
  """Returns gradients under the names of micts/acgcn."""
  flat = tree.flatten({'params': params, 'batch_stats': variables['batch_stats']})
  return acgcn_names.written(flat)


def size_of(crop: list[int]) -> int:
  """Returns the side of a square region, given as two sides."""
  if crop[0] != crop[1]:
    raise UserError(f'crop {crop} is not square')
  return crop[0]


def video_map(description: Fields, arrays: Fields) -> Results:
  """Computes video mAP and the average precision of each class."""
  found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for name, array in select(arrays, 'input/').items():
    video, instance, field = name.split('/')
    found.setdefault((video, instance), {})[field] = array
  size = description['width'], description['height']
  annotated = {place: Fields(fields) for place, fields in found.items()}
  instances = [
    tubes.Instance(
      truth_of(place, annotated, size),
      [tubes.Tube(x[:, 0].astype(int), x[:, 1:]) for x in tubes_of(fields)],
      fields['scores'].mean(axis=0),
    )
    for place, fields in annotated.items()
  ]
  results: Results = {}
  for threshold in thresholds(arrays):
    ap_C = tubes.video_average_precision(
      instances,
      description['num_actions'],
      float(threshold),
      description['nms_threshold'],
    )
    results[f'output/ap_per_class_{threshold}'] = (100 * ap_C, PERCENT)
    results[f'output/video_map_{threshold}'] = (100 * np.nanmean(ap_C), PERCENT)
  return results


def thresholds(arrays: Fields) -> list[str]:
  """Returns the thresholds of the file's results."""
  start = 'output/video_map_'
  return [x.removeprefix(start) for x in arrays if x.startswith(start)]


def tubes_of(fields: Fields) -> list[np.ndarray]:
  """Returns the rows of each tube of an instance."""
  return [fields[f'tube{i}'] for i in range(sum(x.startswith('tube') for x in fields))]


def truth_of(
  place: tuple[str, str],
  annotated: dict[tuple[str, str], Fields],
  size: tuple[int, int],
) -> list[tubes.Truth]:
  """Returns the key boxes of an instance, and of others of its video in its bounds."""
  first, last = annotated[place]['tbound'].tolist()
  found = []
  for other, fields in annotated.items():
    frames_K = fields['keyframes']
    inside_K = (frames_K >= first) & (frames_K <= last) | (other == place)
    if other[0] == place[0] and inside_K.any():
      boxes_K4 = fields['keyframe_boxes_norm_xyxy'] * np.array([[*size] * 2], float)
      label = int(fields['label'])
      found.append(tubes.Truth(label, frames_K[inside_K], boxes_K4[inside_K]))
  return found


def channels_last(x_BCthw: np.ndarray) -> jax.Array:
  """Converts maps from PyTorch's layout."""
  return jnp.moveaxis(jnp.asarray(x_BCthw), 1, -1)


def channels_first(x_BthwC: jax.Array) -> np.ndarray:
  """Converts maps to PyTorch's layout."""
  return np.moveaxis(np.asarray(x_BthwC), -1, 1)


CHECKS = (
  Check(units, 'piergiaj/pytorch-i3d', fields=('unit_cases', 'pool_cases')),
  Check(actors, 'micts/acgcn', fields=('roi_rule', 'crop', 'classes')),
  Check(video_map, 'micts/acgcn', fields=('nms_threshold', 'num_actions')),
)
