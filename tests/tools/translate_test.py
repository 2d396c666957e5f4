"""Tests of translate.py on a tiny Marian folder, and on a run of ours."""

import functools
import importlib.util
import io
import json
import pathlib
import sys
from unittest import mock

import jax
import marian_folder
import ml_collections as mlc
import numpy as np
import pytest
import safetensors.numpy
import texts

from big_vision_like import files, optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import tfds
from big_vision_like.data.text import vocabulary as vocabularies
from big_vision_like.data.transforms import text as text_transforms
from big_vision_like.models import transformer
from big_vision_like.run import checkpoint
from big_vision_like.spec import build, spec
from big_vision_like.tasks import seq2seq

SCRIPT = pathlib.Path(__file__).parents[2] / 'tools' / 'translate.py'
ENGLISH = [pair['en'] for pair in texts.PAIRS]


@pytest.fixture(scope='module')
def tool():
  module_spec = importlib.util.spec_from_file_location('translate', SCRIPT)
  module = importlib.util.module_from_spec(module_spec)
  with mock.patch.dict(sys.modules, {'translate': module}):
    module_spec.loader.exec_module(module)
    with mock.patch('big_vision_like.cli.set_up_jax'):
      yield module


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return marian_folder.write(tmp_path_factory.mktemp('marian'), languages=False)


@pytest.fixture(scope='module')
def several(tmp_path_factory):
  return marian_folder.write(tmp_path_factory.mktemp('several'))


