import abc
import contextlib
import importlib
import json
import pathlib
import re

import ml_collections as mlc
import numpy as np
import optax
import pytest
import tiny_config

from big_vision_like import optim, spec
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.models import vit
from big_vision_like.run import experiment
from big_vision_like.spec import build, epochs, examples

SIZES = dict(num_classes=10, patch=4, width=8, depth=1, num_heads=2, mlp_dim=8)


def root(
  seed: int = 0,
  steps: int | None = 10,
  rate: float = 0.1,
  name: str = 'a',
  debug: bool = False,
  limit: int | None = None,
  shape: tuple = (1, 2),
  duration=None,
  parts=(),
  model=None,
):
  """Declares the fields of the configs in this file."""


def overridden(config: mlc.ConfigDict | dict, *texts: str) -> dict:
  config = mlc.ConfigDict(config)
  for text in texts:
    spec.override(config, text, root)
  return config.to_dict()


# spec() and build()


def test_build_makes_the_recorded_calls_innermost_first():
  node = spec.spec(
    optim.adamw,
    rate=spec.spec(optax.constant_schedule, value=0.5),
    decay_rules=[('.*kernel', 1.0), ('head/.*', 2.0)],
  )
  optimizer = build(node)
  assert isinstance(optimizer, optim.Optimizer)
  assert float(optimizer.rate_at(3)) == 0.5
  assert optimizer.decay_rules == [('.*kernel', 1.0), ('head/.*', 2.0)]


def test_a_recorded_call_is_plain_data_under_the_public_name():
  assert spec.spec(optax.constant_schedule, value=1.0).to_dict() == {
    '_fn': 'optax:constant_schedule',
    'value': 1.0,
  }
  assert spec.spec(image.Resize, size=8).to_dict() == {
    '_fn': 'big_vision_like.data.transforms.image:Resize',
    'size': 8,
  }
  # Configs of old runs have this path, which names the package, not its module.
  assert spec.spec(optim.adamw)['_fn'] == 'big_vision_like.optim:adamw'
  assert spec.symbol(spec.spec(optim.Ema)) is optim.Ema


def test_build_goes_through_lists_tuples_and_dicts():
  resize = spec.spec(image.Resize, size=3)
  built = build(mlc.ConfigDict(dict(a=[resize, 1], b=(resize, 'x'), c=dict(d=resize))))
  made = image.Resize(3)
  assert built == dict(a=[made, 1], b=(made, 'x'), c=dict(d=made))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: spec.spec(image.Resize, sise=8), "no field 'sise'; did you mean 'size'?"),
    (lambda: spec.spec(vit.ViT, dept=3), "'dept'; did you mean 'depth'?"),
    (
      lambda: spec.spec(image.Resize, colour=8),
      "no field 'colour'; it has size, method.",
    ),
    (
      lambda: build(mlc.ConfigDict(dict(a=[spec.spec(image.Resize)]))),
      r'config.a[0] (Resize) needs size.',
    ),
    (
      lambda: build({'_fn': 'big_vision_like.models.vit:ViTT'}, 'config.model'),
      "config.model._fn: 'big_vision_like.models.vit:ViTT' no longer exists; the"
      ' nearest name is big_vision_like.models.vit:ViT',
    ),
    (
      lambda: build({'_fn': 'big_vision_like.tasks.detection:Detecton'}),
      "config._fn: 'big_vision_like.tasks.detection:Detecton' no longer exists; the"
      ' nearest name is big_vision_like.tasks.set_detection:Detection',
    ),
    (
      lambda: build(
        spec.spec(
          optax.warmup_cosine_decay_schedule,
          init_value=0.0,
          peak_value=1.0,
          warmup_steps=100,
          decay_steps=50,
        ),
        'config.rate',
      ),
      'config.rate (warmup_cosine_decay_schedule): warmup_steps=100 leaves none of the'
      ' 50 steps (usually total_steps) for the decay: lower'
      ' config.rate.warmup_steps or train longer.',
    ),
    (
      lambda: build({'_fn': 'nowhere:name'}),
      "config._fn: cannot import 'nowhere:name' (No module named 'nowhere').",
    ),
    (
      lambda: build(dict(a=spec.spec(image.Resize, size=2, method='cubic'))),
      "config.a (Resize): method='cubic' is not one of nearest",
    ),
  ],
)
def test_errors_are_named_with_their_place(make, words):
  with pytest.raises(UserError) as error:
    make()
  assert words in str(error.value)


