import functools
import json
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import random_weights
import torch_archives
from random_weights import (
  VIT,
  assert_same,
  small_detr,
  small_regnet,
  small_resnet,
  variables_of,
)

from big_vision_like.errors import UserError
from big_vision_like.models import bit as bit_models
from big_vision_like.models import detr as detr_models
from big_vision_like.models import resnet, vit
from big_vision_like.weights import (
  bit,
  detr,
  family,
  files,
  published,
  timm_vit,
  torchvision_resnet,
  transformers_vit,
  tree,
  vision_transformer,
)
from big_vision_like.weights.beside import Beside

MODELS = {
  'vit': vit.ViT(num_classes=5, **VIT),
  'bit': bit_models.BiT(num_classes=5, depths=(2, 1)),
  'bit_v1': bit_models.BiTv1(num_classes=5, depths=(2, 1)),
  'resnet': small_resnet(num_classes=5),
  'basic': small_resnet(bottleneck=False),
  'regnet': small_regnet(),
  'regnet_x': small_regnet(num_classes=0, squeeze=0.0),
  'detr': small_detr(masks=True),
  'prenorm': small_detr(norm='pre'),
  'learned': small_detr(bottleneck=False, positions='learned'),
}
# All files that can be written for each model: the model, the source, and the writer.
FILES = [
  pytest.param(name, source, write, id=f'{name}-{source.name}-{library}')
  for name, model in MODELS.items()
  for kind in family.families().values()
  if type(model) is kind.model
  for source in kind.sources
  for library, write in source.writes.items()
  # transformers has no such DETR.
  if name not in ('prenorm', 'learned') or library != 'transformers'
]
ARCHITECTURE = VIT | dict(
  pool='token',
  posemb='learned',
  posemb_at='stem',
  resnet=None,
  registers=0,
  rep_size=0,
  activation='gelu',
  epsilon=1e-6,
)
# The computation differs in models from these sources.
COMPUTED = {
  'timm ViT': dict(activation='gelu_exact'),
  'transformers ViT': dict(activation='gelu_exact', epsilon=1e-12),
}


def read(arrays, suffix='.safetensors', num_heads=None, no_embed_class=None, **beside):
  """Returns weights from arrays, as if read from a file next to these JSON files."""
  path = pathlib.Path(f'weights{suffix}')
  beside = {f'{name}.json': content for name, content in beside.items()}
  known = Beside(path, beside, num_heads, no_embed_class)
  return published.of_arrays(arrays, known)


@functools.cache
def weights_of(name):
  """Returns random weights of a small model, which tests must not change."""
  model = MODELS[name]
  variables = variables_of(model, (24, 24) if name == 'vit' else (64, 96))
  kind = next(n for n, x in family.families().items() if x.model is type(model))
  return published.describe(family=kind, **variables)


@pytest.mark.parametrize('name, source, write', FILES)
def test_sources_are_distinguished(name, source, write):
  want = weights_of(name)
  # Equal except for the names and parents that Flax sets.
  assert want.model.clone(parent=None) == MODELS[name].clone(parent=None)
  heads = want.architecture.get('num_heads')
  arrays = write(want)
  got = read(arrays, source.suffixes[0], num_heads=heads)
  assert (got.source, got.family) == (source.name, want.family)
  assert (got.num_classes, got.channels) == (MODELS[name].num_classes, 3)
  assert got.architecture == want.architecture | COMPUTED.get(source.name, {})
  assert_same(write(got), arrays)
  # In files of big_vision the position of the class token is added to the token itself.
  if source.name != 'vision_transformer or big_vision ViT':
    assert_same(got.variables, want.variables)


