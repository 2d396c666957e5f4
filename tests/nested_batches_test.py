"""Tests of nested batches on their way to the devices and into capsules."""

import types

import jax
import numpy as np
import pytest
from flax import traverse_util

from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding
from big_vision_like.run import metrics, replay

BATCH = {
  'vqa': {
    'question': {'ids': np.arange(24, dtype=np.int32).reshape(8, 3)},
    'image/id': np.arange(8, dtype=np.int32),
  }
}


def test_arrays_are_put_on_devices_unchanged():
  arrays = sharding.put(BATCH, meshes.make_mesh())
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(arrays), BATCH)
  assert metrics.shapes_of(arrays) == (
    'vqa/image/id int32[8]',
    'vqa/question/ids int32[8, 3]',
  )


def test_rows_that_do_not_divide_are_named_by_their_path():
  mesh = meshes.make_mesh()
  odd = {'vqa': {'question': np.zeros((len(jax.devices()) + 1, 2))}}
  with pytest.raises(UserError, match="rows of 'vqa/question' do not divide over"):
    sharding.put(odd, mesh)


def test_a_capsule_returns_its_content(tmp_path):
  flat = traverse_util.flatten_dict(BATCH, sep=replay.INSIDE)
  assert flat.keys() == {'vqa::question::ids', 'vqa::image/id'}
  folder = tmp_path / 'capsule-3'
  folder.mkdir()
  for i in range(2):  # one from each of two processes
    rows = np.arange(8)[i::2]
    part = {name: x[rows] for name, x in flat.items()}
    np.savez(folder / f'batch-{i}.npz', **{replay.ROWS: rows}, **part)
  run = types.SimpleNamespace(mesh=meshes.make_mesh())
  found = replay._saved_batch(run, tmp_path, 3)
  jax.tree.map(np.testing.assert_array_equal, found, BATCH)
