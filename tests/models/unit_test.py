"""UniT's own properties; the battery has what all models share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from battery import images, variables
from battery import unit as cases

from big_vision_like.errors import UserError
from big_vision_like.models import detr, unit

ANSWERS = cases.CASES['unit_answers']
ANSWERS = ANSWERS._replace(model=ANSWERS.model.clone(text=cases.text()))


class Maps(nn.Module):
  """A backbone whose images are its maps: convolutions see the padding of images."""

  def __call__(self, x_BhwI, train=False):
    return {'stage1': x_BhwI}


def test_names_of_arrays_are_true():
  with shapes.checked('big_vision_like/models/unit.py'):
    for case in (ANSWERS, cases.OBJECTS):
      jax.eval_shape(case.model.init, jax.random.key(0), *case.inputs)


def test_without_texts_residual_and_projections_it_is_detr():
  sizes = dict(encoder_depth=1, decoder_depth=2, num_heads=3, mlp_dim=20)
  sizes |= dict(width=24, num_queries=5)
  image_BHWC, size_B2 = cases.OBJECTS.inputs
  theirs = detr.DETR(num_classes=4, backbone=cases.backbone(), **sizes)
  ours = unit.UniT(
    unit.Objects(4, width=24),
    backbone=cases.backbone(),
    decoder_width=24,
    residual=False,
    project=False,
    **sizes,
  )
  state = variables(theirs, image_BHWC, size_B2)
  heads = {name: state['params'][name] for name in ('class_head', 'box_head')}
  own = {name: x for name, x in state['params'].items() if name not in heads}
  want = jax.jit(theirs.apply)(state, image_BHWC, size_B2)
  found = jax.jit(ours.apply)(
    {'params': own | {'head': heads}, 'constants': state['constants']},
    image_BHWC,
    size_B2,
  )
  for name in ('layer_logits', 'layer_boxes', 'features'):
    np.testing.assert_allclose(found[name], want[name], atol=1e-6)


def test_padding_of_maps_and_texts_changes_nothing():
  model = ANSWERS.model.clone(backbone=Maps())
  tokens_BT, types_BT, mask_BT = ANSWERS.inputs[2:]
  map_BhwI = images(4, 3, 4, 5)
  size_B2 = np.array([[3, 4], [2, 4], [3, 1], [1, 2]], np.int32)
  state = variables(model, map_BhwI, size_B2, *ANSWERS.inputs[2:])
  apply = jax.jit(model.apply)
  want = apply(state, map_BhwI, size_B2, tokens_BT, types_BT, mask_BT)
  noise = np.random.default_rng(0).integers(20, size=tokens_BT.shape, dtype=np.int32)
  others_BT = np.where(mask_BT, tokens_BT, noise)
  assert not np.array_equal(others_BT, tokens_BT)
  wider_BhwI = np.pad(map_BhwI, [(0, 0), (0, 2), (0, 3), (0, 0)], constant_values=7.0)
  found = apply(state, wider_BhwI, size_B2, others_BT, types_BT, mask_BT)
  np.testing.assert_allclose(found['logits'], want['logits'], atol=1e-5)
  longer = [np.pad(x, [(0, 0), (0, 3)]) for x in (tokens_BT, types_BT, mask_BT)]
  model = model.clone(text=model.text.clone(max_length=9))
  rows = state['params']['text']['embeddings']['position']['embedding']
  state['params']['text']['embeddings']['position']['embedding'] = jnp.pad(
    rows, [(0, 3), (0, 0)]
  )
  found = jax.jit(model.apply)(state, map_BhwI, size_B2, *longer)
  np.testing.assert_allclose(found['logits'], want['logits'], atol=1e-5)


def test_first_token_only_hides_the_rest_of_the_text_from_the_decoder():
  model = ANSWERS.model.clone(backbone=None, first_token_only=True)
  shape = jax.eval_shape(model.init_with_output, jax.random.key(0), *ANSWERS.inputs[2:])
  assert shape[0]['memory'].shape == (4, 1, 24)


def test_attributes_depend_on_the_class():
  head = unit.Objects(4, 3, 8)
  x_LBQD = jnp.ones((2, 1, 2, 8))
  state = variables(head, x_LBQD)

  def of(label_BQ):
    return head.apply(state, x_LBQD[-1], label_BQ, method='attributes')

  first, second = of(np.array([[0, 1]]))[0]
  assert not np.allclose(first, second)
  assert (of(np.array([[0, 1]])) >= 0).all()
  outputs = head.apply(state, x_LBQD)
  label_BQ = outputs['logits'][..., :-1].argmax(-1)
  np.testing.assert_array_equal(outputs['attributes'], of(label_BQ))
  assert 'attributes' not in head.apply(state, x_LBQD, train=True)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(), 'needs a backbone for images, a text encoder, or both'),
    (
      dict(text=cases.text(), task=2),
      'task=2 is not a row of the table of num_tasks=2',
    ),
    (
      dict(backbone=cases.backbone(), project=False),
      'project=False needs equal widths, not width=12 and decoder_width=24',
    ),
  ],
)
def test_wrong_arguments(arguments, message):
  model = unit.UniT(unit.Labels(2), **cases.ARGUMENTS | arguments)
  inputs = ANSWERS.inputs[:2] if model.text is None else ANSWERS.inputs[2:]
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), *inputs)