def test_functions_with_any_keywords_take_any():
  node = spec.spec(json.dumps, obj=[1, 2], separators=(',', ':'), anything=3)
  del node.anything
  assert build(node) == '[1,2]'


def test_a_fork_may_put_a_number_where_a_duration_was():
  config = mlc.ConfigDict(dict(a=spec.spec(image.Resize, size=epochs(2))))
  config.a.size = 100
  assert config.a.size == 100


def test_calls_finds_every_recorded_call():
  resize, decode = spec.spec(image.Resize, size=3), spec.spec(image.Decode)
  config = mlc.ConfigDict(dict(a=[decode, dict(b=resize)], c=(decode,), d=3))
  found = [(path, node['_fn'].split(':')[1]) for path, node in spec.calls(config)]
  assert found == [
    ('config.a[0]', 'Decode'),
    ('config.a[1].b', 'Resize'),
    ('config.c[0]', 'Decode'),
  ]


def test_calls_inside_calls_come_too():
  node = spec.spec(optim.adamw, rate=spec.spec(optax.constant_schedule, value=1.0))
  assert [path for path, _ in spec.calls(node)] == ['config', 'config.rate']


def test_json_round_trip_builds_the_same():
  config = tiny_config.get_config()
  again = mlc.ConfigDict(json.loads(config.to_json()))
  plain, plain_again = (spec.in_steps(c, 1000, 10) for c in (config, again))
  assert plain_again == plain
  one, other = build(plain), build(plain_again)
  assert one['train_data'] == other['train_data']
  assert one['evals'] == other['evals']
  assert one['task'].model == other['task'].model
  params = {'kernel': np.ones((2, 2), np.float32)}
  updates = []
  for made in (one, other):
    optimizer = made['task'].optimizer
    updates.append(optimizer.update(params, optimizer.init(params), params)[0])
  np.testing.assert_array_equal(updates[0]['kernel'], updates[1]['kernel'])


# Durations


def test_in_steps():
  config = mlc.ConfigDict(
    dict(
      total=epochs(2),
      evals=[dict(every=epochs(0.5)), dict(every=3)],
      parts=(examples(1280), 7),
      text='epochs',
    )
  )
  assert spec.in_steps(config, examples_per_epoch=1000, batch_size=64) == dict(
    total=31,  # 31.25
    evals=[dict(every=8), dict(every=3)],
    parts=(20, 7),
    text='epochs',
  )
  assert config.total.to_dict() == dict(epochs=2)  # the config is unchanged


def test_references_to_a_duration_follow_it():
  config = mlc.ConfigDict(dict(total=epochs(2)))
  config.schedule = dict(steps=config.get_ref('total'))
  assert spec.in_steps(config, 1000, 10)['schedule'] == dict(steps=200)
  spec.override(config, 'total.epochs=3')
  assert spec.in_steps(config, 1000, 10)['schedule'] == dict(steps=300)


# Overrides


FIELDS = dict(
  steps=10, rate=0.1, name='a', debug=False, limit=None, shape=(1, 2), rest=0
)


@pytest.mark.parametrize(
  'text, field, value',
  [
    ('steps=20', 'steps', 20),
    ('rate=1e-3', 'rate', 1e-3),
    ('rate=1', 'rate', 1.0),
    ('name=b', 'name', 'b'),
    ("name='1'", 'name', '1'),
    ('debug=True', 'debug', True),
    ('debug=true', 'debug', True),
    ('limit=3', 'limit', 3),
    ('steps=None', 'steps', None),
    ('steps=none', 'steps', None),
    ('shape=(3, 4)', 'shape', (3, 4)),
    ('shape=[3, 4]', 'shape', (3, 4)),
    ('shape=(3,)', 'shape', (3,)),
    ('limit=epochs(3)', 'limit', dict(epochs=3.0)),
    ('steps=epochs(0.5)', 'steps', dict(epochs=0.5)),
    ('steps=examples(1e6)', 'steps', dict(examples=1000000)),
    ('duration=examples(5)', 'duration', dict(examples=5)),
    ('seed=3', 'seed', 3),  # a field that the config leaves at its default
  ],
)
def test_override_sets_one_field(text, field, value):
  result = overridden(FIELDS, text)
  assert result == {**FIELDS, field: value}
  assert type(result[field]) is type(value)


