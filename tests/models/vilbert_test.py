"""ViLBERT's and VisualBERT's own properties; the battery has what all models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapes
from battery import variables
from battery import vilbert as cases

from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.layers import pairs
from big_vision_like.models import vilbert, visual_bert

PRETRAINING = cases.PRETRAINING | {'regions': pairs.Regions()}
ALL = PRETRAINING | dict(
  vqa=pairs.Answers(3129),
  gqa=pairs.Answers(1533),
  nlvr2=pairs.Answers(2, images=2),
  match=pairs.Classes(1),
  entailment=pairs.Classes(3),
  region_scores=pairs.RegionScores(),
  word_scores=pairs.WordScores(),
)
# Of the published code, for each connection: never used, and left out here.
UNUSED = 1024 * 1024 + 1024 + 1024 * 768 + 768


def counted(model, width=2048):
  found = jax.eval_shape(model.init, jax.random.key(0), *cases.inputs(width=width))
  return sum(leaf.size for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
  ('name', 'heads', 'count'),
  [
    ('2', {}, 157_465_600),
    ('4', {}, 202_096_128),
    ('6', {}, 246_726_656),
    ('8', {}, 291_357_184),
    ('2', PRETRAINING, 160_782_973),
    ('4', PRETRAINING, 205_413_501),
    ('6', PRETRAINING, 250_044_029),
    ('8', PRETRAINING, 294_674_557),
    ('6', ALL, 268_013_499),
  ],
)
def test_published_parameters(name, heads, count):
  model = vilbert.ViLBERT(**vilbert.variant(name), heads=heads)
  assert counted(model) == count - int(name) * UNUSED


def test_operations_are_those_of_its_matrices():
  model = vilbert.ViLBERT(**vilbert.variant('6'))
  inputs = inputs_of(1, 36, 37)
  found = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  macs = flops.count(model.apply, found, *inputs) / 2
  text, image, joint = 768, 1024, 1024
  tokens, regions = 36, 37
  per_text = tokens * (4 * text**2 + 8 * text**2) + 2 * tokens**2 * text
  per_image = regions * (4 * image**2 + 2 * image**2) + 2 * regions**2 * image
  per_both = tokens * (2 * text * joint + 8 * text**2)  # query, out, MLP
  per_both += tokens * 2 * text * joint  # keys and values for the image
  per_both += regions * (2 * image * joint + 2 * image**2 + 2 * image * joint)
  per_both += 4 * tokens * regions * joint
  pooled = (text + image) * joint
  want = 12 * per_text + 6 * (per_image + per_both) + pooled
  want += regions * (2048 + 5) * image
  np.testing.assert_allclose(macs, want, rtol=0.01)


def inputs_of(batch, length, regions):
  """Shapes of inputs as published."""
  return (
    jax.ShapeDtypeStruct((batch, length), jnp.int32),
    jax.ShapeDtypeStruct((batch, length), jnp.int32),
    jax.ShapeDtypeStruct((batch, length), bool),
    jax.ShapeDtypeStruct((batch, regions, 2048), jnp.float32),
    jax.ShapeDtypeStruct((batch, regions, 5), jnp.float32),
    jax.ShapeDtypeStruct((batch, regions), bool),
  )


MODELS = {
  'vilbert': vilbert.ViLBERT(**cases.SMALL, heads=cases.HEADS),
  'visual_bert': visual_bert.VisualBert(**cases.STREAM, heads=cases.HEADS),
}


@pytest.fixture(scope='module', params=MODELS)
def small(request):
  model, inputs = MODELS[request.param], cases.inputs()
  found = variables(model, *inputs)
  apply = jax.jit(model.apply)
  return lambda *inputs: apply(found, *inputs), inputs


def test_the_order_of_regions_does_not_matter(small):
  apply, inputs = small
  order = np.array([0, 4, 2, 5, 1, 3])
  moved = *inputs[:3], *(x[:, order] for x in inputs[3:])
  one, other = apply(*inputs), apply(*moved)
  for name, value in one.items():
    by_region = name in ('image', 'regions', 'region_scores')
    want = value[:, order] if by_region else value
    np.testing.assert_allclose(want, other[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_padding_of_either_modality_changes_nothing(small):
  apply, inputs = small
  tokens, types, seen, regions, locations, seen_regions = inputs
  one = apply(*inputs)
  hidden = ~seen_regions[..., None]
  other = apply(
    np.where(seen, tokens, 1),
    np.where(seen, types, 1 - types),
    seen,
    np.where(hidden, regions + 7, regions),
    np.where(hidden, 0.5, locations),
    seen_regions,
  )
  assert not seen.all() and not seen_regions.all()
  for name, value in one.items():
    if name in ('text', 'words', 'word_scores'):
      value, changed = value[seen], other[name][seen]
    elif name in ('image', 'regions', 'region_scores'):
      value, changed = value[seen_regions], other[name][seen_regions]
    else:
      changed = other[name]
    np.testing.assert_allclose(value, changed, atol=1e-5, rtol=1e-5, err_msg=name)
  assert (one['region_scores'][~seen_regions] < -9000).all()


def test_streams_meet_only_in_connections():
  inputs = cases.inputs()
  other = (*inputs[:3], inputs[3] + 1.0, *inputs[4:])
  for places, apart in (((), True), ((1,), False)):
    sizes = cases.SMALL | dict(text_places=places, image_places=places)
    model = vilbert.ViLBERT(**sizes)
    found = variables(model, *inputs)
    apply = jax.jit(model.apply)
    one, two = apply(found, *inputs), apply(found, *other)
    assert np.array_equal(one['text'], two['text']) == apart
    assert not np.array_equal(one['image'], two['image'])


def test_remat_changes_nothing():
  inputs = cases.inputs()
  sizes = cases.SMALL | dict(
    depth=1, image_depth=1, text_places=(0,), image_places=(0,)
  )
  model = vilbert.ViLBERT(**sizes, dropout=0.0, attention_dropout=0.0)
  found = variables(model, *inputs)

  def gradient(remat):
    def loss(found):
      outputs = model.clone(remat=remat).apply(found, *inputs, train=True)
      return jnp.square(outputs['fused']).mean()

    return jax.jit(jax.grad(loss))(found)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4),
    gradient('none'),
    gradient('full'),
  )


def test_pairs_of_images_are_classified_together(key):
  model = vilbert.ViLBERT(**cases.SMALL, heads={'nlvr2': pairs.Answers(2, images=2)})
  found = jax.eval_shape(model.init, key, *cases.inputs())
  outputs = jax.eval_shape(model.apply, found, *cases.inputs())
  assert outputs['nlvr2'].shape == (2, 2)
  with pytest.raises(UserError, match='a batch of 3 does not divide into groups of im'):
    jax.eval_shape(model.apply, found, *cases.inputs(3))


def test_weight_norm_keeps_its_starting_point(key):
  """Starts the norm at that of the kernel, so the layer starts as a Dense layer."""
  layer = pairs.NormedDense(3)
  x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  params = layer.init(key, x)['params']
  np.testing.assert_allclose(
    layer.apply({'params': params}, x), x @ params['kernel'], atol=1e-6
  )
  doubled = params | {'scale': 2 * params['scale'], 'kernel': 5 * params['kernel']}
  np.testing.assert_allclose(
    layer.apply({'params': doubled}, x), 2 * x @ params['kernel'], atol=1e-5
  )


@pytest.mark.parametrize('name', MODELS)
def test_shapes_are_as_named(name, key):
  folders = 'big_vision_like/models', 'big_vision_like/layers'
  with shapes.checked(*folders) as seen:
    jax.eval_shape(MODELS[name].init, key, *cases.inputs())
  assert {'x_BTD', 'x_BRE', 'x_BP', 'scores_BR', 'kernel_IO'} <= seen.keys()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'fusion': 'max'}, "fusion='max' is not one of mul, sum"),
    ({'text_places': (0, 3)}, 'text_places=0, 3 must be ascending numbers of blocks'),
    ({'image_places': (1, 0)}, 'image_places=1, 0 must be ascending'),
    ({'text_places': (0,)}, 'must name as many blocks'),
    ({'joint_heads': 5}, 'joint_width=32 is not divisible by joint_heads=5'),
    ({'num_tasks': 2}, 'num_tasks=2 needs the array `task`'),
    ({'remat': 'some'}, "remat='some' is not one of none"),
  ],
)
def test_mistakes_are_sentences(options, message, key):
  model = vilbert.ViLBERT(**cases.SMALL | options)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(model.init, key, *cases.inputs())


def test_unknown_variants_are_named():
  with pytest.raises(UserError, match="unknown ViLBERT '5': choose 2, 4, 6 or 8"):
    vilbert.variant('5')
  assert vilbert.variant('6,large')['text_places'] == (18, 19, 20, 21, 22, 23)
