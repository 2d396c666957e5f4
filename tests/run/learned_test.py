"""Tests that facts that a run stored about its data survive changes of the data."""

import json
import re
import shutil

import pictures
import pytest
import texts
import tiny_config

import big_vision_like
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import folders, tfds
from big_vision_like.data.transforms import image, text
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.inference import loading
from big_vision_like.report import images as report_images
from big_vision_like.report import runs
from big_vision_like.run import init_from, labels, learned, preflight
from big_vision_like.spec import spec

FRUIT = ('apple', 'banana', 'cherry')


def config_of(root, total_steps=1):
  """Returns the tiny config on folders of images, without a transform of sizes."""
  config = tiny_config.get_config()
  config.total_steps, config.log_every = total_steps, 1
  config.task.optimizer.rate = 1e-3
  model = dict(num_classes=3, patch=8, width=8, depth=1, mlp_dim=8, pool='gap')
  config.task.model.update(model)
  decode = [spec(image.Decode, channels=1)]
  for part, kind in (('train', pipeline.TrainInput), ('val', pipeline.EvalInput)):
    source = spec(folders.Folder, path=str(root / part))
    data = spec(kind, source=source, transforms=decode, batch_size=4)
    if part == 'train':
      config.train_data = data
    else:
      config.evals = dict(val=spec(classification.Accuracy, data=data))
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run):
  """Returns the folder of a run of one step on fruit, next to its data."""
  root = tmp_path_factory.mktemp('fruit')
  for part in ('train', 'val'):
    pictures.write_classes(root / part, FRUIT, size=(16, 24))
  (root / 'config.json').write_text(config_of(root).to_json())
  words = f'--config={root / "config.json"}', f'--workdir={root / "run"}'
  done = run('-m', 'big_vision_like.train', *words)
  assert done.returncode == 0, done.stderr
  return root


@pytest.fixture
def root(trained, tmp_path):
  """Returns a copy that tests may change; its config has the new path of the data."""
  shutil.copytree(trained, tmp_path / 'fruit')
  config = tmp_path / 'fruit' / 'run' / 'config.json'
  config.write_text(config.read_text().replace(str(trained), str(tmp_path / 'fruit')))
  return tmp_path / 'fruit'


def old(root):
  """Returns the run as if it dated from before facts were stored."""
  (root / 'run' / learned.FILE).unlink()
  return root / 'run'


def test_the_facts_are_stored_at_the_start(trained):
  facts = learned.read(trained / 'run')
  assert facts == {
    'format': 1,
    'inputs': {
      '': {
        'label_names': list(FRUIT),
        'category_names': None,
        'category_ids': None,
        'image_size': [16, 24],
        'tokenizers': [],
      }
    },
  }


@pytest.mark.parametrize('change', ['renamed', 'moved'])
def test_names_and_sizes_come_from_the_run(root, change, capsys):
  if change == 'renamed':
    (root / 'train' / 'apple').rename(root / 'train' / 'zebra')
    pictures.write_classes(root / 'train', ['zebra'])
  else:
    shutil.rmtree(root / 'train')
  capsys.readouterr()
  model, variables, preprocess = big_vision_like.load(root / 'run', image_size=(32, 48))
  assert preprocess.label_names == FRUIT
  assert variables['params']['pos_embedding'].shape == (1, 24, 8)
  run = loading.load_run(root / 'run')
  assert loading.preprocessing_of(run).size == (16, 24)
  assert init_from.from_run(str(root / 'run')).grid == (2, 3)
  assert 'names' not in capsys.readouterr().out
  known = learned.known(root / 'run')
  assert known[''].names == {'label': dict(enumerate(FRUIT))}


def test_old_runs_read_names_from_data_and_say_so(root, capsys):
  run = old(root)
  assert big_vision_like.load(run)[2].label_names == FRUIT
  told = 'names     class names come from data that may have changed since: '
  assert capsys.readouterr().out == f'{told}{run} has no learned.json\n'
  assert init_from.from_run(str(run)).grid == (2, 3)
  shutil.rmtree(root / 'train')
  assert loading.trained_names(loading.load_run(run), 'label_names') == ()
  said = capsys.readouterr().out
  told = f'names     class names are unknown: {run} has no learned.json'
  assert said.startswith(told)
  assert f'there is no folder {root}/train' in said


def test_evaluation_maps_to_the_classes_of_the_run(root, run, capsys):
  shutil.rmtree(root / 'val' / 'banana')
  shutil.rmtree(root / 'train')
  done = run('-m', 'big_vision_like.evaluate', f'--workdir={root / "run"}')
  assert done.returncode == 0, done.stderr
  assert '2 of 3 classes, mapped by name' in done.stdout
  (root / 'val' / 'cherry').rename(root / 'val' / 'date')
  done = run('-m', 'big_vision_like.evaluate', f'--workdir={root / "run"}')
  assert done.returncode == 1 and "run; new are 'date'; missing are 'ban" in done.stderr