@pytest.fixture
def translate(tool, capsys):
  def call(*words):
    status = tool.main([*map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out.split('\n')[:-1], printed.err

  return call


def words_of(lines):
  return [word for line in lines for word in ('--text', line)]


def test_a_line_for_each_text_whatever_the_batch(translate, folder):
  lines = [ENGLISH[0], '', ENGLISH[1], ' '.join(ENGLISH[2:4]), ' \t', 'The']
  status, found, notes = translate(folder, *words_of(lines), '--batch-size', 4)
  assert status == 0 and len(found) == 6
  assert found[1] == found[4] == ''
  assert all(found[i] for i in (0, 2, 3, 5)) and len(set(found)) > 2
  assert 'note: empty texts have empty translations: text 2, 5\n' in notes
  alone = [translate(folder, '--text', lines[i])[1] for i in (0, 3)]
  assert alone == [[found[0]], [found[3]]]


def test_translations_match_the_task(tool, translate, folder):
  translator = tool.open_folder(str(folder), beams=2, alpha=0.6)
  source = np.array([translator.encode(ENGLISH[0])])
  ids, _ = jax.jit(translator.task.search_beams)(translator.variables, source)
  ids = ids[0, 0].tolist()
  ids = ids[: ids.index(0)] if 0 in ids else ids
  want = translator.target.decode(ids)
  assert translate(folder, '--text', ENGLISH[0])[1] == [want]  # with num_beams=2
  greedy = jax.jit(translator.task.search_greedy)(translator.variables, source)[
    0
  ].tolist()
  greedy = greedy[: greedy.index(0)] if 0 in greedy else greedy
  found = translate(folder, '--text', ENGLISH[0], '--beams', 1)[1]
  assert found == [translator.target.decode(greedy)]


def test_padding_is_as_if_it_were_no_token(tool, folder):
  """Checks weights that would generate padding first (see `marian_folder`)."""
  translator = tool.open_folder(str(folder), None, None)
  source = np.array([translator.encode(ENGLISH[0])])
  target = np.array([[translator.task.bos_id]])
  outputs = translator.task.model.apply(translator.variables, source, target)
  logits = outputs['logits'][0, 0]
  pad_id = translator.source.pad_id
  logp = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(
    logp[:-1], jax.nn.log_softmax(np.delete(logits, pad_id)), rtol=0, atol=1e-5
  )
  found = translator.translate([source[0].tolist()], 1)[0]
  assert pad_id not in found


def test_few_shapes_are_compiled(tool, folder):
  translator = tool.open_folder(str(folder), 1, None)
  rng = np.random.default_rng(0)
  tfds = [[*rng.integers(2, 30, length), 0] for length in rng.integers(3, 39, size=50)]
  found = translator.translate([[], *tfds], batch_size=16)
  assert len(found) == 51 and found[0] == [] and all(found[1:])
  assert translator._search._cache_size() <= 5  # 8, 16, 32, 40 tokens; few or 16 rows


def test_files_and_stdin_are_lines(translate, folder, tmp_path, monkeypatch):
  # Has a line separator in a text, a Windows line ending, and no newline at the end.
  data = f'\ufeff{ENGLISH[0]}\r\n\n{ENGLISH[1]}\u2028{ENGLISH[2]}'.encode()
  (tmp_path / 'lines').write_bytes(data)
  _, found, _ = translate(folder, '--file', tmp_path / 'lines')
  assert len(found) == 3 and found[1] == ''
  assert found[0] == translate(folder, '--text', ENGLISH[0])[1][0]
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
  assert translate(folder)[1] == found


def test_languages_are_required(translate, several):
  lines = ['>>nds<< The dog', 'The dog', '>>xyz<< The dog', '']
  _, found, notes = translate(several, *words_of(lines))
  assert len(found) == 4
  assert 'one of >>deu<<, >>nds<< (missing in text 2, 3)' in notes


def test_too_long_a_text_is_refused(translate, folder):
  status, found, error = translate(folder, '--text', 'The', '--text', 'dog ' * 60)
  assert status == 1 and found == []
  assert 'text 2 has ' in error and 'the model takes at most 40: split it' in error


def test_truncation_is_reported(translate, folder, tmp_path):
  copy_of(folder, tmp_path)
  state = safetensors.numpy.load_file(folder / 'model.safetensors')
  state['final_logits_bias'][0, 0] = -50
  safetensors.numpy.save_file(state, tmp_path / 'model.safetensors')
  status, found, notes = translate(tmp_path, '--text', 'The')
  assert status == 0 and found[0]
  assert 'note: text 1: not finished after 40 tokens: truncated' in notes


def copy_of(folder, path):
  for file in folder.iterdir():
    (path / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize(
  'words, message',
  [
    (['nowhere'], 'nowhere has no config.json: give the folder of a model'),
    (['{folder}', '--file=nowhere'], 'nowhere: No such file'),
    (['{folder}', '--beams=0', '--text=a'], '--beams=0 is not positive'),
    (['{folder}', '--file={folder}/source.spm'], 'source.spm is not UTF-8'),
  ],
)
def test_invalid_arguments(translate, folder, words, message):
  status, found, error = translate(*(word.format(folder=folder) for word in words))
  assert status == 1 and found == [] and message in error


@pytest.mark.parametrize(
  'config, message',
  [
    ({'a': 1}, 'neither to a run (task) nor to a model (model_type)'),
    ({'model_type': 'bart'}, "model_type is 'bart'"),
  ],
)
def test_folders_of_something_else(translate, tmp_path, config, message):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  status, _, error = translate(tmp_path, '--text', 'a')
  assert status == 1 and message in error


def test_a_vocabulary_of_another_model(translate, folder, tmp_path):
  copy_of(folder, tmp_path)
  ids = json.loads((folder / 'vocab.json').read_text())
  (tmp_path / 'vocab.json').write_text(json.dumps(ids | {'more': 999}))
  status, _, error = translate(tmp_path, '--text', 'a')
  assert status == 1 and 'has ids up to 999, the model only has' in error


@pytest.fixture(scope='module')
def write_run(vocabulary, tmp_path_factory):
  """Returns a function that writes a run without steps: config, first checkpoint."""

  def write(**model):
    workdir = tmp_path_factory.mktemp('run')
    config = mlc.ConfigDict(dict(total_steps=1))
    config.task = spec(
      seq2seq.Seq2Seq,
      model=spec(
        transformer.Transformer,
        vocab_size=vocabulary.size,
        width=16,
        depth=1,
        num_heads=2,
        mlp_dim=24,
        **model,
      ),
      optimizer=spec(optim.adamw, rate=1e-3),
      beams=3,
      extra_length=7,
    )
    config.train_data = train_data(vocabulary.path)
    batch = {'source': np.ones((1, 3), int), 'target': np.ones((1, 3), int)}
    state = jax.jit(functools.partial(build(config.task).init, batch=batch))(
      jax.random.key(0)
    )
    files.write_json(workdir / 'config.json', json.loads(config.to_json()))
    with checkpoint.Checkpoints(workdir) as checkpoints:
      checkpoints.save(0, state, {'examples': 0}, 0.0, wait=True)
    return workdir

  def train_data(path):
    return spec(
      pipeline.TrainInput,
      source=spec(tfds.Tfds, name='tiny_translation', split='train'),
      transforms=[
        spec(
          text_transforms.Tokenize,
          vocabulary=spec(vocabularies.SentencePiece, path=path),
          source='en',
          target='de',
        )
      ],
      batch_size=4,
    )

  return write


def test_a_run_of_ours(tool, translate, write_run, vocabulary):
  workdir = write_run()
  lines = [ENGLISH[0], '', ENGLISH[5]]
  status, found, notes = translate(workdir, *words_of(lines))
  assert status == 0 and len(found) == 3 and found[1] == ''
  translator = tool.open_folder(str(workdir), None, None)
  assert (translator.task.beams, translator.max_length) == (3, None)
  assert translator.encode('The') == [*vocabulary.encode('The'), vocabulary.eos_id]


def test_learned_positions_are_a_limit(translate, write_run):
  workdir = write_run(positions='learned', max_length=12)
  status, found, notes = translate(workdir, '--text', 'The dog')
  assert status == 0 and len(found) == 1
  status, _, error = translate(workdir, '--text', ENGLISH[0] * 2)
  assert status == 1 and 'the model takes at most 12' in error


def test_runs_that_know_no_text(translate, write_run):
  workdir = write_run()
  file = workdir / 'config.json'
  config = json.loads(file.read_text())
  config['train_data']['transforms'] = []
  file.write_text(json.dumps(config))
  status, _, error = translate(workdir, '--text', 'a')
  assert status == 1 and 'names no vocabulary: the run has ids, but no text' in error
