import types

import battery
import jax
import numpy as np
import pytest
from battery import vilbert as cases

from big_vision_like import optim
from big_vision_like.data.text import wordpiece
from big_vision_like.errors import UserError
from big_vision_like.evals import pretraining as evals
from big_vision_like.evals.evaluator import Rows
from big_vision_like.models import vilbert
from big_vision_like.report import compose, pairs
from big_vision_like.spec import spec
from big_vision_like.tasks import multimodal_pretraining as tasks

WORDS = tuple('abcdefghijklmnopqr')
LOG = types.SimpleNamespace(
  config={
    'data': spec(wordpiece.WordPiece, words=WORDS),
    'evals': {'val': spec(evals.Alignment, data=None)},
  }
)


def test_the_class_of_reports_is_found_by_what_the_task_predicts():
  config = {'task': spec(tasks.MultimodalPretraining, model=None, optimizer=None)}
  assert compose.source_of(config) is pairs.Source


def test_pairs_told_apart(monkeypatch):
  source = pairs.Source(LOG, None, 'no checkpoint', 8, '')
  values = {
    'share': np.array([0.9, 0.8, 0.1]),
    'aligned': np.array([True, False, False]),
    'tokens': np.array([[2, 5, 6, 3], [2, 7, 3, 0], [2, 8, 3, 0]]),
    'token_mask': np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]),
  }
  monkeypatch.setattr(source, 'evaluator_of', lambda *_: ('val', None))
  monkeypatch.setattr(
    source, 'joined', lambda *_: Rows(np.arange(3), values, []), raising=False
  )
  content, _ = pairs.told_apart(source)
  wrong, right = content.split('Right')
  assert '66.7' in wrong and '[CLS] c [SEP]' in wrong and 'a b' not in wrong
  assert '[CLS] a b [SEP]' in right and '[CLS] d [SEP]' in right


def trained(**options):
  """Returns a source with a small ViLBERT at random weights, and data for it."""
  model = vilbert.ViLBERT(**cases.SMALL | options)
  inputs = cases.inputs()
  names = tasks.INPUTS
  batch = dict(zip(names, inputs, strict=True))
  task = tasks.MultimodalPretraining(
    model=model,
    optimizer=optim.adamw(1e-3),
    mask_id=4,
    never_masked=(0, 2, 3),
    losses={'alignment': 1.0},
  )
  data = types.SimpleNamespace(epoch=lambda: iter([batch]))
  return types.SimpleNamespace(
    log=LOG,
    restored=types.SimpleNamespace(
      network=task.networks()['model'],
      variables=jax.device_get(battery.variables(model, *inputs)),
    ),
    spread_of=lambda *_: ('val', types.SimpleNamespace(data=data)),
  )


def test_words_and_regions_see_each_other():
  source = trained()
  content, caption = pairs.coattention(source)
  assert content.count('Words read regions') == pairs.NUM_PAIRS * 2
  assert content.count('Regions read words') == pairs.NUM_PAIRS * 2
  assert 'Connection 2, the last one' in content and 'region 5' in content
  assert 'global region' in caption


def test_streams_that_do_not_meet_have_no_section():
  with pytest.raises(UserError, match='no pairs that meet'):
    pairs.coattention(trained(text_places=(), image_places=()))
