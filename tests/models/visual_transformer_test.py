"""Tests of Visual Transformers; golden files check their numbers."""

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
import shapes
import torch_archives

from big_vision_like import spec
from big_vision_like.cost import flops
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.layers import visual_tokens
from big_vision_like.layers.visual_tokens import GROUPED, Projections
from big_vision_like.models import resnet, visual_transformer
from big_vision_like.ops import sharding
from big_vision_like.weights import torchvision_resnet, tree

EQUATIONS = Projections()
SMALL_GROUPED = Projections(4, 4, 2, use_bias=True, inner=True)
FORMS = {'equations': EQUATIONS, 'grouped': SMALL_GROUPED}
IMAGES = battery.images(3, 16, 24, 3)
MAP = battery.images(2, 5, 6, 16)


def small(projections=EQUATIONS, **arguments):
  backbone = visual_transformer.Convolutions((4, 8), (1, 2))
  sizes = dict(num_classes=5, num_tokens=4, width=16) | arguments
  return visual_transformer.VisualTransformer(
    backbone, projections=projections, **sizes
  )


def whole(name, **arguments):
  return visual_transformer.VisualTransformer(
    resnet.ResNet(**resnet.trunk(name)),
    num_classes=1000,
    projections=Projections(**GROUPED),
    **visual_transformer.variant(name) | arguments,
  )


def count(variables):
  return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(
  ('name', 'parameters', 'mmacs'),
  [
    # Operations of all layers, plus the products in attention (2 modules, then 3).
    ('R18', 11_604_280, 1561 + 7),
    ('R34', 21_767_736, 3264 + 12),
  ],
)
def test_published_parameters_and_operations(name, parameters, mmacs):
  model = whole(name)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  assert count(variables) == parameters
  apply = lambda v, x: model.apply(v, x)['logits']  # noqa: E731
  assert flops.count(apply, variables, image) / 2e6 == pytest.approx(mmacs, rel=0.01)


@pytest.mark.parametrize(
  ('arguments', 'millions'),
  [
    (dict(recurrent=False), {'R18': 11.07, 'R34': 20.70}),
    (dict(mixing='none'), {'R18': 8.45, 'R34': 17.04}),
  ],
)
def test_parts_taken_away_leave_the_published_parameters(arguments, millions):
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  for name, want in millions.items():
    model = whole(name, **arguments)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert round(count(variables) / 1e6, 2) == want


@pytest.mark.parametrize(
  ('argument', 'want'),
  [('grouped', 52_034), ('equations', 59_354), ('control', 14_746)],
)
def test_parameters_on_digits(argument, want):
  config = spec.load(f'configs/visual_transformer/digits.py:{argument}')
  model = spec.build(config.task.model)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  assert count(jax.eval_shape(model.init, jax.random.key(0), image)) == want


def permuted(x_BhwC):
  """Returns a map with permuted pixels, and the permutation."""
  x_BPC = np.asarray(x_BhwC).reshape(len(x_BhwC), -1, x_BhwC.shape[-1])
  order_P = np.random.default_rng(0).permutation(x_BPC.shape[1])
  return x_BPC[:, order_P].reshape(x_BhwC.shape), order_P


@pytest.mark.parametrize(
  ('form', 'kind'),
  [('equations', 'filter'), ('grouped', 'recurrent'), ('equations', 'clustering')],
)
def test_pixels_have_no_order(form, kind):
  module = visual_transformer.Module(kind, 4, 24, map_width=20, projections=FORMS[form])
  tokens = battery.images(2, 4, 24) if kind == 'recurrent' else None
  variables = battery.variables(module, MAP, tokens)
  moved, order = permuted(MAP)
  apply = jax.jit(module.apply)
  (one_map, one), (other_map, other) = (
    apply(variables, x, tokens) for x in (MAP, moved)
  )
  np.testing.assert_allclose(one, other, atol=1e-5)
  want = np.asarray(one_map).reshape(2, 30, 20)[:, order]
  np.testing.assert_allclose(np.asarray(other_map).reshape(2, 30, 20), want, atol=1e-5)
  assert np.abs(np.asarray(one_map - other_map)).max() > 0.1


