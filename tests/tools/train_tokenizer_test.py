import importlib.util
import pathlib
import subprocess
import sys

import pytest
import texts

from big_vision_like.data.prepare import tokenizer
from big_vision_like.data.text.vocabulary import SentencePiece
from big_vision_like.data.text.wordpiece import WordPiece
from big_vision_like.errors import UserError

SCRIPT = pathlib.Path(__file__).parents[2] / 'tools' / 'train_tokenizer.py'
TEXTS = [pair['de'] for pair in texts.PAIRS]


@pytest.fixture(scope='module')
def tool():
  found = importlib.util.spec_from_file_location('train_tokenizer', SCRIPT)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def data_set(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  return texts.prepared(texts.TinyTranslation, folder), '--data-dir', str(folder)


@pytest.fixture
def fails(tool, capsys):
  """Returns a function that runs the tool with status 1 and returns its message."""

  def run(*arguments):
    with pytest.raises(SystemExit) as end:
      tool.main([str(argument) for argument in arguments])
    assert end.value.code == 1
    return capsys.readouterr().err.strip()

  return run


def test_a_vocabulary_of_a_data_set(tool, data_set, tmp_path, capfd):
  out = tmp_path / 'new' / 'v.model'
  tool.main([*data_set, *'--features de en --size 120 --out'.split(), str(out)])
  made = SentencePiece(str(out))
  ids = made.pad_id, made.bos_id, made.eos_id, made.unk_id
  assert (made.size, ids) == (120, (0, 1, 2, 3))
  assert 3 not in made.encode('Der Bär jagt the beetle.')
  said, chatter = capfd.readouterr()
  assert chatter == ''
  lines = said.splitlines()
  characters = {k: sum(len(pair[k]) for pair in texts.PAIRS) for k in ('de', 'en')}
  assert lines[0] == f'de: 192 texts, {characters["de"]:,} characters'
  assert lines[1] == f'en: 192 texts, {characters["en"]:,} characters'
  assert lines[2].startswith(f'{out}: 120 pieces, bpe, in ')
  assert lines[3].strip() in TEXTS and lines[4].strip().startswith('▁Der ▁')
  assert [file.name for file in out.parent.iterdir()] == ['v.model']


def test_the_same_command_makes_the_same_file(tool, data_set, tmp_path):
  def make(name, *more):
    out = tmp_path / name
    arguments = ['--features', 'de', '--size', '36', '--max-characters', '2000']
    tool.main([*data_set, *arguments, '--out', str(out), *more])
    return out.read_bytes()

  first = make('a')
  assert make('b') == first != make('c', '--seed', '1')
  assert make('b', '--overwrite', '--model-type', 'unigram') != first


def test_texts_are_drawn_from_the_whole_split(data_set):
  from big_vision_like.data.sources import tfds

  source = tfds.Tfds(data_set[0], data_dir=data_set[2])
  drawn = tokenizer.texts_of_data_set(source, ['de', 'en'], max_characters=900, seed=0)
  for name, found in drawn.items():
    assert 900 <= sum(map(len, found)) < 960
    places = [[pair[name] for pair in texts.PAIRS].index(line) for line in found]
    assert min(places) < 48 and max(places) > 144


def test_files_of_sentences(tool, tmp_path, capsys):
  files = [tmp_path / 'de.txt', tmp_path / 'en.txt']
  for file, name in zip(files, ('de', 'en'), strict=True):
    file.write_text('\n'.join(pair[name] for pair in texts.PAIRS) + '\n')
  out = tmp_path / 'v.model'
  arguments = ['--size', '80', '--out', out, '--max-characters', '3000']
  tool.main([str(word) for word in ('--text', *files, *arguments)])
  assert SentencePiece(str(out)).size == 80
  said = capsys.readouterr().out
  assert all(f'{file}: ' in said for file in files) and ' 3,0' in said
  drawn = tokenizer.texts_of_files([str(files[0])], max_characters=500, seed=1)
  places = [TEXTS.index(line) for line in drawn[str(files[0])]]
  assert min(places) < 64 and max(places) > 128


def test_errors_are_sentences(fails, data_set, tmp_path):
  out = tmp_path / 'v.model'
  common = [*data_set, '--features', 'de', '--out', out]
  assert fails(*common, '--size', '9000').startswith(
    'the texts are too few for --size 9000: they give at most '
  )
  assert fails(*common, '--size', '9').startswith(
    '--size 9 is too small for the characters of the texts: use at least '
  )
  fr = fails(*data_set, '--features', 'fr', '--size', '99', '--out', out)
  assert fr == "tiny_translation has no feature 'fr'; it has de, en."
  assert fails(*data_set, '--size', '99', '--out', out).startswith(
    '--features is missing'
  )
  assert fails('--size', '99', '--out', out).startswith(
    'give either the name of a data set or'
  )
  gone = tmp_path / 'gone.txt'
  assert fails('--text', gone, '--size', '99', '--out', out).startswith(
    f'{gone} cannot'
  )
  gone.write_text('')
  told = fails('--text', gone, '--size', '99', '--out', out)
  assert told == 'there is no text to learn from.'
  told = fails('--text', '/dev/zero', '--size', '99', '--out', out)
  assert 'It is a device, not a file' in told
  gone.write_text('\n'.join(TEXTS))
  told = fails('--text', gone, '--size', 60, '--out', '/dev/full', '--overwrite')
  assert told == '/dev/full: No space left on device'
  told = fails('--text', gone, '--size', 60, '--seed=-1', '--out', out)
  assert told == '--seed=-1: it must not be negative'
  assert 'sentencepiece failed' in fails('--text', gone, '--size', 10**20, '--out', out)
  assert not out.exists()


def test_a_missing_data_set_is_reported_with_the_command(fails, tmp_path):
  told = fails(
    'digits', '--data-dir', tmp_path, *'--features a --size 9 --out x'.split()
  )
  assert 'Prepare it with: python tools/prepare_data.py digits --data-dir' in told


def test_existing_files_are_not_overwritten(fails, data_set, tmp_path):
  out = tmp_path / 'v.model'
  out.write_text('mine')
  told = fails(*data_set, '--features', 'de', '--size', '90', '--out', out)
  assert told == f'{out} already exists; --overwrite replaces it.'
  assert out.read_text() == 'mine'


def test_other_errors_of_sentencepiece_are_passed_on():
  with pytest.raises(UserError, match='sentencepiece failed: .*character_coverage'):
    tokenizer.train(TEXTS, 90, 'bpe', coverage=0.1)


def test_help_loads_nothing():
  program = (
    'import runpy, sys\n'
    'sys.argv = ["train_tokenizer", "--help"]\n'
    'try:\n'
    f'  runpy.run_path({str(SCRIPT)!r}, run_name="__main__")\n'
    'except SystemExit:\n'
    '  pass\n'
    'loaded = {"tensorflow_datasets", "jax", "numpy", "sentencepiece"}\n'
    'assert not loaded & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True, capture_output=True)


def test_word_pieces_of_bert(tool, tmp_path, capsys):
  text, out = tmp_path / 'text', tmp_path / 'vocab.txt'
  text.write_text('Ein roter Ring.\nein Ring\n')
  options = '--model-type', 'wordpiece', '--size', '30', '--out', str(out)
  tool.main(['--text', str(text), *options])
  made = WordPiece(str(out))
  assert made.pieces(made.encode('EIN Ring')) == ['ein', 'ring']
  assert f'{made.size} pieces, wordpiece' in capsys.readouterr().out
