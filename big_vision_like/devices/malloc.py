"""Settings for memory that glibc keeps after a program frees it."""

import ctypes

# Parameters of mallopt: one arena, since arenas of threads cannot be large; separate
# mappings only for 2 GiB or more; and up to 2 GiB of freed memory kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MALLOC = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 2**31 - 1, M_TRIM_THRESHOLD: 2**31 - 1}


def keep_memory() -> None:
  """Makes glibc keep freed memory, for the next step or image.

  Memory that glibc returns to the system must later be requested and cleared again,
  page by page. That takes 17 % of a step of ViT-S/16 on a CPU, and most of the time of
  some operations on images.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:
    for parameter, value in MALLOC.items():
      mallopt(parameter, value)
