"""Compares our code with golden files: numbers computed by original implementations.

  python tools/check_golden.py tests/golden/*.npz tests/golden/bit_hyperrule.json

Each FILE.npz holds inputs, parameters under the reference's own names, and outputs,
losses and gradients; FILE.json beside it names the reference and its configuration.
Every array under output/, loss/, grad/ and converted/ is compared. Some files are a
FILE.json alone, whose numbers are what is compared. If a float32 array is outside its
tolerance, our program runs again in float64, and the errors of both the file and our
float32 result are measured and printed (see golden/float64.py). Exit status: 0 if all
are within tolerance, 1 if one is not or has no counterpart, 2 if a file cannot be
checked.

A new kind of file is one function from description and arrays to values by name, and
one line in KINDS; of a FILE.json alone, from description to its numbers and our values,
in ALONE.
"""

import argparse
import json
import pathlib
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from big_vision_like import cli
from big_vision_like.errors import UserError

# Other modules of tools, where this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tools.golden import (
  bit,
  coco,
  deit,
  detection,
  detr,
  inputs,
  optim,
  slots,
  transformer,
  vit,
)
from tools.golden import float64 as golden_float64
from tools.golden.common import EXACT, Fields, Results, Tolerance

COMPARED = ('output/', 'loss/', 'grad/', 'converted/')
# Which function checks a file: the first whose words are in the file's "reference".
KINDS: list[tuple[str, Callable[[Fields, Fields], Results]]] = [
  ('vision_transformer vit_jax/models_vit.py', vit.vit_jax),
  ('big_vision models/vit.py _Model', vit.big_vision),
  ('gs://vit_models', vit.published_npz),
  ('timm/models/vision_transformer.py', vit.timm),
  ('checkpoint.interpolate_posembed', vit.resized_positions),
  ('deit main.py --finetune', vit.cubic_positions),
  ('evaluators/fewshot_lsr.py', vit.fewshot),
  ('big_vision optax.make', optim.optimizers),
  ('bit_pytorch/models.py', bit.big_transfer),
  ('big_vision models/bit.py', bit.big_vision_v1),
  ('pp/archive/autoaugment.py', inputs.augmented),
  ('data/mixup.Mixup', inputs.mixed),
  ('deit samplers.RASampler', inputs.repeated),
  ('deit losses.DistillationLoss', deit.distillation_loss),
  ('reassessed-imagenet', inputs.real_accuracy),
  ('torch.nn.functional.interpolate', inputs.resampled),
]
# The same of files without arrays.
ALONE: list[tuple[str, Callable[[Fields], tuple[dict[str, np.ndarray], Results]]]] = [
  ('big_transfer bit_hyperrule.py', inputs.hyperrule),
]
# For files that name no reference: the first of which a file has all these fields.
FIELDS: list[tuple[set[str], str, Callable[[Fields, Fields], Results]]] = [
  (
    {'encoder_layers', 'decoder_layers', 'pre_norm'},
    'torch.nn.Transformer layers',
    transformer.encoder_decoder,
  ),
  (
    {'beam_size', 'alpha', 'max_decode_len'},
    'flax examples/wmt decode.py',
    transformer.searched,
  ),
  (
    {'num_inputs', 'slot_size', 'mlp_hidden'},
    'google-research slot_attention/model.py, SlotAttention',
    slots.module,
  ),
  (
    {'decoder_initial_size', 'classifier_grid', 'num_targets'},
    'google-research slot_attention/model.py, SlotAttentionClassifier',
    slots.classifier,
  ),
  (
    {'decoder_initial_size', 'classifier_grid'},
    'google-research slot_attention/model.py, SlotAttentionAutoEncoder',
    slots.autoencoder,
  ),
  (
    {'groups', 'pred_groups', 'pred_slots'},
    'google-research slot_attention/utils.py, deepmind multi_object_datasets ARI',
    slots.metrics,
  ),
  (
    {'n_dt', 'n_gt', 'mask_rule'},
    'pycocotools COCOeval',
    coco.average_precision,
  ),
  (
    {'categories', 'hw', 'images'},
    'cocodataset panopticapi',
    coco.panoptic_quality,
  ),
  (
    {'processed_sizes', 'target_sizes', 'last_thing'},
    'detr PostProcessPanoptic',
    coco.detr_segments,
  ),
  (
    {'queries', 'num_targets', 'pos_cases'},
    'detr HungarianMatcher, SetCriterion and positions',
    detection.matching_and_losses,
  ),
  (
    {'dc5', 'pre_norm', 'stem_channels'},
    'facebookresearch/detr DETR and SetCriterion',
    detr.whole,
  ),
  (
    {'fpn_dims', 'target_hw'},
    'facebookresearch/detr MHAttentionMap and MaskHeadSmallConv',
    detr.mask_head,
  ),
]


def kind_of(description: Fields, kinds: list[tuple[str, Any]]) -> tuple[str, Any]:
  """The reference that computed a file, and the function that checks it."""
  if 'reference' not in description:
    for fields, reference, function in FIELDS:
      if fields <= description.keys():
        return reference, function
  reference = description['reference']
  function = next((check for words, check in kinds if words in reference), None)
  if function is None:
    raise UserError(f'no function here checks the reference {reference!r}')
  return reference, function


