"""Golden files of ViLBERT: streams, heads, losses and gradients of pretraining."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert
from big_vision_like.ops import pretraining
from big_vision_like.weights import tree, vilbert_names
from tools.golden.common import (
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  choice,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  widened,
)

ACTIVATIONS = {'gelu': 'gelu_exact', 'relu': 'relu', 'swish': 'silu'}
STREAM = Tolerance(absolute=5e-5)
# Scores of padded regions are -10000.
SCORES = Tolerance(absolute=5e-5, relative=1e-7)
# Values of options that our ViLBERT has; others belong to no published model.
FIXED = {
  'model': 'bert',
  'dynamic_attention': False,
  'in_batch_pairs': False,
  'fast_mode': False,
  'fixed_t_layer': 0,
  'fixed_v_layer': 0,
}
OUTPUTS = {
  'sequence_text': 'text',
  'sequence_image': 'image',
  'pooled_text': 'pooled_text',
  'pooled_image': 'pooled_image',
  'mlm_logits': 'words',
  'region_logits': 'regions',
  'alignment_logits': 'alignment',
  'vl_tasks/vil_prediction': 'vqa',
  'vl_tasks/vil_prediction_gqa': 'gqa',
  'vl_tasks/vil_logit': 'match',
  'vl_tasks/vil_binary_prediction': 'nlvr2',
  'vl_tasks/vil_tri_prediction': 'entailment',
}
# Theirs have a last axis of size 1.
SCORED = {
  'vl_tasks/vision_logit': 'region_scores',
  'vl_tasks/linguistic_logit': 'word_scores',
}
REGION_LOSSES = {0: 'region_kl', 1: 'region_mse'}


def pretrained(description: Fields, arrays: Fields) -> Results:
  """Computes embeddings, streams, logits of all heads, losses and gradients."""
  for name, value in FIXED.items():
    if description.get(name, value) != value:
      raise UserError(f'{name}={description[name]!r} is not published')
  state = select(arrays, 'param/')
  if not description['with_coattention']:
    state = {name: x for name, x in state.items() if '.c_layer.' not in name}
  heads = [description[f'{kind}num_attention_heads'] for kind in ('', 'v_', 'bi_')]
  params = widened(vilbert_names.from_state(state, tuple(heads)))
  model = made(description, arrays, params)
  inputs = inputs_of(arrays)
  fit_parameters(model, params, *inputs)

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, *inputs)
    values = losses_of(description, arrays, outputs)
    return jnp.asarray(sum(values.values())), (values, outputs, modules)

  _, (values, outputs, modules), gradients = loss_and_gradients(loss, params)
  results: Results = {
    f'output/loss_{name}': (x[None], LOSS) for name, x in values.items()
  }
  for stream in ('text', 'image'):
    embedded = modules[f'{stream}_embeddings']
    results[f'output/{stream}_embeddings'] = (embedded, STREAM)
    for k in range(len(model.text_places)):
      x = modules[f'connection_{k}/{stream}']
      results[f'output/{stream}_after_coattention_{k}'] = (x, STREAM)
  results |= {
    f'output/{theirs}': (outputs[ours], STREAM)
    for theirs, ours in OUTPUTS.items()
    if ours in outputs
  }
  results |= {
    f'output/{theirs}': (outputs[ours][..., None], SCORES)
    for theirs, ours in SCORED.items()
    if ours in outputs
  }
  if select(arrays, 'grad/'):
    results |= gradient_results(gradients, vilbert_names.to_state)
  return results


def made(description: Fields, arrays: Fields, params: tree.Tree) -> vilbert.ViLBERT:
  """Returns the model of a file."""
  own = {'dtype': float_name()}
  activation = choice(description, 'hidden_act', ACTIVATIONS)
  outputs = {
    name: int(np.size(params[f'heads_{name}']['answers']['bias']))
    for name in ('vqa', 'gqa', 'nlvr2')
    if f'heads_{name}' in params
  }
  known = dict(
    words=pairs.Words(activation, **own),
    regions=pairs.Regions(description['v_target_size'], activation, **own),
    alignment=pairs.Classes(2, **own),
    match=pairs.Classes(1, **own),
    entailment=pairs.Classes(3, **own),
    region_scores=pairs.RegionScores(**own),
    word_scores=pairs.WordScores(**own),
  )
  for name, count in outputs.items():
    images = 2 if name == 'nlvr2' else 1
    known[name] = pairs.Answers(count, images, **own)
  meet = description['with_coattention']
  return vilbert.ViLBERT(
    vocab_size=description['vocab_size'],
    width=description['hidden_size'],
    depth=description['num_hidden_layers'],
    num_heads=description['num_attention_heads'],
    mlp_dim=description['intermediate_size'],
    image_width=description['v_hidden_size'],
    image_depth=description['v_num_hidden_layers'],
    image_heads=description['v_num_attention_heads'],
    image_mlp_dim=description['v_intermediate_size'],
    joint_width=description['bi_hidden_size'],
    joint_heads=description['bi_num_attention_heads'],
    text_places=tuple(description['t_biattention_id']) if meet else (),
    image_places=tuple(description['v_biattention_id']) if meet else (),
    heads={name: head for name, head in known.items() if f'heads_{name}' in params},
    fusion=choice(description, 'fusion_method', {'mul': 'mul', 'sum': 'sum'}),
    num_tasks=len(params['text_embeddings'].get('task', {}).get('embedding', ())),
    max_length=description['max_position_embeddings'],
    num_types=description['type_vocab_size'],
    activation=activation,
    image_activation=choice(description, 'v_hidden_act', ACTIVATIONS),
    dtype=float_name(),
  )


def inputs_of(arrays: Fields) -> tuple[np.ndarray, ...]:
  """Returns the inputs of the model in its order."""
  inputs = (
    arrays['input/input_ids'],
    arrays['input/segment_ids'],
    arrays['input/input_mask'] > 0,
    arrays['input/features'].astype(float_name()),
    arrays['input/locations'].astype(float_name()),
    arrays['input/image_mask'] > 0,
  )
  task = arrays.get('input/task_ids')
  return inputs if task is None else (*inputs, task[:, 0])


def losses_of(
  description: Fields, arrays: Fields, outputs: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """Returns the losses in the file by their names there."""
  aligned_B = arrays['input/is_mismatched'] == 0
  word_BT = arrays['input/lm_labels']
  region_BR = arrays['input/image_label'] == 1
  if description['objective'] == 1:  # no masks are filled in mismatched pairs
    word_BT = np.where(aligned_B[:, None], word_BT, -1)
    region_BR = region_BR & aligned_B[:, None]
  found = {'alignment': pretraining.alignment(outputs['alignment'], aligned_B)}
  if outputs['words'].shape[:2] == word_BT.shape:  # not with a token of the task
    found['mlm'] = pretraining.masked_words(outputs['words'], word_BT, word_BT != -1)
  name = choice(description, 'visual_target', REGION_LOSSES)
  function = dict(
    region_kl=pretraining.masked_regions_kl, region_mse=pretraining.masked_regions_mse
  )[name]
  target_BRC = arrays['input/image_target'].astype(float_name())
  found[name] = function(outputs['regions'][:, 1:], target_BRC, region_BR)
  return found


REFERENCE = 'facebookresearch/vilbert-multi-task'

CHECKS = (
  Check(
    pretrained,
    REFERENCE,
    fields=('v_biattention_id', 't_biattention_id', 'bi_hidden_size'),
  ),
)
