import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision_like.devices import chips


@pytest.mark.parametrize(
  'kind, name, peak',
  [
    ('TPU v3', 'TPU v3 core', 61.5e12),
    ('TPU v4', 'TPU v4', 275e12),
    ('TPU v5', 'TPU v5p', 459e12),
    ('TPU v5p', 'TPU v5p', 459e12),
    ('TPU v5 lite', 'TPU v5e', 197e12),
    ('TPU v6 lite', 'TPU v6e', 918e12),
    ('NVIDIA H100 80GB HBM3', 'NVIDIA H100', 989e12),
    ('NVIDIA A100-SXM4-40GB', 'NVIDIA A100 40GB', 312e12),
    ('NVIDIA A100-SXM4-80GB', 'NVIDIA A100 80GB', 312e12),
  ],
)
def test_of_kind(kind, name, peak):
  chip = chips.of_kind(kind)
  assert (chip.name, chip.peak_flops) == (name, peak)
  assert chips.of(types.SimpleNamespace(device_kind=kind)) == chip


def test_a_cpu_is_unknown():
  assert chips.of(jax.devices()[0]) is None


def test_a_ring_uses_two_links_of_a_torus_and_all_links_of_a_switch():
  # 400 GB/s in both directions over four links; 900 GB/s in both directions.
  assert chips.of_kind('TPU v5 lite').ring_bandwidth == 400e9 / 2 / 4 * 2
  assert chips.of_kind('NVIDIA H100').ring_bandwidth == 900e9 / 2


def test_a_core_is_half_a_chip():
  device = types.SimpleNamespace(device_kind='TPU v4', num_cores=1)
  core, chip = chips.of(device), chips.of_kind('TPU v4')
  for field in ('peak_flops', 'hbm_bandwidth', 'ring_bandwidth'):
    assert 2 * getattr(core, field) == getattr(chip, field)
  assert core.clock == chip.clock
  assert core.hbm_bytes < chip.hbm_bytes


@pytest.mark.parametrize(
  'topology, options',
  [
    ('v2:2x2', {}),
    ('v3:2x2', {}),
    ('v4:2x2x1', {}),
    ('v4:2x2x1', {'chip_config_name': 'megacore'}),
    ('v5e:2x2', {}),
    ('v5p:2x2x1', {}),
    ('v6e:2x2', {}),
    ('tpu7x:2x2x1', {}),
  ],
)
def test_memory_matches_the_limit_of_the_compiler(monkeypatch, topology, options):
  pytest.importorskip('libtpu')
  monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  device = topologies.get_topology_desc(topology, 'tpu', **options).devices[0]
  one = NamedSharding(Mesh(np.array([device]), 'x'), PartitionSpec())
  huge = jax.ShapeDtypeStruct((2**20, 2**19), jnp.bfloat16, sharding=one)
  with pytest.raises(jax.errors.JaxRuntimeError, match='available HBM') as failure:
    jax.jit(lambda x: x + 1).lower(huge).compile()
  allowed = re.search(r'available HBM \(([\d.]+)G\)', str(failure.value))[1]
  assert chips.of(device).hbm_bytes / 2**30 == pytest.approx(float(allowed), abs=0.01)