@pytest.mark.parametrize(
  'other',
  [
    dict(pool='gap'),
    dict(pool='map', posemb='none'),
    dict(rep_size=20),
    dict(patch=(8, 12)),
    dict(registers=2),
    dict(resnet=(), patch=2),
    dict(resnet=(2, 1), patch=1),
    dict(posemb='learned2d'),
    dict(posemb='learned2d', posemb_at='every'),
    dict(posemb_at='every'),
    dict(posemb='relative', posemb_at='every'),
    dict(posemb='relative', posemb_at='shared'),
  ],
)
def test_shapes_tell_the_architecture(other):
  square = {k: v for k, v in other.items() if v != (8, 12)}
  params = random_weights.small_vit(**square)
  if square != other:
    params['embed']['kernel'] = np.ones((8, 12, 3, 36), np.float32)
  got = published.describe(tree.stack_blocks(params), 'vit')
  assert got.architecture == ARCHITECTURE | other
  assert_same(got.params, params)


def test_computed_positions_are_assumed(tmp_path):
  arrays = vision_transformer.to_npz(
    random_weights.small_vit(pool='gap', posemb='sincos2d')
  )
  path = tmp_path / 'weights.npz'
  files.write(path, arrays)
  got = published.read(path)
  assert got.architecture['posemb'] == 'sincos2d'
  assert "posemb='sincos2d'" in got.assumed[0]
  # Files of our writer state it.
  told = got.architecture | {'posemb': 'none'}
  ours = dict(family='vit', architecture=told, assumed=['something else'])
  ours |= {'metadata': {'config.json': {'a': 1}}}
  path.with_suffix('.json').write_text(json.dumps(ours))
  got = published.read(path)
  assert (got.architecture['posemb'], got.assumed) == ('none', ('something else',))
  assert got.metadata.keys() == {'weights.json', 'config.json'}
  ours['architecture']['depth'] = 3
  with pytest.raises(UserError, match='weights.json: depth is 3, but 2 in the weights'):
    read(arrays, '.npz', weights=ours)


def test_heads_come_from_a_config_or_are_assumed():
  state = timm_vit.to_timm(random_weights.small_vit(width=128, num_heads=2))
  assumed = read(state)
  assert assumed.architecture['num_heads'] == 2  # one per 64
  assert any('num_heads=2' in text for text in assumed.assumed)
  assert read(state, num_heads=4).architecture['num_heads'] == 4
  config = {'model_args': {'num_heads': 8, 'act_layer': 'gelu_tanh'}}
  told = read(state, config=config)
  assert (told.architecture['num_heads'], told.assumed) == (8, ())
  assert told.architecture['activation'] == 'gelu'
  assert told.metadata == {'config.json': config}

  state = transformers_vit.to_transformers(weights_of('vit').params)
  config = dict(num_attention_heads=4, hidden_act='gelu', layer_norm_eps=1e-12)
  told = read(state, config=config)
  assert (told.architecture['num_heads'], told.assumed) == (4, ())
  assert told.architecture['activation'] == 'gelu_exact'
  assert told.architecture['epsilon'] == 1e-12
  told = read(state, config=config | {'hidden_act': 'silu'})
  assert told.architecture['activation'] == 'silu'
  with pytest.raises(UserError, match="our ViT does not have the activation 'quick_ge"):
    read(state, config=config | {'hidden_act': 'quick_gelu'})


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(num_attention_heads='3'), "'num_attention_heads': '3' is not a positive wh"),
    (dict(model_args=[3]), r'model_args is \[3\], not fields by name'),
    (dict(global_pool='avg'), "global_pool='avg', but our ViT .* pools by 'token'"),
  ],
)
def test_configs_that_say_something_else(config, words):
  with pytest.raises(UserError, match=words):
    read(timm_vit.to_timm(weights_of('vit').params), config=config)


def test_the_published_giants_have_sixteen_heads():
  params = random_weights.small_vit(width=1280, num_heads=16, depth=1, mlp_dim=8)
  assert read(timm_vit.to_timm(params)).architecture['num_heads'] == 16


