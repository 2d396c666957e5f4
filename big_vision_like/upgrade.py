"""Upgrades of configs that earlier versions of the code saved with their runs.

`config.json` records symbols and arguments by name. This module lists later renames, so
that old runs load, resume and compare equal to a current config.
"""

from collections.abc import Callable, Mapping
from typing import Any

Call = dict[str, Any]

# Modules that moved: the name in old configs to the current name.
MODULES: Mapping[str, str] = {
  f'big_vision_like.data.{name}': f'big_vision_like.data.{folder}.{name}'
  for folder, names in {
    'input': (
      'alternating bucket cache grouping mixture order packing pipeline proportions'
      ' workers'
    ),
    'prepare': 'conversion restarts',
    'procedural': 'digits',
    'sources': (
      'array_records coco fake fewshot folders memory multi_object parquet'
      ' planned protos shards tars tfrecords'
    ),
    'text': 'vocabulary',
  }.items()
  for name in names.split()
} | {
  'big_vision_like.checkpoint': 'big_vision_like.run.checkpoint',
  'big_vision_like.data.input': 'big_vision_like.data.input.base',
  'big_vision_like.data.marian_vocabulary': 'big_vision_like.data.text.marian',
  'big_vision_like.data.source': 'big_vision_like.data.sources.base',
  'big_vision_like.data.sources': 'big_vision_like.data.sources.tfds',
  'big_vision_like.init_from': 'big_vision_like.run.init_from',
}
# Symbols that moved on their own. If another module took over the old module name, the
# moved symbols are listed one by one, so that configs may record the new module.
SYMBOLS: Mapping[str, str] = {
  f'big_vision_like.{old}': f'big_vision_like.{new}'
  for old, new in {
    **{
      f'checkpoint:{name}': f'run.init_from:{name}'
      for name in ('InitFrom', 'from_run', 'from_file', 'from_backbone')
    },
    'evals.segmentation:Segmentation': 'evals.object_discovery:Segmentation',
    'evals.set_prediction:AveragePrecision': 'evals.clevr_sets:AveragePrecision',
    'tasks.detection:Detection': 'tasks.set_detection:Detection',
  }.items()
}


def moved(path: str) -> str:
  """Returns the current path MODULE:NAME of a symbol that an old config records."""
  module, _, name = path.partition(':')
  return SYMBOLS.get(path) or f'{MODULES.get(module, module)}:{name}'


def _grouped_augmentation(call: Call) -> Call:
  """Moves augmentation that runs on the device into `augment`."""
  call = _averaged(call)
  names = {name: name for name in ('flip', 'erasing', 'mixup', 'cutmix', 'switch')} | {
    'mixup_partner': 'partner'
  }
  found = {new: call.pop(old) for old, new in names.items() if old in call}
  if found:
    call['augment'] = {'_fn': 'big_vision_like.ops.augmentation:Augment', **found}
  return call


def _averaged(call: Call) -> Call:
  """Replaces `ema_decay`, whose warm-up was fixed, by an `Ema`."""
  decay = call.pop('ema_decay', None)
  if decay is not None:
    call['ema'] = {
      '_fn': 'big_vision_like.optim:Ema',
      'decay': decay,
      'warmup': True,
    }
  return call


def _prediction(names: Mapping[str, str]) -> Callable[[Call], Call]:
  """Returns a change from `output`, one of all outputs, to a prediction's name."""

  def change(call: Call) -> Call:
    output = call.pop('output', None)
    if output is not None:
      call['predict'] = names.get(output, output)
    return call

  return change


def _arguments(call: Call) -> Call:
  """Moves `num_slots` and `iterations` to the keyword arguments of the prediction."""
  names = [name for name in ('num_slots', 'iterations') if name in call]
  given = {name: call.pop(name) for name in names}
  given = {name: value for name, value in given.items() if value is not None}
  return call | ({'predict_args': given} if given else {})


# Changes of arguments, by the current name of the symbol that takes them.
ARGUMENTS: Mapping[str, Callable[[Call], Call]] = {
  'big_vision_like.tasks.classification:Classification': _grouped_augmentation,
  'big_vision_like.tasks.set_detection:Detection': _averaged,
  'big_vision_like.tasks.object_discovery:ObjectDiscovery': _averaged,
  'big_vision_like.tasks.set_prediction:SetPrediction': _averaged,
  'big_vision_like.tasks.seq2seq:Seq2Seq': _averaged,
  'big_vision_like.evals.sequences:ExactMatch': _prediction({'beam': 'translate'}),
  'big_vision_like.evals.translation:Bleu': _prediction({'beam': 'translate'}),
  'big_vision_like.evals.object_discovery:Segmentation': _arguments,
  'big_vision_like.evals.clevr_sets:AveragePrecision': _arguments,
}

# Fields that configs no longer have: `configs/papers` records what they reproduce.
GONE = ('reproduces',)


def upgraded(node: Any) -> Any:
  """Returns a plain copy of a saved config with current names."""
  if isinstance(node, (list, tuple)):
    return type(node)(map(upgraded, node))
  if not isinstance(node, Mapping):
    return node
  node = {key: upgraded(value) for key, value in node.items()}
  if '_fn' not in node:
    return {key: value for key, value in node.items() if key not in GONE}
  node['_fn'] = moved(node['_fn'])
  change = ARGUMENTS.get(node['_fn'])
  return change(node) if change else node
