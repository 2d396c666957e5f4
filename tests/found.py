"""Results of evaluators in a form that tests can compare as one dict."""

import functools

from big_vision_like.evals.evaluator import Results


def flat(results: Results) -> dict:
  """Returns scalars and pictures in one dict."""
  return {**results.scalars, **results.pictures}


def run(evaluator, predict, state, mesh=None) -> dict:
  """Runs an evaluator with its own keywords of the prediction."""
  predict = functools.partial(predict, **evaluator.predict_args)
  return flat(evaluator.run(predict, state, mesh))