def test_whether_the_class_token_has_a_position():
  state = timm_vit.to_timm(weights_of('vit').params)
  without = state | {'pos_embed': state['pos_embed'][:, 1:]}
  got = read(without, num_heads=3).params['pos_embedding']
  assert got.shape == (1, 10, 36) and not got[:, 0].any()
  either = state | {'pos_embed': state['pos_embed'][:, :7]}
  with pytest.raises(UserError, match='7 positions may or may not.*no_embed_class'):
    read(either, num_heads=3)
  config = {'model_args': {'no_embed_class': True}}
  for told, rows in (
    (dict(no_embed_class=False), 7),
    (dict(no_embed_class=True), 8),
    (dict(config=config), 8),
  ):
    got = read(either, num_heads=3, **told)
    assert got.params['pos_embedding'].shape == (1, rows, 36)


def test_a_folder(tmp_path):
  state = timm_vit.to_timm(weights_of('vit').params)
  with pytest.raises(UserError, match='has no model.safetensors: name a file'):
    published.read(tmp_path)
  torch_archives.save(tmp_path / 'pytorch_model.bin', state | {'cls_token': np.ones(3)})
  with pytest.raises(UserError, match='pytorch_model.bin: shapes that do not fit'):
    published.read(tmp_path)
  torch_archives.save(tmp_path / 'pytorch_model.bin', state)
  assert published.read(tmp_path).source == 'timm ViT'
  files.write(tmp_path / 'model.safetensors', state)
  assert published.read(tmp_path).source == 'timm ViT'
  (tmp_path / 'preprocessor_config.json').write_text('{"size": 3}')
  metadata = published.read(tmp_path).metadata
  assert metadata == {'preprocessor_config.json': {'size': 3}}
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(UserError, match='config.json is not JSON'):
    published.read(tmp_path)
  (tmp_path / 'config.json').write_text('[]')
  with pytest.raises(UserError, match='config.json holds a list'):
    published.read(tmp_path)


def test_another_architecture_is_refused_with_ten_differences():
  other = {
    'patch_embed.proj.weight': np.ones((8, 3, 4, 4)),
    'patch_embed.proj.bias': np.ones(8),
    'norm.weight': np.ones(8),
    'norm.bias': np.ones(8),
    'first.bias': np.ones(5),
  }
  for i in range(6):
    other[f'stages.{i}.mixers.0.table'] = np.ones((9, 3))
    other[f'stages.{i}.mixers.0.weight'] = np.ones((24, 8))
  with pytest.raises(UserError, match='weights of an unknown architecture') as told:
    read(other)
  first, *lines = str(told.value).split('\n')
  assert 'nearest to timm ViT. Names that differ: 25, starting' in first
  assert len(lines) == 10
  assert lines[0] == '  unknown first.bias'
  assert lines[-1] == '  missing blocks.0.mlp.fc1.bias'
  with pytest.raises(UserError, match='nearest to big_vision BiT. .*\n  unknown a\n'):
    read({'a': np.ones(2), 'head/bias': np.ones(2)}, '.npz')


@pytest.mark.parametrize('half', [False, True])
def test_nan_is_refused_by_name(half):
  flat = vision_transformer.to_npz(random_weights.small_vit())
  flat['head/bias'][1] = np.nan
  flat['cls'][0, 0, 3] = np.inf
  if half:
    flat = {name: a.astype(ml_dtypes.bfloat16) for name, a in flat.items()}
  with pytest.raises(UserError, match='NaN or infinities in cls, head/bias$'):
    read(flat, '.npz')


@pytest.mark.parametrize(
  'name, shape, words',
  [
    ('head/kernel', (35, 5), r'head/kernel \(35, 5\) is not \(36, 5\)'),
    ('Transformer/encoderblock_1/LayerNorm_0/bias', (9,), r'norm1/bias \(9,\) is not'),
    ('embedding/kernel', (8, 36), r'embed/kernel \(8, 36\) is not \(P, Q, I, 36\)'),
  ],
)
def test_shapes_that_do_not_fit_each_other(name, shape, words):
  flat = vision_transformer.to_npz(weights_of('vit').params)
  flat[name] = np.ones(shape)
  with pytest.raises(UserError, match=f'shapes that do not fit: .*{words}'):
    read(flat, '.npz')