def test_fields_follow_a_duration_unless_they_are_computed_from_it():
  config = mlc.ConfigDict(dict(steps=10))
  config.same = config.get_ref('steps')
  spec.override(config, 'steps=epochs(3)', root)
  assert config.same.to_dict() == dict(epochs=3.0)
  spec.override(config, 'steps=20', root)
  config.tenth = config.get_ref('steps') // 10
  with pytest.raises(
    UserError, match='config.steps must be a number of steps, because othe'
  ):
    spec.override(config, 'steps=epochs(3)', root)


@pytest.mark.parametrize(
  'text, words',
  [
    ('stepz=20', "config has no field 'stepz'; did you mean 'steps'?"),
    ('sed=3', "config has no field 'sed'; did you mean 'seed'?"),
    ('steps', 'write --config.steps=VALUE'),
    ('steps=1.5', 'config.steps takes an int (now 10), not 1.5 of type float'),
    ('steps=True', 'config.steps takes an int (now 10), not True'),
    ('steps=ten', "config.steps takes an int (now 10), not 'ten' of type str"),
    ('rate=fast', "config.rate takes a float (now 0.1), not 'fast'"),
    ('debug=1', 'config.debug takes a bool (now False), not 1'),
    ('debug=no', "config.debug takes a bool (now False), not 'no'"),
    ('name=3', "config.name takes a str (now 'a'), not 3"),
    ('seed=x', "config.seed takes an int (now 0), not 'x'"),
    ('seed=none', 'config.seed must have a value (now 0), not None'),
    ('rate=none', 'config.rate must have a value (now 0.1), not None'),
    ('limit=many', "config.limit takes an int, not 'many' of type str"),
    ('limit=1.5', 'config.limit takes an int, not 1.5 of type float'),
    ('limit=[1]', 'config.limit takes an int, not [1] of type list'),
    ('limit=True', 'config.limit takes an int, not True of type bool'),
    ('steps=(20', "config.steps takes an int (now 10), not '(20' of type str"),
    ("steps='20'", "config.steps takes an int (now 10), not '20' of type str"),
    ('steps={[1]}', "config.steps takes an int (now 10), not '{[1]}' of type str"),
    ('steps=' + '-' * 99_999 + '1', '--... of type str'),
    ('steps=epochs()', '--config.steps=epochs(): write a number, as in epochs(3)'),
    ('steps=epochs(-1)', '--config.steps=epochs(-1): write a number'),
    ('rate=epochs(3)', 'config.rate takes a float (now 0.1), not epochs(3)'),
    ('=3', "--config.=3: '' is not a field"),
    ('a-b=3', "--config.a-b=3: 'a-b' is not a field"),
    ('shape[-1]=3', "'shape[-1]' is not a field"),
    ('shape[0]=3', 'config.shape is a tuple: override all of it'),
    ('shape[2]=3', 'config.shape has 2 entries, so there is no [2]'),
    ('steps.more=3', "config.steps is 10: it has no field 'more'"),
    ('parts[0].size=3', 'parts'),
    ('seed.more=3', 'seed'),
  ],
)
def test_override_refuses(text, words):
  config = mlc.ConfigDict(FIELDS)
  with pytest.raises(UserError) as error:
    spec.override(config, text, root)
  assert words in str(error.value)
  assert {name: config[name] for name in FIELDS} == FIELDS


def nested() -> mlc.ConfigDict:
  parts = [spec.spec(image.Decode), spec.spec(image.Resize, size=8)]
  model = spec.spec(vit.ViT, **SIZES)
  return mlc.ConfigDict(dict(parts=parts, model=model, duration=epochs(2.0)))


def test_override_reaches_into_lists_and_calls():
  config = nested()
  for text in ('parts[1].size=96', 'parts[0].channels=1', 'model.pool=gap'):
    spec.override(config, text, root)
  assert config.parts[1].size == 96
  assert build(config.parts) == [image.Decode(channels=1), image.Resize(96)]
  assert build(config.model) == vit.ViT(**SIZES, pool='gap')


def test_override_replaces_an_entry_of_a_list():
  assert overridden(dict(parts=[1, 2, 3]), 'parts[1]=7')['parts'] == [1, 7, 3]


