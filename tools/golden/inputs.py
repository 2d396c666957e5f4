"""Golden files of augmentation, repeats, mixing, sizes, ReaL and the BiT-HyperRule."""

import math
import re
from typing import Any

import jax
import numpy as np

from big_vision_like import optim
from big_vision_like.data.input import order, pipeline
from big_vision_like.data.transforms import image as images
from big_vision_like.data.transforms import randaugment
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.ops import mixing, positions, resampling
from tools.golden.common import CUBIC, EXACT, FLOAT, Check, Fields, Results, Tolerance


def augmented(description: Fields, arrays: Fields) -> Results:
  """Checks RandAugment's arguments, and applies operations as 'output/Rotate(30.0)'."""
  for magnitude, wanted in description['level_to_argument'].items():
    for name, value in wanted.items():
      for operation in operations_of(name):
        ours = randaugment.argument(operation, float(magnitude))
        if repr(ours) != repr(value):  # an int is not a float
          raise UserError(
            f'{operation} at {magnitude} is {value} in the file, but {ours} here'
          )
  results = {}
  for name in arrays:
    if call := re.fullmatch(r'output/(\w+)\((.*)\)', name):
      results[name] = (distorted(arrays['input/image'], *call.groups()), EXACT)
  return results


def operations_of(name: str) -> list[str]:
  """Returns the operations of a name; '|Shear|' stands for both directions."""
  stem = name.strip('|')
  found = [n for n in randaugment.NAMES if n in (stem, f'{stem}X', f'{stem}Y')]
  if not found:
    raise UserError(f'there is no check of the operation {name!r}')
  return found


def distorted(image_HWC: np.ndarray, name: str, argument: str) -> np.ndarray:
  """Applies the operation with this name, whose argument is given as text."""
  if name in randaugment.PLAIN:
    return randaugment.PLAIN[name](image_HWC)
  if name not in randaugment.GRADED:
    raise UserError(f'there is no check of the operation {name!r}')
  amount = float(argument) if '.' in argument else int(argument)
  return randaugment.GRADED[name](image_HWC, amount)


def mixed(description: Fields, arrays: Fields) -> Results:
  """Mixes a batch with its reverse by Mixup or CutMix, at given weights and centres."""
  config, results = description['config'], {}
  image_BHWC, classes = arrays['input/image'], config['num_classes']
  smoothing = config['label_smoothing']
  target_BC = jax.nn.one_hot(arrays['input/label'], classes)
  target_BC = target_BC * (1.0 - smoothing) + smoothing / classes
  _, height, width, _ = image_BHWC.shape
  for case in config['cases']:
    share = weight = case['lam']
    if case['kind'] == 'cutmix':
      share, weight = mixing.cutmix_share(
        weight, case['centre_y'], case['centre_x'], height, width
      )
    elif case['kind'] != 'mixup':
      raise UserError(f'kind {case["kind"]!r} is not one of mixup, cutmix')
    mixed_BHWC, mixed_BC = mixing.blend(
      image_BHWC, target_BC, share, weight, partner='reversed'
    )
    results[f'output/{case["case"]}/image'] = (mixed_BHWC, FLOAT)
    results[f'output/{case["case"]}/target'] = (mixed_BC, FLOAT)
  return results


def repeated(description: Fields, arrays: Fields) -> Results:
  """Returns the records of each rank in an epoch whose permutation is given."""
  config, results = description['config'], {}
  size, ranks = config['dataset_size'], config['num_replicas']
  repeats = config['num_repeats']
  length = order.epoch_length(size, repeats) // ranks
  for name in arrays:
    if found := re.fullmatch(r'output/epoch(\d+)_rank(\d+)', name):
      epoch, rank = map(int, found.groups())
      permutation = arrays[f'input/permutation_epoch{epoch}']
      places = (order.place(rank + i * ranks, size, repeats) for i in range(length))
      dealt = np.array([permutation[place] for _, place in places])
      results[name] = (dealt, EXACT)
  return results


