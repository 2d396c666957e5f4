"""What glibc does with memory that a program frees."""

import ctypes

# Parameters of mallopt: one arena, since those of threads cannot be large; only from
# 1 GiB on memory is mapped apart; as much is kept when it is freed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MALLOC = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1}


def keep_memory() -> None:
  """Lets glibc keep what is freed, for the next step or image.

  What it gives back to the system it gets anew, to be cleared page by page: 17 % of a
  step of ViT-S/16 on a CPU, most of the time of some operations on images.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:
    for parameter, value in MALLOC.items():
      mallopt(parameter, value)