@pytest.mark.parametrize('kind', visual_transformer.TOKENIZERS)
def test_tokens_are_means_of_values(kind):
  """Checks that pixel weights are >= 0 with sum 1, and tokens are between values."""
  tokenizer = visual_tokens.Tokenizer(kind, 4, 24)
  variables = battery.variables(tokenizer, MAP)
  tokens_BLD, sown = tokenizer.apply(variables, MAP, mutable=['intermediates'])
  weight_BLP = sown['intermediates'][kind]['probs'][0][:, 0]
  assert (weight_BLP >= 0).all()
  np.testing.assert_allclose(weight_BLP.sum(axis=-1), 1, rtol=1e-5)
  kernel_CD = variables['params']['value']['kernel'][:, 0]
  value_BPD = MAP.reshape(2, 30, 16) @ kernel_CD
  want = np.einsum('BLP,BPD->BLD', weight_BLP, value_BPD)
  np.testing.assert_allclose(tokens_BLD, want, atol=1e-5)
  assert (tokens_BLD <= value_BPD.max(axis=1, keepdims=True) + 1e-5).all()
  assert (tokens_BLD >= value_BPD.min(axis=1, keepdims=True) - 1e-5).all()


@pytest.mark.parametrize('form', FORMS)
def test_images_may_have_any_size(form):
  model = small(FORMS[form])
  trees = [
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    for size in ((224, 224), (320, 320), (96, 64))
  ]
  assert trees[0] == trees[1] == trees[2]
  outputs = jax.eval_shape(model.apply, trees[0], jnp.zeros((2, 20, 34, 3)))
  assert outputs['map'].shape == (2, 10, 17, 8)
  assert outputs['logits'].shape == (2, 5)


@pytest.mark.parametrize('form', FORMS)
def test_filters_made_of_tokens_that_equal_the_static_ones(form):
  projections = FORMS[form]
  if form == 'grouped':  # one head, and pixels are their own keys
    projections = Projections(1, 4, 2, use_bias=True, inner=True)
  static, recurrent = (
    visual_tokens.Tokenizer(kind, 4, 24, projections)
    for kind in ('filter', 'recurrent')
  )
  ours = battery.variables(static, MAP)['params']
  filter_CL = ours['filter']['kernel']
  # Each token is a unit vector, which the query projection maps to a filter.
  tokens_BLD = jnp.broadcast_to(jnp.eye(4, 24), (2, 4, 24))
  other = battery.variables(recurrent, MAP, tokens_BLD)['params']
  query = other['recurrent']['query']
  query['kernel'] = query['kernel'].at[:4, 0].set(filter_CL.T)
  if form == 'grouped':
    query['bias'] = 0.0 * query['bias']
    key = other['recurrent']['key']
    key['kernel'] = jnp.tile(jnp.eye(4), (1, 4))[:, None]
    key['bias'] = jnp.full_like(key['bias'], 0.3)  # a softmax is invariant to it
  params = {**ours, 'recurrent': other['recurrent']}
  del params['filter']
  want = static.apply({'params': ours}, MAP)
  got = recurrent.apply({'params': params}, MAP, tokens_BLD)
  np.testing.assert_allclose(got, want, atol=1e-5)


SWITCHES = {
  'filter': dict(recurrent=False),
  'pooling': dict(tokenizer='pooling'),
  'clustering': dict(tokenizer='clustering', recurrent=False),
  'graph': dict(mixing='graph'),
  'no_mixing': dict(mixing='none'),
}


class Given(nn.Module):
  """A backbone that returns its input."""

  def __call__(self, x_BhwC, train=False):
    return {'stage1': x_BhwC}


