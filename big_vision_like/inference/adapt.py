"""Adaptation of a config to the weights that it evaluates: their model and images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import ml_collections as mlc

from big_vision_like import spec
from big_vision_like.data.transforms import boxes
from big_vision_like.errors import UserError
from big_vision_like.inference import clips
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.run import provenance

# Model fields about how it computes, not what it is; kept from the config.
COMPUTES = ('parent', 'name', 'scan', 'remat', 'dtype')


def with_model(config: mlc.ConfigDict, model: nn.Module, source: str) -> mlc.ConfigDict:
  """Returns the config with the model of weights, which must match in kind and classes.

  Fields about how it computes (`scan`, `remat`, `dtype`) are kept from the config.
  """
  if 'model' not in config.task:
    task = spec.symbol(config.task).__name__
    raise UserError(f'{source} is one model, but {task} has no field `model`')
  node = config.task.model
  kind, classes = spec.symbol(node), spec.held(node, 'num_classes')
  theirs, ours = (
    f'{type(model).__name__} of {model.num_classes} classes',
    f'{kind.__name__} of {classes} classes',
  )
  if kind is not type(model) or classes != model.num_classes:
    raise UserError(
      f'{source} is a {theirs}, but the config has a {ours}: use a config for such a'
      ' model'
    )
  masks = spec.held(node, 'masks')
  if masks and not model.masks:
    raise UserError(
      f'{source} is a {theirs} without masks, but the config has them: set'
      ' config.task.model.masks=False, and evaluators that need none'
    )
  config = config.copy_and_resolve_references()
  config.task.model = like(model, node)
  if masks is not None:
    config.task.model.masks = masks
  return config


def like(model: nn.Module, node: Mapping[str, Any]) -> mlc.ConfigDict:
  """Returns a recorded call that makes `model`, and computes like `node`'s model."""
  arguments = {k: v for k, v in node.items() if k in COMPUTES}
  for field in dataclasses.fields(model):
    if field.name in COMPUTES:
      continue
    value = getattr(model, field.name)
    if isinstance(value, nn.Module):
      before = node.get(field.name)
      same = before is not None and spec.symbol(before) is type(value)
      value = like(value, before if same else {})
    arguments[field.name] = value
  return spec.spec(type(model), **arguments)


def with_preprocessing(config: mlc.ConfigDict, preprocess: Prepare) -> mlc.ConfigDict:
  """Returns the config with evaluators that size and normalize images like this."""
  config = config.copy_and_resolve_references()
  of_clips = isinstance(preprocess, clips.ClipPreprocessing)
  fits = clips.chooses_frames if of_clips else provenance.decodes
  for _, node in spec.calls(config.evals):
    if fits(node):
      node['transforms'] = preprocess.replaced(node['transforms'])
  for name, values in (('mean', preprocess.mean), ('std', preprocess.std)):
    if spec.held(config.task, name) is None:
      task = spec.symbol(config.task).__name__
      raise UserError(f'{task} does not normalize images: it has no {name}')
    with config.task.ignore_type():  # one number, or one for each channel
      config.task[name] = values
  return config


def resizes(config: mlc.ConfigDict) -> bool:
  """Returns whether an evaluator resizes images for detection."""
  nodes = [node for _, node in spec.calls(config.evals)]
  return any(spec.symbol(node) is boxes.ResizeShort for node in nodes)
