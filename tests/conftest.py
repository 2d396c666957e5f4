"""Shared setup of all tests: strict JAX, fast compilation, tiny data sets, programs."""

import atexit
import collections
import contextlib
import gc
import importlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from unittest import mock

# JAX and TFDS read these variables on import.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TFDS_DATA_DIR'] = tempfile.mkdtemp(prefix='tensorflow_datasets')

import jax  # noqa: E402
import pytest  # noqa: E402

from big_vision_like import cli  # noqa: E402
from big_vision_like.devices import malloc  # noqa: E402
from big_vision_like.run import checkpoint  # noqa: E402

REPOSITORY = pathlib.Path(__file__).parent.parent
QUICK = cli.QUICK_COMPILATION

atexit.register(shutil.rmtree, os.environ['TFDS_DATA_DIR'], ignore_errors=True)

# Flags that the user has set apply to all tests and to the programs that they start:
# `XLA_FLAGS=--xla_cpu_max_isa=AVX2 make test`. JAX reads them now, with eight simulated
# devices; plans load libtpu later, which aborts on unknown flags.
USERS = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=8 {QUICK} {USERS}'
jax.devices()
os.environ['XLA_FLAGS'] = USERS

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Programs under test set up a compilation cache, but tests must not read what other
# tests compiled.
jax.config.update('jax_enable_compilation_cache', False)
# This process runs many programs, and must not keep their memory.
malloc.MALLOC.clear()
# Programs must not remove the hook that reports unraisable exceptions to pytest either.
checkpoint.keep_quiet = lambda: None
# Tracing makes many objects; looking for reference cycles took a sixth of the time.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Starts files with few tests first: most of those run long, many others do not.

  Workers of pytest-xdist take whole files, and none should start a long one at the end.
  """
  count = collections.Counter(item.path for item in items)
  items.sort(key=lambda item: count[item.path])


def pytest_terminal_summary(terminalreporter) -> None:
  """Prints the seconds of each folder of tests, the slowest first."""
  seconds: collections.Counter[str] = collections.Counter()
  for reports in terminalreporter.stats.values():
    for report in reports:
      if hasattr(report, 'duration'):
        seconds[str(pathlib.Path(report.fspath).parent)] += report.duration
  terminalreporter.section('seconds per folder')
  for folder, total in seconds.most_common():
    terminalreporter.write_line(f'{total:8.1f}  {folder}')


@pytest.fixture(autouse=True, scope='module')
def _forget() -> Iterator[None]:
  """Frees the compiled programs of a file: JAX keeps them, in the end gigabytes."""
  yield
  jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
  return jax.random.key(0)


@pytest.fixture(scope='session')
def golden() -> pathlib.Path:
  return REPOSITORY / 'tests' / 'golden'


@pytest.fixture(scope='session')
def detector(tmp_path_factory) -> tuple:
  """Returns a `torch.save` file of a DETR with masks, the model and its variables."""
  import random_weights
  import torch_archives

  from big_vision_like.weights import detr

  model = random_weights.small_detr(masks=True)
  variables = random_weights.calm(random_weights.variables_of(model))
  folder = tmp_path_factory.mktemp('detector')
  state = detr.to_facebook(variables)
  torch_archives.save(folder / 'detr-dots.pth', {'model': state})
  heads = {'encoder_attention_heads': model.num_heads}
  (folder / 'config.json').write_text(json.dumps(heads))
  return folder / 'detr-dots.pth', model, variables


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """Prepares Digits and 620 examples of Glyphs once, in the default folder of TFDS."""
  import tensorflow_datasets as tfds

  from big_vision_like.data.procedural import digits, glyphs

  folder = pathlib.Path(os.environ['TFDS_DATA_DIR'])
  tfds.disable_progress_bar()
  small = [glyphs.GlyphsConfig(name='32', size=32, per_class=(10, 3))]
  with mock.patch.object(glyphs.Glyphs, 'BUILDER_CONFIGS', small):
    builders = [glyphs.Glyphs(data_dir=folder), digits.Digits(data_dir=folder)]
  for builder in builders:
    builder.download_and_prepare(file_format='array_record')
  return folder


@pytest.fixture(scope='session')
def command(data_dir, tmp_path_factory) -> Callable[..., list]:
  """Returns a function that makes the arguments of `subprocess.run` for Python.

  Programs that are not `quick` to compile are optimized.
  """
  cache = tmp_path_factory.mktemp('compilation_cache')

  def make(
    *words: str, devices: int = 1, quick: bool = True, **environment: str
  ) -> dict:
    count = f'--xla_force_host_platform_device_count={devices}'
    env = os.environ | {
      'XLA_FLAGS': ' '.join([count, QUICK if quick else '', USERS]),
      'TFDS_DATA_DIR': str(data_dir),
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      **environment,
    }
    return dict(args=[sys.executable, *words], env=env, cwd=REPOSITORY)

  return make


@pytest.fixture(scope='session')
def spawn(command) -> Callable[..., subprocess.CompletedProcess]:
  """Returns a function that runs Python with these arguments in a new process."""

  def call(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
      **command(*words, **options), capture_output=True, text=True, timeout=300
    )

  return call


@pytest.fixture(scope='session')
def run(data_dir) -> Callable[..., subprocess.CompletedProcess]:
  """Returns a function that runs a program in this process, faster than `spawn`.

  The program is `-m MODULE` or tools/FILE.py, and sees the given number of devices. As
  with `spawn`, the result has its output and its status.
  """

  def call(*words: str, devices: int = 1, **environment: str):
    name, *rest = words[1:] if words[0] == '-m' else words
    module = importlib.import_module(name.removesuffix('.py').replace('/', '.'))
    out, err, visible = io.StringIO(), io.StringIO(), jax.devices()[:devices]
    with (
      mock.patch.object(jax, 'devices', lambda *_: visible),
      mock.patch.dict(os.environ, environment),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
    ):
      try:
        status = module.main(rest)
      except SystemExit as end:  # raised by argparse
        status = end.code
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

  return call


@pytest.fixture(scope='session')
def vocabulary(tmp_path_factory):
  """Returns a sentencepiece model of 150 pieces, trained on `texts.PAIRS`."""
  import sentencepiece
  import texts

  from big_vision_like.data.text.vocabulary import SentencePiece

  file = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  with file.open('wb') as model:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([text for pair in texts.PAIRS for text in pair.values()]),
      model_writer=model,
      vocab_size=150,
      model_type='bpe',
      pad_id=0,
      bos_id=1,
      eos_id=2,
      unk_id=3,
      minloglevel=2,
    )
  return SentencePiece(str(file))