@pytest.mark.parametrize('name, source, write', FILES)
def test_unknown_and_missing_names_are_listed(name, source, write):
  whole, heads = write(weights_of(name)), weights_of(name).architecture.get('num_heads')
  *_, gone = (array for array in whole if re.search('[nN]orm|bn|gn', array))
  beside = Beside(pathlib.Path('f'), num_heads=heads)
  for arrays, differences, words in (
    (whole | {'extra': np.ones(2)}, ({'extra'}, set()), 'unknown extra'),
    ({k: v for k, v in whole.items() if k != gone}, (set(), {gone}), 'missing'),
  ):
    assert source.differences(arrays) == differences
    with pytest.raises(UserError, match=f'^f: {words}'):
      source.read(arrays, beside)


@pytest.mark.parametrize('name, source, write', FILES)
def test_no_shape_gets_through(name, source, write):
  arrays = write(weights_of(name))
  heads = weights_of(name).architecture.get('num_heads')
  firsts = {}  # one array of each kind
  for array in arrays:
    firsts.setdefault(re.sub(r'\d', '', array), array)
  assert len(firsts) > 8
  for array in firsts.values():
    if arrays[array].size == 1:  # the bias of a mask
      continue
    for shape in ((), (9,), (0, 2), (1, 1, 1, 1, 1)):
      with pytest.raises(UserError, match='.'):
        bad = arrays | {array: np.ones(shape, np.float32)}
        print(array, read(bad, source.suffixes[0], num_heads=heads).source)


def test_shapes_of_other_layouts_that_do_not_fit():
  state = timm_vit.to_timm(weights_of('vit').params)
  state['blocks.0.attn.qkv.weight'] = np.ones((108, 35), np.float32)
  with pytest.raises(UserError, match='shapes that do not fit'):
    read(state, num_heads=3)
  flat = bit.BIG_TRANSFER.write(weights_of('bit').params)
  flat['resnet/group_norm/beta'] = np.ones(3)
  with pytest.raises(UserError, match=r'resnet/norm/bias \(3,\) is not \(512,\)'):
    read(flat, '.npz')


@pytest.mark.parametrize('classes, masks', [(91, False), (250, True)])
def test_published_sizes(classes, masks):
  backbone = resnet.ResNet(**resnet.variant('R50'), norm='frozen')
  model = detr_models.DETR(classes, backbone, masks=masks)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  variables = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
  found = published.describe(
    variables['params'], 'detr', constants=variables['constants']
  )
  assert (found.num_classes, found.architecture['num_queries']) == (classes, 100)
  assert found.model.clone(parent=None) == model.clone(parent=None)


def test_facts_that_files_of_detectors_lack():
  variables = variables_of(small_detr(num_heads=8))
  state = detr.to_facebook(variables)

  def of(path, state=state, num_heads=None, **config):
    told = {'config.json': config}
    return published.of_arrays(state, Beside(pathlib.Path(path), told, num_heads))

  found = of('mine.pth')
  assert [text.split('=')[0] for text in found.assumed] == [
    'num_heads',
    'backbone.dilated',
  ]
  assert found.architecture['num_heads'] == 8
  assert found.architecture['backbone']['dilated'] is False
  assert len(of('mine.pth', num_heads=4).assumed) == 1
  dilated = {'detr-r50-dc5-f0fb7ef5': True, 'detr-r101-2c7b67e5': False}
  for name, told in dilated.items():
    found = of(f'{name}.pth')
    assert found.architecture['backbone']['dilated'] is told
    assert len(found.assumed) == 1
  path = 'detr-resnet-50/model.safetensors'
  config = dict(encoder_attention_heads=2, decoder_attention_heads=2, dilation=True)
  state = detr.to_transformers(variables)
  assert of(path, state, num_heads=4).assumed == ()
  found = of(path, state, **config)
  assert (found.assumed, found.architecture['num_heads']) == ((), 2)
  assert found.architecture['backbone']['dilated'] is True
  for change, words in (
    (dict(decoder_attention_heads=4), '2 heads in the encoder and 4 in the decoder'),
    (dict(activation_function='gelu'), "our DETR has relu, not 'gelu'"),
  ):
    with pytest.raises(UserError, match=words):
      of(path, state, **config | change)