def real_accuracy(description: Fields, arrays: Fields) -> Results:
  """Computes the accuracy over the images that have labels, and their number."""
  multihot_BC = arrays['input/labels_multihot']
  size = int(multihot_BC.sum(axis=1).max())
  labels_BS = np.full((len(multihot_BC), size), -1, np.int32)
  for labels_S, hot_C in zip(labels_BS, multihot_BC, strict=True):
    (found,) = hot_C.nonzero()
    labels_S[: len(found)] = found
  source = [
    {'logits': logits_C, 'labels': labels_S}
    for logits_C, labels_S in zip(arrays['input/logits'], labels_BS, strict=True)
  ]
  evaluator = classification.RealAccuracy(
    data=pipeline.EvalInput(source=source, batch_size=8)
  )
  result = evaluator.run(
    lambda state, batch, key: {'logits': batch['logits']},
    None,
    meshes.make_mesh(devices=jax.devices()[:1]),
  )
  counted = evaluator.measure(
    {'logits': arrays['input/logits']}, {'labels': labels_BS}
  )['count']
  return {
    'output/real_accuracy': (np.float32(result.scalars['top1']), FLOAT),
    'output/n_scored': (np.sum(counted), EXACT),
  }


def resampled(description: Fields, arrays: Fields) -> Results:
  """Resizes square grids and tables, named 'output/grid0_bicubic_12x9'.

  Other names are 'output/grid0_adaptive_avg_3' and, for tables of relative positions,
  'output/table0_to_23'.
  """
  results = {}
  for name in arrays:
    found = re.fullmatch(r'output/([a-z]+\d+)_(\w+?)_(\d+)(?:x(\d+))?', name)
    if found is None:
      continue
    source, method, height = found[1], found[2], int(found[3])
    x = arrays[f'input/{source}']
    side = math.isqrt(x.shape[-2])
    if method == 'to':
      sides = (side, side), (height, height)
      [ours] = positions.resize(x[None], *sides, method='cubic_torch')
    else:
      x_BhwC = x.reshape(len(x), side, side, -1)
      if method == 'adaptive_avg':
        ours = resampling.adaptive_average(x_BhwC, height)
      else:
        ours = resampling.resize(x_BhwC, (height, int(found[4] or height)), method)
        ours = ours.reshape(len(x), -1, x.shape[-1])
    results[name] = (ours, CUBIC)
  return results


def hyperrule(description: Fields) -> tuple[dict[str, Any], Results]:
  """Returns the numbers of a BiT-HyperRule file, which has no arrays, and ours."""
  wanted: dict[str, Any] = {}
  results: Results = {}

  def add(name: str, want: Any, ours: Any, tolerance: Tolerance = EXACT) -> None:
    wanted[name] = np.asarray(want)
    results[name] = (np.asarray(ours), tolerance)

  for examples, rule in description['by_train_examples'].items():
    steps = optim.hyperrule_steps(int(examples))
    rate = optim.hyperrule_rate(int(examples), description['base_lr'])
    trained = {int(n): value for n, value in rule['lr'].items() if value is not None}
    add(f'{examples}/schedule', rule['schedule'], steps)
    add(f'{examples}/mixup', rule['mixup'], optim.hyperrule_mixup(int(examples)))
    add(
      f'{examples}/trained',
      sorted(trained),
      [n for n in sorted(map(int, rule['lr'])) if n < steps[-1]],
    )
    add(
      f'{examples}/rate',
      list(trained.values()),
      [rate(n) for n in trained],
      Tolerance(absolute=1e-9),
    )
  for size, sizes in description['resolution_precrop_crop'].items():
    height, width = map(int, size.split('x'))
    add(f'size/{size}', sizes, images.bit_sizes(height, width, large=(512, 480)))
  return wanted, results


CHECKS = (
  Check(augmented, 'pp/archive/autoaugment.py'),
  Check(mixed, 'data/mixup.Mixup'),
  Check(repeated, 'deit samplers.RASampler'),
  Check(real_accuracy, 'reassessed-imagenet'),
  Check(resampled, 'torch.nn.functional.interpolate'),
  Check(hyperrule, 'big_transfer bit_hyperrule.py', alone=True),
)