@pytest.mark.parametrize(
  'text, words',
  [
    ('parts[1].sise=9', "config.parts[1] has no field 'sise'; did you mean 'size'?"),
    ('parts[1].method=3', "config.parts[1].method takes a str (now 'bilinear')"),
    ('parts[2].size=9', 'config.parts has 2 entries, so there is no [2]'),
    ('model.dept=9', "config.model has no field 'dept'; did you mean 'depth'?"),
    ('modle.depth=9', "config has no field 'modle'; did you mean 'model'?"),
    ('model=9', 'config.model is a group of fields: override one of depth, mlp_dim'),
    ('model.dropout=x', "config.model.dropout takes a float (now 0.0), not 'x'"),
  ],
)
def test_override_names_the_place_in_lists_and_calls(text, words):
  with pytest.raises(UserError) as error:
    spec.override(nested(), text, root)
  assert words in str(error.value)


def test_override_fills_a_group_that_the_config_leaves_out():
  config = mlc.ConfigDict(dict(total_steps=3))
  for text in ('mesh.fsdp=2', 'mesh.data=4', "sharding=[('.*kernel', ('fsdp',))]"):
    spec.override(config, text, experiment.Settings)
  assert config.mesh.to_dict() == dict(fsdp=2, data=4)
  assert list(config.sharding) == [('.*kernel', ('fsdp',))]


def test_overrides_of_durations():
  assert overridden(nested(), 'duration=100')['duration'] == 100
  assert overridden(nested(), 'duration.epochs=3')['duration'] == dict(epochs=3.0)
  with pytest.raises(UserError, match='config.duration is a group of fields'):
    overridden(nested(), 'duration=long')


def test_whole_epochs_can_become_parts_of_one():
  config = dict(duration=epochs(2))
  assert overridden(config, 'duration.epochs=0.5')['duration'] == dict(epochs=0.5)


def test_a_float_argument_written_as_a_whole_number_stays_a_float():
  config = dict(parts=[spec.spec(image.RandomAffine, rotate=10)])
  assert overridden(config, 'parts[0].rotate=7.5')['parts'][0]['rotate'] == 7.5


def test_derived_values_follow_overrides():
  config = mlc.ConfigDict(dict(steps=100))
  config.rate = spec.spec(
    optax.warmup_cosine_decay_schedule,
    init_value=0.0,
    peak_value=1.0,
    warmup_steps=config.get_ref('steps') // 10,
    decay_steps=config.get_ref('steps'),
  )
  spec.override(config, 'steps=50', root)
  assert (config.rate.warmup_steps, config.rate.decay_steps) == (5, 50)
  assert float(build(config.rate)(5)) == 1.0


def test_an_overridden_derived_value_leaves_its_origin():
  config = mlc.ConfigDict(dict(steps=100))
  config.rate = spec.spec(
    optax.cosine_decay_schedule, init_value=1.0, decay_steps=config.get_ref('steps')
  )
  spec.override(config, 'rate.decay_steps=10', root)
  assert (config.rate.decay_steps, config.steps) == (10, 100)


# load()