def test_our_writer_stores_a_detectors_architecture():
  state = detr.to_facebook(variables_of(small_detr()))
  told = read(state, num_heads=4).architecture
  told['backbone']['dilated'] = True
  about = dict(family='detr', architecture=told, assumed=[], metadata={})
  found = read(state, weights=about)
  assert (found.architecture, found.assumed) == (told, ())
  told['backbone']['root'] = 5
  with pytest.raises(UserError, match='backbone/root is 5, but 4 in the weights'):
    read(state, weights=about)


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(architecture='resnetblur50'), "'resnetblur50' makes other ResNets than ours"),
    (dict(downsample_in_bottleneck=True), 'downsample_in_bottleneck makes other ResNe'),
  ],
)
def test_resnets_with_the_same_arrays(config, words):
  state = torchvision_resnet.to_torchvision(weights_of('resnet').variables, 'frozen')
  state['bn1.num_batches_tracked'] = np.array(7)
  assert read(state, config=dict(architecture='resnet50'))
  with pytest.raises(UserError, match=words):
    read(state, config=config)


@pytest.mark.parametrize(
  'prefix', ['module.', 'model.', '_orig_mod.', '_orig_mod.module.', 'model.encoder.']
)
@pytest.mark.parametrize('name', ['vit', 'resnet', 'detr'])
def test_a_prefix_of_all_names_is_reported(name, prefix):
  want = weights_of(name)
  for source in want.family.sources:
    if '.pth' not in source.suffixes or not source.writes:
      continue
    [write] = source.writes.values()
    arrays = write(want)
    heads = want.architecture.get('num_heads')
    plain = read(arrays, num_heads=heads)
    got = read({prefix + k: x for k, x in arrays.items()}, num_heads=heads)
    assert (got.source, got.architecture) == (source.name, plain.architecture)
    told, *rest = got.assumed
    assert tuple(rest) == plain.assumed
    assert told == f'names without the prefix {prefix!r}, which all names have'
    assert_same(got.variables, plain.variables)


def test_a_prefix_of_names_of_another_architecture():
  state = timm_vit.to_timm(weights_of('vit').params)
  state = {f'module.{name}': array for name, array in state.items()}
  del state['module.norm.bias']
  words = 'nearest to timm ViT. Names that differ: 1,.*\n  missing module.norm.bias$'
  with pytest.raises(UserError, match=words):
    read(state)
  state = {f'module/{k}': x for k, x in random_arrays().items()}
  assert read(state, '.npz').assumed[0].startswith("names without the prefix 'module/'")


def random_arrays():
  return vision_transformer.to_npz(weights_of('vit').params)


def test_training_checkpoints(tmp_path):
  path, state = tmp_path / 'w.pth', timm_vit.to_timm(weights_of('vit').params)
  wrapped = {f'_orig_mod.module.{name}': array for name, array in state.items()}
  averaged = {f'module.{name}': array for name, array in state.items()}
  averaged['n_averaged'] = np.array(3)
  content = {'state_dict': {'model': wrapped, 'model_ema': averaged}, 'epoch': 3}
  torch_archives.save(path, content)
  told = published.read(path, num_heads=3).assumed
  assert told[0] == "'state_dict.model' of the file is read, not 'state_dict.model_ema'"
  assert told[1] == (
    "names without the prefix '_orig_mod.module.', which all names have"
  )
  torch_archives.save(path, {'model_ema': averaged})
  got = published.read(path, num_heads=3)
  assert got.assumed[0].startswith("names without the prefix 'module.'")
  assert_same(got.params, weights_of('vit').params)


