"""Golden files of augmentation, mixing, ReaL labels and the BiT-HyperRule."""

import re
from typing import Any

import jax
import numpy as np
from golden import EXACT, FLOAT, Fields, Results, Tolerance

from big_vision_like import mesh as meshes
from big_vision_like import optim
from big_vision_like.data import pipeline
from big_vision_like.data.transforms import image as images
from big_vision_like.data.transforms import randaugment
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.ops import mixing


def augmented(description: Fields, arrays: Fields) -> Results:
  """Each operation of RandAugment, named 'output/Rotate(30.0)'; its arguments."""
  for magnitude, wanted in description['level_to_argument'].items():
    for name, value in wanted.items():
      for operation in operations_of(name):
        ours = randaugment.argument(operation, float(magnitude))
        if ours != value:
          raise UserError(f'{operation} at {magnitude} is {value} there, {ours} here')
  results = {}
  for name in arrays:
    if call := re.fullmatch(r'output/(\w+)\((.*)\)', name):
      results[name] = (distorted(arrays['input/image'], *call.groups()), EXACT)
  return results


def operations_of(name: str) -> list[str]:
  """'|Shear|' stands for both of its directions."""
  stem = name.strip('|')
  found = [n for n in randaugment.NAMES if n in (stem, f'{stem}X', f'{stem}Y')]
  if not found:
    raise UserError(f'no function here checks the operation {name!r}')
  return found


def distorted(image_HWC: np.ndarray, name: str, argument: str) -> np.ndarray:
  """The operation of that name, its argument as it is written."""
  if name in randaugment.PLAIN:
    return randaugment.PLAIN[name](image_HWC)
  if name not in randaugment.GRADED:
    raise UserError(f'no function here checks the operation {name!r}')
  amount = float(argument) if '.' in argument else int(argument)
  return randaugment.GRADED[name](image_HWC, amount)


def mixed(description: Fields, arrays: Fields) -> Results:
  """Mixup and CutMix of a batch with the reversed one, weights and places given."""
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


def real_accuracy(description: Fields, arrays: Fields) -> Results:
  """Accuracy over the images that have labels, and how many those are."""
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
    'output/real_accuracy': (np.float32(result['top1']), FLOAT),
    'output/n_scored': (np.sum(counted), EXACT),
  }


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
