"""A report of a run of `Averaging` (made up)."""

from collections.abc import Sequence

from big_vision_like.report import page, source
from big_vision_like.report.source import Section


class Averages(source.Source):
  """A run that predicts averages."""

  predicts = 'averages'

  @property
  def sections(self) -> Sequence[Section]:
    return (Section('The averager', show, 'beside'),)


def show(run: Averages) -> tuple[str, str]:
  """Returns the width of the run's embedding."""
  width = run.params['embed']['bias'].size
  return page.paragraph(f'It averages into {width} numbers.'), 'An average.'
