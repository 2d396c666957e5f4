"""What one device can do, from the vendors' data sheets.

Speeds: cloud.google.com/tpu/docs (v2 to tpu7x), links of v2 to v4 from arXiv:2304.01433
table 4, NVIDIA's data sheets of A100, H100 and H200. Memory of a TPU: what the compiler
(libtpu 0.0.4x) lets a program use, as its error 'exceeds available HBM' tells.
"""

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device as JAX counts them: a chip, or where a chip is two devices, half of it.

  A ring of devices along one axis of a TPU's torus has two of its links, one to each
  neighbour, `ring_links`; behind a switch a ring has all of a GPU's.
  """

  name: str
  peak_flops: float  # dense bfloat16 operations per second
  hbm_bytes: int
  hbm_bandwidth: float  # bytes per second, as are all
  link_bandwidth: float  # of one link in one direction
  links: int
  ring_links: int = 2

  @property
  def ring_bandwidth(self) -> float:
    """Bytes per second that each device can send around a ring."""
    return self.link_bandwidth * self.ring_links

  def half(self, hbm_bytes: int) -> 'Chip':
    """One of two cores: half of everything, and this much memory."""
    return dataclasses.replace(
      self,
      name=f'{self.name} (one core)',
      peak_flops=self.peak_flops / 2,
      hbm_bytes=hbm_bytes,
      hbm_bandwidth=self.hbm_bandwidth / 2,
      link_bandwidth=self.link_bandwidth / 2,
    )


def _tpu(name: str, peak: float, hbm: float, bandwidth: float, link: float, links: int):
  return Chip(name, peak, int(hbm * GIB), bandwidth, link, links)


def _gpu(name: str, peak: float, hbm: float, bandwidth: float, links: int):
  return Chip(name, peak, int(hbm * GIB), bandwidth, 25e9, links, ring_links=links)


_V2 = _tpu('TPU v2', 45e12, 16, 700e9, 62e9, 4)
_V3 = _tpu('TPU v3', 123e12, 32, 900e9, 70e9, 4)
_V4 = _tpu('TPU v4', 275e12, 30.75, 1200e9, 50e9, 6)
_V5E = _tpu('TPU v5e', 197e12, 15.75, 819e9, 50e9, 4)
_V5P = _tpu('TPU v5p', 459e12, 95.73, 2765e9, 100e9, 6)
_V6E = _tpu('TPU v6e', 918e12, 31.24, 1638e9, 100e9, 4)
_V7X = _tpu('TPU7x', 2307e12, 192, 7380e9, 100e9, 6)

# By the beginning of `device_kind`; the longest that fits counts.
CHIPS = {
  'TPU v2': _V2.half(int(7.48 * GIB)),
  'TPU v3': _V3.half(int(15.48 * GIB)),
  'TPU v4': _V4,
  'TPU v5 lite': _V5E,
  'TPU v5e': _V5E,
  'TPU v5': _V5P,
  'TPU v6 lite': _V6E,
  'TPU v6e': _V6E,
  'TPU7x': _V7X.half(int(94.74 * GIB)),
  # Less what the driver keeps.
  'NVIDIA A100': _gpu('NVIDIA A100 40GB', 312e12, 40, 1555e9, 12),
  'NVIDIA A100-SXM4-80GB': _gpu('NVIDIA A100 80GB', 312e12, 80, 2039e9, 12),
  'NVIDIA H100': _gpu('NVIDIA H100 SXM', 989e12, 80, 3350e9, 18),
  'NVIDIA H200': _gpu('NVIDIA H200', 989e12, 141, 4800e9, 18),
}
# A v4 whose cores are two devices, which its device kind does not tell.
_V4_CORE = _V4.half(int(15.25 * GIB))


def of_kind(kind: str) -> Chip | None:
  """The chip of a device kind such as 'TPU v5 lite'; None if it is not known."""
  matches = [start for start in CHIPS if kind.startswith(start)]
  return CHIPS[max(matches, key=len)] if matches else None


def of(device: Any) -> Chip | None:
  """The chip of a (compile-only) device; None if it is not known, as of CPUs."""
  chip = of_kind(device.device_kind)
  return _V4_CORE if chip is _V4 and getattr(device, 'num_cores', 2) == 1 else chip
