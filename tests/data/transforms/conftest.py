import numpy as np
import pytest


@pytest.fixture(scope='session')
def picture() -> np.ndarray:
  """Noise without the darkest and the brightest."""
  return np.random.default_rng(0).integers(5, 251, (20, 33, 3), dtype=np.uint8)
