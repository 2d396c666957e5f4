"""Vision transformers in JAX/Flax: pretraining, transfer, published tables."""

from typing import Any

__version__ = '0.1.0'  # the only place, which pyproject.toml reads too


def __getattr__(name: str) -> Any:
  # Imported on first use, to keep `import big_vision_like` light.
  if name == 'load':
    from big_vision_like.inference.loading import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
