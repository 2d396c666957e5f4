"""What evaluators find, for tests that compare it as one dict."""

import functools

from big_vision_like.evals.evaluator import Results


def flat(results: Results) -> dict:
  """Scalars and pictures in one dict."""
  return {**results.scalars, **results.pictures}


def run(evaluator, predict, state, mesh=None) -> dict:
  """Runs an evaluator with its own keywords of the prediction."""
  predict = functools.partial(predict, **evaluator.predict_args)
  return flat(evaluator.run(predict, state, mesh))