@pytest.mark.parametrize('projectors', ['between', 'none'])
@pytest.mark.parametrize('switch', SWITCHES)
def test_one_step_of_each_ablation(switch, projectors):
  form = 'equations' if projectors == 'between' else 'grouped'
  model = small(FORMS[form], projectors=projectors, **SWITCHES[switch])
  model = model.clone(backbone=Given())
  params = battery.variables(model, MAP)['params']

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    logits = model.apply({'params': params}, MAP)['logits']
    labels = jnp.arange(2)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  before, gradients = loss(params)
  assert loss(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients))[0] < before
  assert all(np.any(g) for g in jax.tree.leaves(gradients['module2']['mixing']['fc1']))
  assert ('projector' in params['module1']) == (projectors == 'between')


def test_mixing_options():
  """Checks which layers mix tokens, and that a graph is initialized to mix none."""
  tokens = battery.images(2, 4, 8)
  changed = tokens.copy()
  changed[:, 2] += 1.0
  for kind, mixes in dict(none=False, graph=True, transformer=True).items():
    module = visual_tokens.MIXINGS[kind]()
    variables = battery.variables(module, tokens)
    difference = module.apply(variables, changed) - module.apply(variables, tokens)
    assert np.abs(difference[:, 2]).max() > 0.1
    assert (np.abs(np.delete(difference, 2, axis=1)).max() > 1e-3) == mixes
  none, graph = (visual_tokens.MIXINGS[kind]() for kind in ('none', 'graph'))
  variables = graph.init(jax.random.key(0), tokens)
  alone = {'params': {'fc1': variables['params']['fc1']}}
  np.testing.assert_allclose(
    graph.apply(variables, tokens), none.apply(alone, tokens), atol=1e-6
  )


def test_norms_have_no_parameters_and_free_tokens_of_their_scale():
  module = visual_tokens.TokenTransformer(Projections(norm=True))
  plain = visual_tokens.TokenTransformer()
  tokens = battery.images(2, 4, 8)
  variables = battery.variables(module, tokens)
  jax.tree.map(
    np.testing.assert_array_equal, variables, battery.variables(plain, tokens)
  )
  for one, scaled in (module, True), (plain, False):
    branches = [one.apply(variables, s * tokens) - s * tokens for s in (1.0, 100.0)]
    # With larger tokens, the normalized tokens that are read stay the same.
    assert (np.abs(branches[1]).max() < 2 * np.abs(branches[0]).max()) == scaled


def test_stochastic_depth_and_dropout_apply_in_training_only():
  model = small(SMALL_GROUPED, depth=1, dropout=0.5, drop_path=0.5)
  model = model.clone(backbone=Given())
  variables = battery.variables(model, MAP)
  head = variables['params']['head']

  @jax.jit
  def train(key):
    outputs = model.apply(variables, MAP, train=True, rngs={'dropout': key})
    kept_logits = outputs['features'] @ head['kernel'] + head['bias'][None]
    return outputs['features'], outputs['logits'] - kept_logits

  one, two = map(train, jax.random.split(jax.random.key(0)))
  assert np.abs(one[0] - two[0]).max() > 1e-3  # effect of stochastic depth
  assert np.abs(one[1]).max() > 1e-3  # effect of dropout on features before the head
  still = model.clone(dropout=0.0, drop_path=0.0)
  texts = [str(jax.make_jaxpr(m.apply)(variables, MAP)) for m in (model, still)]
  assert texts[0] == texts[1]


def test_a_pyramid_joins_levels_of_any_size():
  model = visual_transformer.Pyramid(num_tokens=3, width=12)
  maps = dict(stage2=battery.images(2, 8, 6, 4), stage3=battery.images(2, 4, 3, 8))
  variables = battery.variables(model, maps)
  written, tokens = jax.jit(model.apply)(variables, maps)
  assert tokens.shape == (2, 6, 12)
  assert {k: x.shape for k, x in written.items()} == {
    k: x.shape for k, x in maps.items()
  }
  changed = maps | dict(stage3=maps['stage3'][:, ::-1] + 1.0)
  other, _ = jax.jit(model.apply)(variables, changed)
  assert np.abs(other['stage2'] - written['stage2']).max() > 1e-4


