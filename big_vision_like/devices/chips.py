"""Capabilities of one accelerator, from the vendors' data sheets.

TPUs: cloud.google.com/tpu/docs/v4 and so on. The 'bidirectional ICI bandwidth' of a
chip counts all its links in both directions. Links of v2 to v4 and clocks are from
arXiv:2304.01433, table 4. Memory is the amount that the compiler lets a program use:
'available HBM' in the message of libtpu 0.0.52 about a program that is too large.
NVIDIA: data sheets of A100, H100 and H200.
"""

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device as JAX counts devices: a chip, or one of its two cores.

  A ring of devices along one axis of a TPU's torus has `ring_links` = 2, one to each
  neighbour; behind a switch, a ring can use all links of a GPU.
  """

  name: str
  peak_flops: float  # dense bfloat16 operations per second
  hbm_bytes: int
  hbm_bandwidth: float  # bytes per second
  link_bandwidth: float  # bytes per second, for one link in one direction
  links: int
  ring_links: int = 2
  clock: float = 0.0  # cycles per second, as the compiler counts them; 0 if it does not

  @property
  def ring_bandwidth(self) -> float:
    """Bytes per second that each device can send around a ring."""
    return self.link_bandwidth * self.ring_links

  def core(self, hbm_gib: float) -> 'Chip':
    """Returns one of two cores that are a device each.

    It has half of the compute and bandwidths, and its own memory of `hbm_gib` GiB.
    """
    return dataclasses.replace(
      self,
      name=f'{self.name} core',
      peak_flops=self.peak_flops / 2,
      hbm_bytes=int(hbm_gib * GIB),
      hbm_bandwidth=self.hbm_bandwidth / 2,
      link_bandwidth=self.link_bandwidth / 2,
    )


def _tpu(
  name: str,
  tera: float,
  gib: float,
  giga: float,
  links: int,
  link_giga: float,
  clock_giga: float,
) -> Chip:
  return Chip(
    name=name,
    peak_flops=tera * 1e12,
    hbm_bytes=int(gib * GIB),
    hbm_bandwidth=giga * 1e9,
    link_bandwidth=link_giga * 1e9,
    links=links,
    clock=clock_giga * 1e9,
  )


def _gpu(name: str, tera: float, gib: float, giga: float, links: int) -> Chip:
  return Chip(
    name=name,
    peak_flops=tera * 1e12,
    hbm_bytes=int(gib * GIB),  # includes what the driver reserves
    hbm_bandwidth=giga * 1e9,
    link_bandwidth=25e9,
    links=links,
    ring_links=links,
  )


V2 = _tpu('TPU v2', 45, 16, 700, 4, 62, 0.7)
V3 = _tpu('TPU v3', 123, 32, 900, 4, 70, 0.94)
V4 = _tpu('TPU v4', 275, 30.75, 1200, 6, 50, 1.05)
V4_CORE = V4.core(15.25)
V5E = _tpu('TPU v5e', 197, 15.75, 819, 4, 50, 1.5)
V5P = _tpu('TPU v5p', 459, 95.73, 2765, 6, 100, 1.75)
# These clocks are not published: they are the peak over four 256 x 256 units per core.
V6E = _tpu('TPU v6e', 918, 31.24, 1638, 4, 100, 1.75)
V7X = _tpu('TPU7x', 2307, 192, 7380, 6, 100, 2.2)

# By prefix of the device kind; the longest matching prefix wins.
KINDS = {
  'TPU v2': V2.core(7.48),
  'TPU v3': V3.core(15.48),
  'TPU v4': V4,
  'TPU v5 lite': V5E,
  'TPU v5e': V5E,
  'TPU v5': V5P,
  'TPU v6 lite': V6E,
  'TPU v6e': V6E,
  'TPU7x': V7X.core(94.74),
  'NVIDIA A100': _gpu('NVIDIA A100 40GB', 312, 40, 1555, 12),
  'NVIDIA A100-SXM4-80GB': _gpu('NVIDIA A100 80GB', 312, 80, 2039, 12),
  'NVIDIA H100': _gpu('NVIDIA H100', 989, 80, 3350, 18),
  'NVIDIA H200': _gpu('NVIDIA H200', 989, 141, 4800, 18),
}


def of_kind(kind: str) -> Chip | None:
  """Returns the chip of a device kind such as 'TPU v5 lite'; None if unknown."""
  matches = [start for start in KINDS if kind.startswith(start)]
  return KINDS[max(matches, key=len)] if matches else None


def of(device: Any) -> Chip | None:
  """Returns the chip of a device, which may be compile-only; None if unknown."""
  chip = of_kind(device.device_kind)
  # The kind of a v4 does not show whether its cores are separate devices.
  return V4_CORE if chip is V4 and getattr(device, 'num_cores', 2) == 1 else chip