def described(path: pathlib.Path) -> Fields:
  """What a FILE.json says."""
  try:
    return json.loads(path.read_text(), object_hook=Fields)
  except FileNotFoundError:
    raise UserError(f'{path.name} is not beside it') from None
  except json.JSONDecodeError as error:
    raise UserError(f'{path.name} cannot be parsed: {error}') from None


class Computed(NamedTuple):
  """A file's reference, its golden arrays, our values, and how to get them in float64.

  Files without arrays have no `recompute`.
  """

  reference: str
  golden: dict[str, np.ndarray]
  results: Results
  recompute: Callable[[], golden_float64.Float64] | None


def compute(path: pathlib.Path) -> Computed:
  """Reads a file and computes our values."""
  if (
    path.suffix == '.json' and path.is_file() and not path.with_suffix('.npz').exists()
  ):
    description = described(path)
    reference, function = kind_of(description, ALONE)
    return Computed(reference, *function(description), None)
  path = path.with_suffix('.npz') if path.suffix == '.json' else path
  if path.suffix != '.npz' or not zipfile.is_zipfile(path):
    raise UserError('there is no such .npz file')
  description = described(path.with_suffix('.json'))
  reference, function = kind_of(description, KINDS)
  with np.load(path, allow_pickle=False) as file:
    arrays = Fields(file)
  wanted = {name: array for name, array in arrays.items() if name.startswith(COMPARED)}
  if not wanted:
    raise UserError('it holds nothing to compare')
  given = {name: array for name, array in arrays.items() if name not in wanted}
  function = jax.default_matmul_precision('highest')(function)

  def recompute() -> golden_float64.Float64:
    return golden_float64.recompute(function, description, given, wanted)

  return Computed(reference, wanted, function(description, arrays), recompute)


def compare(want: np.ndarray, result: tuple[Any, Tolerance] | None) -> tuple[str, bool]:
  """Returns the error, relative error, tolerance and verdict of a row; and if ok."""
  if result is None:
    return 'no counterpart', False
  got, tolerance = np.asarray(result[0]), result[1]
  if got.shape != want.shape:
    return f'ours has shape {shape_text(got)}', False
  error = golden_float64.largest_error(got, want)
  largest, allowed = magnitude(want), allowed_error(want, tolerance)
  ok = error <= allowed  # false for NaN
  relative = error / largest if largest else float(error > 0)
  verdict = 'ok' if ok else 'TOO LARGE'
  return f'{error:9.1e}  {relative:9.1e}  {allowed:9.1e}  {verdict}', ok


def magnitude(array: np.ndarray) -> float:
  return golden_float64.largest_error(array, 0.0)


def allowed_error(want: np.ndarray, tolerance: Tolerance) -> float:
  """Returns the largest absolute error that a tolerance allows for an array."""
  return tolerance.absolute + tolerance.relative * magnitude(want)


def needs_float64(want: np.ndarray, result: tuple[Any, Tolerance] | None) -> bool:
  """Whether an array that missed its tolerance may have missed it by rounding."""
  if result is None or np.shape(result[0]) != want.shape:
    return False
  return want.dtype.kind == 'f' and result[1] != EXACT


def shape_text(array: np.ndarray) -> str:
  return 'x'.join(map(str, array.shape)) or 'scalar'


def check(path: pathlib.Path) -> bool:
  """Prints the table of one file; returns whether all is within tolerance."""
  reference, golden, results, recompute = compute(path)
  names = max(map(len, golden))
  shapes = max(len('shape'), *(len(shape_text(array)) for array in golden.values()))
  print(f'{path}: {reference}')
  head = f'{"max abs":>9}  {"max rel":>9}  {"allowed":>9}'
  print(f'  {"name":{names}}  {"shape":{shapes}}  {head}')
  count, float64 = 0, None
  for name, want in golden.items():
    text, ok = compare(want, results.get(name))
    if not ok and recompute is not None and needs_float64(want, results.get(name)):
      float64 = recompute() if float64 is None else float64
      ours, tolerance = results[name]
      allowed = allowed_error(want, tolerance)
      second, ok = golden_float64.verdict(name, want, ours, allowed, float64)
      text = f'{text.removesuffix("TOO LARGE")}{second}'
    count += ok
    print(f'  {name:{names}}  {shape_text(want):{shapes}}  {text}')
  print(f'  {count} of {len(golden)} within tolerance\n')
  return count == len(golden)


def main(arguments: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('files', nargs='+', type=pathlib.Path, metavar='FILE.npz')
  status, files = 0, parser.parse_args(arguments).files
  cli.set_up_jax()
  for path in files:
    try:
      status = max(status, 0 if check(path) else 1)
    except ValueError as error:
      print(f'{path}: {str(error).rstrip(".")}.', file=sys.stderr)
      status = 2
  return status


if __name__ == '__main__':
  sys.exit(main())