BAD = {
  'square': (
    dict(tokenizer='pooling', num_tokens=18),
    "num_tokens=18: tokenizer='pooling' resizes the map to a square of tokens; use 16"
    ' or 25',
  ),
  'pixels': (
    dict(tokenizer='clustering', num_tokens=97),
    '97 clusters from 96 vectors',
  ),
  'tokenizer': (
    dict(tokenizer='kmeans'),
    "tokenizer='kmeans' is not one of filter, pooling, clustering",
  ),
  'mixing': (
    dict(mixing='gcn'),
    "mixing='gcn' is not one of transformer, graph, none",
  ),
  'projectors': (
    dict(projectors='last'),
    "projectors='last' is not one of between, all, none",
  ),
  'depth': (dict(depth=0), 'depth=0 and num_tokens=4: .* at least 1 module'),
  'heads': (
    dict(projections=Projections(num_heads=3)),
    "num_heads=3 does not divide the 16 channels of 'value': change num_heads, or",
  ),
  'groups': (
    dict(projections=Projections(groups=3)),
    "projection 'value': 3 groups do not divide 8 inputs and 16 outputs",
  ),
  'token_groups': (
    dict(projections=Projections(token_groups=5)),
    "projection 'query': 5 groups do not divide 16 inputs and 8 outputs",
  ),
  'map_width': (
    dict(projections=SMALL_GROUPED, map_width=18),
    "num_heads=4 does not divide the 18 channels of 'query'.*map_width",
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
  arguments, message = BAD[case]
  with pytest.raises(UserError, match=message):
    jax.eval_shape(small(**arguments).init, jax.random.key(0), IMAGES)


def test_other_bad_input():
  with pytest.raises(
    UserError, match="no Visual Transformer 'R26': choose from R18, R34"
  ):
    visual_transformer.variant('R26')
  tokenizer = visual_tokens.Tokenizer('recurrent', 4, 24)
  for tokens, given in (None, 0), (jnp.zeros((2, 3, 24)), 3):
    with pytest.raises(UserError, match=f'needs 4 tokens as input, but got {given}'):
      jax.eval_shape(tokenizer.init, jax.random.key(0), MAP, tokens)
  backbone = visual_transformer.Convolutions((4,), (1, 2))
  with pytest.raises(UserError, match='must have the same length, at least 1'):
    jax.eval_shape(backbone.init, jax.random.key(0), IMAGES)
  for argument, message in (
    ('i1k.py:R18,pooling,64tokens', 'a ResNet has no 64tokens, pooling'),
    ('i1k.py:VT-R18,no_teacher', 'only the advanced recipe has a teacher'),
    ('digits.py:control,graph', 'the control has no modules to change'),
  ):
    with pytest.raises(UserError, match=message):
      spec.load(f'configs/visual_transformer/{argument}')


def test_a_backbone_starts_as_a_published_resnet(tmp_path, capsys):
  published = resnet.ResNet(
    (1, 1, 1, 1), False, num_classes=7, channels=(4, 6, 8, 10), root=4
  )
  image = battery.images(1, 64, 64, 3)
  theirs = battery.variables(published, image)
  path = tmp_path / 'resnet.pth'
  torch_archives.save(path, torchvision_resnet.to_torchvision(theirs))
  config = spec.load('configs/visual_transformer/i1k.py:VT-R18,pretrained')
  assert config.init_from.weights.path == 'weights/resnet18-f37072fd.pth'
  config.init_from.weights.path = str(path)
  source = spec.build(config.init_from)
  model = visual_transformer.VisualTransformer(
    published.clone(depths=(1, 1, 1), num_classes=0), num_classes=5, width=16
  )
  ours = battery.variables(model, image)
  found = source.fit(ours, {})
  told = capsys.readouterr().out
  assert 'loaded 27 of' in told and 'statistics' in told
  assert 'left out of the weights: ' in told and 'stage4' in told
  assert 'newly initialized: ' in told and 'module1/mixing/key/kernel' in told
  for kind in ('params', 'batch_stats'):
    for part, array in tree.flatten(found[kind]['backbone']).items():
      np.testing.assert_array_equal(array, tree.flatten(theirs[kind])[part])
  random_weights.assert_same(found['params']['module1'], ours['params']['module1'])
  want = published.apply(theirs, image)['stage3']
  got = model.clone(projectors='none').apply(
    jax.tree.map(jnp.asarray, {k: v for k, v in found.items()}), image
  )
  np.testing.assert_allclose(got['map'], want, atol=1e-6)


def test_rates_of_both_recipes():
  """Checks 0.1, divided by 10 every 30 epochs; 0.01 to 0.16, then x 0.9875 an epoch."""
  for argument, batch_size, places in (
    ('VT-R18', 256, {0: 0.1, 29: 0.1, 30: 0.01, 89: 1e-3}),
    (
      'VT-R18,advanced',
      2048,
      {0: 0.01, 5: 0.16, 6: 0.16 * 0.9875, 105: 0.16 * 0.9875**100},
    ),
  ):
    config = spec.load(f'configs/visual_transformer/i1k.py:{argument}')
    examples = 100 * batch_size
    plain = spec.in_steps(config, examples, batch_size)
    optimizer = spec.build(plain['task']['optimizer'])
    for epoch, want in places.items():
      assert optimizer.rate_at(100 * epoch) == pytest.approx(want, rel=1e-4)
  task = config.task
  assert (task.weight, task.kind, task.label_smoothing) == (0.8, 'soft', 0.1)
  assert task.ema.decay == 0.99985 and task.model.dropout == 0.2
  assert task.model.drop_path == task.model.backbone.drop_path == 0.1


@pytest.mark.parametrize('form', FORMS)
def test_array_names_match_their_axes(form, key):
  for arguments in (
    dict(depth=2, map_width=20),
    dict(tokenizer='pooling', mixing='graph', projectors='all'),
    dict(tokenizer='clustering', mixing='none', recurrent=False),
  ):
    model = small(FORMS[form], drop_path=0.1, num_classes=7, **arguments)
    image = jax.ShapeDtypeStruct((5, 12, 18, 3), jnp.float32)

    def forward(image, model=model):
      variables = model.init(key, image)
      model.apply(
        variables, image, train=True, rngs={'dropout': key}, mutable=['batch_stats']
      )
      return model.apply(variables, image, mutable=['intermediates'])

    ours = (f'big_vision_like/{x}' for x in ('models', 'layers', 'ops/clustering'))
    with shapes.checked(*ours) as seen:
      jax.eval_shape(forward, image)
    assert {'x_BhwC', 'v_BPGV', 'tokens_BLD', 'features_BD', 'x_BPC'} <= seen.keys()
  with shapes.checked('big_vision_like/models'):
    jax.eval_shape(model.backbone.clone(num_classes=7).init, key, image)


def test_heads_are_split_over_a_mesh():
  module = visual_transformer.Module('filter', 4, 16, projections=SMALL_GROUPED)
  variables = battery.variables(module, MAP)
  want, _ = jax.jit(module.apply)(variables, MAP)
  mesh = meshes.make_mesh(data=1, tensor=2, devices=jax.devices()[:2])

  @jax.jit
  def split(variables, x):
    with sharding.on_mesh(mesh):
      return module.apply(variables, x)

  placed = jax.device_put((variables, MAP), sharding.replicated(mesh))
  got, _ = split(*placed)
  np.testing.assert_allclose(got, want, atol=1e-5)
