"""Tests that two processes measure generated images as one does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import mean_colours
import pytest

from big_vision_like.evals import generation

# One device per process. At first, only one process has moments and features of the
# real images in its cache.
PROGRAM = """
import json, sys
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
address, number = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
import mean_colours
from big_vision_like.devices import mesh as meshes
from big_vision_like.evals import generation
mesh = meshes.make_mesh()
state = jax.device_put(mean_colours.STATE, jax.sharding.NamedSharding(mesh, jax.P()))
found = {}
for kind in (generation.Fid, generation.Fid, generation.PrecisionRecall):
  evaluator = mean_colours.made(kind)
  found[kind.__name__] = evaluator.run(mean_colours.generate, state, mesh).scalars
print('found', json.dumps(found))
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def test_two_processes_are_one(tmp_path, monkeypatch):
  homes = [tmp_path / name for name in 'ab']
  for home in homes:
    home.mkdir()
  monkeypatch.setenv('HOME', str(homes[0]))
  alone = {
    kind.__name__: mean_colours.made(kind)
    .run(mean_colours.generate, mean_colours.STATE)
    .scalars
    for kind in (generation.Fid, generation.PrecisionRecall)
  }
  address = f'127.0.0.1:{free_port()}'
  path = os.pathsep.join([str(pathlib.Path(mean_colours.__file__).parent), *sys.path])
  started = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, address, str(number)],
      env=os.environ
      | {'HOME': str(home), 'PYTHONPATH': path, 'XLA_FLAGS': ''}
      | {'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number, home in enumerate(homes)
  ]
  outputs = [process.communicate(timeout=300) for process in started]
  assert [process.returncode for process in started] == [0, 0], outputs
  texts = [out.partition('found ')[2].splitlines()[0] for out, _ in outputs]
  assert texts[0] == texts[1]  # equal to the last bit
  for name, scalars in json.loads(texts[0]).items():
    assert scalars == pytest.approx(alone[name], rel=1e-4)
  stored = [sorted(p.name for p in home.rglob('generation/*.npz')) for home in homes]
  assert stored[0] == stored[1] and len(stored[0]) == 2