def test_reports_have_the_names_of_the_run(root):
  shutil.rmtree(root / 'val' / 'apple')
  made = loading.load_run(root / 'run')
  log = runs.Log('run', made.config.to_dict(), [])
  source = report_images.Source(log, made, '', 4, '')
  found = report_images.predict(source)
  assert found.names == list(FRUIT)
  assert found.label_B.tolist() == [1, 1, 2, 2]  # spread over all remaining classes


def test_a_run_does_not_resume_on_other_classes(root):
  for part in ('train', 'val'):
    (root / part / 'apple').rename(root / part / 'zebra')
  made = preflight.check(config_of(root)).made['config.train_data']
  now = {'inputs': {'': learned.of_input(made, next(iter(made)))}}
  before = learned.read(root / 'run')
  with pytest.raises(UserError, match="train_data: the classes are .* new are 'zebra'"):
    learned.check(before, now)
  now['inputs']['']['label_names'] = [*FRUIT[::-1]]
  with pytest.raises(UserError, match='in another order than in the run so far'):
    learned.check(before, now)
  learned.check(before, before)


def test_classes_of_runs_that_a_config_takes_networks_of(root, tmp_path):
  config = config_of(root)
  weights = spec(init_from.from_run, workdir=str(root / 'run'))
  config.frozen = dict(teacher=weights)
  config.init_from = spec(init_from.InitFrom, weights=weights, leave_out=[])
  assert preflight.check(config).remarks.keys() == {'train_data', 'evals.val.data'}
  for part in ('train', 'val'):
    (root / part / 'apple').rename(root / part / 'zebra')
  config.init_from = None
  [(told, places)] = preflight.check(config).told
  assert places == ['frozen.teacher'] and "new are 'zebra'; missing are 'apple'" in told
  config.frozen = {}
  config.init_from = spec(init_from.InitFrom, weights=weights)  # without its head
  assert 'texts left out: file' == preflight.check(config).table[1].split('  ')[-1]
  config.init_from.leave_out = ()
  found = preflight.check(config)
  assert found.told == [] and 'init_from with its head: the classes' in found.table[1]


@pytest.mark.parametrize(
  'content',
  [
    '{}',
    '[]',
    '{"inputs": 3}',
    '{"inputs": {"": 5}}',
    '{"inputs": {"": {"label_names": "abc"}}}',
    '{"inputs": {"": {"label_names": [1]}}}',
    '{"inputs": {"": {"image_size": [true, 2]}}}',
    '{"inputs": {"": {"image_size": [0, 2]}}}',
    '{"inputs": {"": {"image_size": 2}}}',
    '{"inputs": {"": {"category_names": {}}}, "format": 1',
  ],
)
def test_damaged_facts_are_one_sentence(tmp_path, content):
  (tmp_path / learned.FILE).write_text(content)
  with pytest.raises(UserError, match=re.escape(f'{tmp_path}/learned.json')) as error:
    learned.read(tmp_path)
  assert '\n' not in str(error.value)


def test_inputs_of_several_tasks_by_their_names():
  own = dict(label_names=['a', None, 'b'], image_size=None)
  other = dict(category_names=['c'], image_size=[4, 6])
  facts = {'inputs': {'digits': own, 'coco': other}}
  assert learned.vocabularies(facts) == {
    'digits': {'label': {0: 'a', 2: 'b'}},
    'coco': {'box_labels': {0: 'c'}},
  }
  assert learned.image_size(facts) == learned.image_size(facts, 'coco.model') == (4, 6)
  assert learned.image_size(facts, 'digits.model') is None


def test_vocabularies_of_texts_come_from_the_run(tmp_path, vocabulary):
  tokenize = text.Tokenize(vocabulary, 'de', 'en')
  name = texts.prepared(texts.TinyTranslation, tmp_path)
  data = pipeline.EvalInput(
    source=tfds.Tfds(name, data_dir=str(tmp_path)), transforms=[tokenize], batch_size=2
  )
  facts = {'inputs': {'': learned.of_input(data, {})}}
  assert facts['inputs']['']['tokenizers'] == [vocabulary.sha256]
  learned.write(tmp_path, facts)
  learned.check_tokenizer(tmp_path, vocabulary)
  other = tmp_path / 'other.model'
  other.write_bytes(b'x')
  changed = type(vocabulary)(str(other))
  with pytest.raises(UserError, match=f'{other} is not the vocabulary of the run'):
    learned.check_tokenizer(tmp_path, changed)
  with pytest.raises(UserError, match='is not the vocabulary of train_data: the same'):
    labels.check_tokenizers(changed, labels.known(data, 'train_data'))
  assert json.loads((tmp_path / learned.FILE).read_text()) == facts