SOURCE = """
import ml_collections as mlc
from big_vision_like.data.transforms import image
from big_vision_like.spec import spec

def get_config(arg='96'):
  c = mlc.ConfigDict(dict(steps=int(arg)))
  c.parts = [spec(image.Resize, size=c.get_ref('steps'))]
  return c
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / 'recipe.py'
  path.write_text(SOURCE)
  return path


def test_load_with_argument_and_overrides(config_file):
  assert spec.load(str(config_file)).parts[0].size == 96
  assert spec.load(f'{config_file}:64', root=root).parts[0].size == 64
  config = spec.load(
    f'{config_file}:64', ['steps=7', 'parts[0].method=area', 'seed=5'], root=root
  )
  assert build(config.parts) == [image.Resize(7, 'area')]
  assert config.seed == 5


def test_load_of_json_builds_the_same(config_file, tmp_path):
  config = spec.load(f'{config_file}:64', root=root)
  saved = tmp_path / 'config.json'
  saved.write_text(config.to_json())
  again = spec.load(str(saved), root=root)
  assert json.loads(again.to_json()) == json.loads(config.to_json())
  assert build(again.parts) == [image.Resize(64)]
  again = spec.load(str(saved), ['parts[0].size=3'], root=root)
  assert build(again.parts) == [image.Resize(3)]


def test_load_refuses_fields_that_a_saved_config_must_not_have(tmp_path):
  saved = tmp_path / 'config.json'
  for text, words in [
    ('{"stepz": 3}', "config has no field 'stepz'; did you mean 'steps'?"),
    (
      '{"parts": [{"_fn": "big_vision_like.models.vit:ViT", "dept": 3}]}',
      "config.parts[0] (ViT) has no field 'dept'; did you mean 'depth'?",
    ),
    (
      '{"parts": [{"_fn": "big_vision_like.models.vot:ViT"}]}',
      "config.parts[0]._fn: 'big_vision_like.models.vot:ViT' no longer exists; the"
      ' nearest name is big_vision_like.models.vit:ViT',
    ),
  ]:
    saved.write_text(text)
    with pytest.raises(UserError) as error:
      spec.load(str(saved), root=root)
    assert words in str(error.value)


def test_load_names_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="--config: no file '.*none.py'"):
    spec.load(f'{tmp_path}/none.py:8')


@pytest.mark.parametrize(
  'name, content, words',
  [
    ('a.txt', b'', 'a.txt is neither a .py file nor a saved config.json'),
    ('a.py', b'def get_config(:', 'a.py line 1 is not Python'),
    ('a.py', bytes(range(256)), 'a.py is not Python|a.py line 1 is not Python'),
    ('a.py', b'import nothing_here', 'a.py cannot be imported: No module named'),
    ('a.py', b'def get_config():\n  return 3', 'a.py returns an int, not a ConfigDict'),
    ('a.json', b'{}', 'config needs task, train_data, total_steps'),
  ],
)
def test_load_names_files_without_a_config(tmp_path, name, content, words):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=words):
    spec.load(str(tmp_path / name), root=experiment.Settings)


def test_load_names_the_nearest_file(tmp_path):
  (tmp_path / 'vit').mkdir()
  (tmp_path / 'vit' / 'digits.py').write_text('')
  with pytest.raises(UserError, match="digts.py'; did you mean '.*vit/digits.py'"):
    spec.load(f'{tmp_path}/vti/digts.py:8')
  with pytest.raises(UserError, match='digits.py defines no get_config'):
    spec.load(f'{tmp_path}/vit/digits.py')


def test_load_tells_that_a_config_takes_no_argument(config_file):
  config_file.write_text(SOURCE.replace("arg='96'", '').replace('arg', '3'))
  with pytest.raises(UserError, match='recipe.py'):
    spec.load(f'{config_file}:64')


# arguments()


def parsed(text: str) -> dict:
  fields = dict(data={'a': 1, 'b': 2}, model=str, weights=('x', 'y'), shot=int)
  return vars(spec.arguments(text, **fields, tune=False))


@pytest.mark.parametrize(
  'text, changed',
  [
    ('a,L/16', {}),
    ('b,a,y', dict(data='b', model='a', weights='y')),
    ('a,L/16,tune,10-shot,x', dict(tune=True, shot=10)),
  ],
)
def test_an_argument_is_words_for_declared_fields(text, changed):
  defaults = dict(data='a', model='L/16', weights='x', shot=None, tune=False)
  assert parsed(text) == defaults | changed


@pytest.mark.parametrize(
  'text, sentence',
  [
    ('c,L/16', "no data 'c': take one of a, b"),
    ('a', "'a' has no model: write DATA,MODEL[,WEIGHTS][,SHOT][,TUNE]"),
    ('a,m,z', "no weights or shot or tune 'z': take one of x, y, N-shot, tune"),
    ('a,m,0-shot', "no weights or shot or tune '0-shot': take one of x, y, N-shot"),
    ('a,m,x,y', "'a,m,x,y' has both x and y: take one"),
    ('a,m,tune,tune', "'a,m,tune,tune' has both tune and tune: take one"),
  ],
)
def test_words_that_fit_no_field_are_refused(text, sentence):
  with pytest.raises(UserError, match=re.escape(sentence)):
    parsed(text)


def test_a_word_too_many_is_refused():
  with pytest.raises(UserError, match="'b' is one word too many in 'a,b'"):
    spec.arguments('a,b', size={'a': 1})
  assert spec.arguments('', data=('', 'b')).data == ''


def test_a_config_has_one_name_from_wherever_it_is_called(tmp_path, monkeypatch):
  file = pathlib.Path('configs/vit/transfer.py').absolute()
  monkeypatch.chdir(tmp_path)
  assert spec.name_of(f'{file}:pets,L/16') == 'configs/vit/transfer.py:pets,L/16'
  assert spec.name_of(str(file)) == 'configs/vit/transfer.py:cifar10,B/16'
  (tmp_path / 'transfer.py').write_text(file.read_text())
  assert spec.name_of('transfer.py:pets,L/16') == 'transfer.py:pets,L/16'


def test_override_next_to_a_field_that_is_none():
  config = mlc.ConfigDict({'start': spec.epochs(1), 'group': {'a': 1, 'b': None}})
  spec.override(config, 'start=None')
  spec.override(config, 'group.a=2')
  spec.override(config, 'group.b=3')
  assert config.to_dict() == {'start': None, 'group': {'a': 2, 'b': 3}}


def test_a_misspelt_field_lists_each_field_once():
  config = mlc.ConfigDict({'a': spec.spec(image.Resize, size=3)})
  with pytest.raises(UserError, match="no field 'xyz'; it has size, method.$"):
    spec.override(config, 'a.xyz=3')


def test_override_of_a_misspelt_evaluator_is_refused():
  config = mlc.ConfigDict({'evals': {'val': {'every': 3}}})
  with pytest.raises(UserError, match="config.evals has no field 'vall'.*'val'"):
    spec.override(config, 'evals.vall=3', root=experiment.Settings)


def test_override_with_another_type_that_the_annotation_names():
  config = mlc.ConfigDict({'model': spec.spec(vit.ViT, patch=4)})
  spec.override(config, 'model.patch=(4, 8)')
  assert config.model.patch == (4, 8)
  with pytest.raises(UserError, match="config.model.patch takes a tuple.*not 'four'"):
    spec.override(config, 'model.patch=four')


@pytest.mark.parametrize('name', ['none', 'None', 'true'])
def test_a_field_of_text_takes_words_as_text(name):
  config = spec.spec(vit.ViT, **vit.variant('Ti/16'), num_classes=3)
  spec.override(config, f'remat={name}')  # not set before: its default is text
  assert config.remat == (None if name == 'None' else name)
  config.remat = 'full'
  spec.override(config, 'remat=none')
  assert config.remat == 'none'


def test_an_argument_of_a_class_that_is_not_set_is_opened_by_its_fields():
  config = spec.load('configs/vit/digits.py')
  assert 'ema' not in config.task
  spec.override(config, 'task.ema.decay=0.99')
  spec.override(config, 'task.ema.warmup=True')
  assert spec.build(config.task.ema) == optim.Ema(decay=0.99, warmup=True)
  with pytest.raises(UserError, match="config.task.ema has no field 'decy'; did you"):
    spec.override(config, 'task.ema.decy=0.99')
  with pytest.raises(UserError, match="config.task has no field 'emma'"):
    spec.override(config, 'task.emma.decay=0.99')


@pytest.mark.parametrize(
  'name, values, problem',
  [
    ('good', ("knows = 'x'", "knows = 'y'"), None),
    ('twice', 2 * ("knows = 'x'",), r'twice.a.Kind and twice.b.Kind both have knows='),
    ('half', ("knows = 'x'", 'pass'), 'half.b.Kind has no `knows`'),
  ],
)
def test_classes_are_found_by_their_attributes(
  name, values, problem, tmp_path, monkeypatch
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / name).mkdir()
  (tmp_path / name / '__init__.py').write_text('class Base:\n  knows: str\n')
  for module, value in zip('ab', values, strict=True):
    text = f'from {name} import Base\nclass Kind(Base):\n  {value}\n'
    (tmp_path / name / f'{module}.py').write_text(text)
  refused = pytest.raises(UserError, match=problem)
  with refused if problem else contextlib.nullcontext():
    found = spec.declared(importlib.import_module(name), 'knows')
    assert [kind.__module__ for kind in found.values()] == ['good.a', 'good.b']


class Half(abc.ABC):
  """A class that a config may name, but that cannot be instantiated."""

  @abc.abstractmethod
  def run(self): ...


def test_a_half_defined_class_is_named():
  with pytest.raises(UserError, match='config.evals.val: Half does not define run'):
    build(spec.spec(Half), 'config.evals.val')
