"""Temporary: weights of frozen networks."""

from typing import Any


def complete(source: Any, network: Any, variables: Any) -> Any:
  params = source.params if hasattr(source, 'params') else source
  return {'params': params, **getattr(source, 'constants', {})}
