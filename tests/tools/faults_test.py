"""Tests of the campaign of faults, with a few of each; results: docs/lab/runs.md."""

import collections

from tools.benchmark import faults
from tools.faults import common


def test_a_few_faults_are_reported():
  kind = common.kinds()['COCO JSON, instances']
  results = list(common.campaign(kind, count=8, seed=0))
  assert len(results) == 8
  assert {result.outcome for result in results} <= set(common.GOOD), results
  told = [result for result in results if result.outcome == 'one sentence']
  assert told and all(result.told for result in told)


def test_other_values_are_silent_where_a_format_could_tell():
  said = {'outcome': 'values', 'values': 'aa'}
  judged = [
    common._judged(kind, said, wanted)
    for kind in (common.kinds()['shards, TFRecord'], common.kinds()['image, bmp'])
    for wanted in ('aa', 'bb')
  ]
  assert judged == ['same values', 'silent', 'same values', 'no checksum']


def test_the_table_sums_up():
  counts = {'a': collections.Counter({'hang': 1}), 'b': collections.Counter(hang=2)}
  head, _, _, last = faults.table(counts)
  assert head.split()[0] == 'tried' and last.split()[:2] == ['all', '3']