@pytest.mark.parametrize('value', [True, 0, -3, 1.5, '3', [3], {}, 10**12])
def test_counts_are_positive_whole_numbers(value):
  state = timm_vit.to_timm(weights_of('vit').params)
  words = 'num_heads|num_attention_heads'
  for config in ({'num_attention_heads': value}, {'model_args': {'num_heads': value}}):
    with pytest.raises(UserError, match=f"config.json.*misstates '({words})'"):
      read(state, config=config)
  config = {'num_attention_heads': None, 'model_args': {'num_heads': None}}
  assert 'num_heads=1' in read(state, config=config).assumed[-1]


@pytest.mark.parametrize(
  'config, name',
  [
    ({'hidden_act': ['gelu']}, 'hidden_act'),
    ({'layer_norm_eps': -1e-6}, 'layer_norm_eps'),
    ({'layer_norm_eps': True}, 'layer_norm_eps'),
    ({'layer_norm_eps': float('nan')}, 'layer_norm_eps'),
    ({'image_size': [24, -24]}, 'image_size'),
    ({'image_size': 10**9}, 'image_size'),
    ({'dilation': 'no'}, 'dilation'),
    ({'model_args': {'no_embed_class': 'no'}}, 'no_embed_class'),
    ({'backbone_config': {'downsample_in_bottleneck': 1}}, 'downsample_in_bottleneck'),
  ],
)
def test_fields_of_configs_have_their_kind(config, name):
  with pytest.raises(UserError, match=f'config.json.* lacks or misstates {name!r}'):
    Beside(pathlib.Path('f'), {'config.json': config})


@pytest.fixture
def ours(tmp_path):
  """Returns the file of weights of our writer, and the fields of its JSON file."""
  path = tmp_path / 'weights.npz'
  files.write(path, random_arrays())
  return path, dict(
    family='vit',
    architecture=ARCHITECTURE,
    assumed=[],
    metadata={},
  )


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(architecture={'activation': 'mish'}), "activation is 'mish', which the wei"),
    (dict(architecture={'posemb': 'sincos2d'}), "posemb is 'sincos2d', which the wei"),
    (dict(architecture={'posemb_at': 3}), 'posemb_at is 3, which the weights cannot'),
    (dict(architecture={'epsilon': -1.0}), "misstates 'epsilon'"),
    (dict(architecture={'num_heads': True}), "misstates 'num_heads'"),
    (dict(architecture={'registers': False}), 'registers is False, but 0 in the we'),
    (dict(architecture={'colour': 1}), 'colour is 1, but None in the weights'),
    (dict(architecture={'posemb': {}}), 'architecture has fields without a value'),
    (dict(architecture=[]), r'architecture is \[\], not fields by name'),
    (dict(assumed='none'), "misstates 'assumed'"),
    (dict(assumed=None), "misstates 'assumed'"),
    (dict(family=None), "misstates 'family'"),
    (dict(metadata={'config.json': 3}), "misstates 'metadata'"),
    (dict(metadata={'config.json': {'hidden_act': 3}}), "misstates 'hidden_act'"),
    (dict(preprocessing=None), 'preprocessing is None, not fields by name'),
  ],
)
def test_fields_of_our_writer_are_checked(ours, change, words):
  path, fields = ours
  if isinstance(change.get('architecture'), dict):
    change = {'architecture': ARCHITECTURE | change['architecture']}
  path.with_suffix('.json').write_text(json.dumps(fields | change))
  with pytest.raises(UserError, match=words):
    published.read(path)


def test_a_file_of_our_writer_lacks_nothing(ours):
  path, fields = ours
  for name in fields:
    left = {k: x for k, x in fields.items() if k != name}
    path.with_suffix('.json').write_text(json.dumps(left))
    with pytest.raises(UserError, match=f'weights.json lacks {name!r}: write it again'):
      published.read(path)
  # Fields of an earlier file with the same name do not count.
  fields['metadata'] = {'weights.json': fields | {'architecture': {}}}
  path.with_suffix('.json').write_text(json.dumps(fields))
  assert published.read(path).architecture == ARCHITECTURE
