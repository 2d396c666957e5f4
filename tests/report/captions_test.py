import types

import numpy as np
import pytest

from big_vision_like.data.text import words
from big_vision_like.errors import UserError
from big_vision_like.evals import captions as evals
from big_vision_like.report import captions, compose
from big_vision_like.spec import spec
from big_vision_like.tasks import captioning

VOCABULARY = words.Words(words=('a', 'dog', 'cat', 'runs'))
FOUND = ('a dog runs', 'a cat', '')
TRUE = (('a dog runs', 'dogs run'), ('a cat runs',), ('a dog',))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3)).astype(np.uint8)


@pytest.fixture
def source():
  made = evals.CaptionScores(data=None, vocabulary=VOCABULARY, predict='greedy')
  found = captions.Found(
    'val',
    made,
    [5, 6, 7],
    [text.split() for text in FOUND],
    [[text.split() for text in own] for own in TRUE],
  )
  ids = np.zeros((3, 4), np.int32)
  for i, text in enumerate(FOUND):
    row = [*VOCABULARY.encode(text), 2]
    ids[i, : len(row)] = row
  asked = []

  def chosen(evaluator, measure, indices):
    asked.append(evaluator.predict)
    attention = np.full((3, 4, 2, 3), 1 / 6, np.float32)
    outputs = {'ids': ids, 'attention': attention}
    rows = measure(outputs, {'image': IMAGES})
    return [{k: x[i - 5] for k, x in rows.items()} for i in indices]

  return types.SimpleNamespace(
    found=found,
    vocabulary=VOCABULARY,
    asked=asked,
    chosen=chosen,
    training_batch=lambda size: (None, {'image': IMAGES, 'target': ids}),
  )


def test_the_class_of_reports_is_found_by_what_the_task_predicts():
  config = {'task': spec(captioning.Captioning, model=None, optimizer=None)}
  assert compose.source_of(config) is captions.Source


def test_training_images_with_their_captions(source):
  content, _ = captions.sample_inputs(source)
  assert content.count('<img') == 3 and 'a dog runs' in content
  source.training_batch = lambda size: (None, {'image': IMAGES})
  with pytest.raises(UserError, match='have no `target`'):
    captions.sample_inputs(source)


def test_captions_with_scores_and_references(source):
  content, _ = captions.predicted(source)
  scores = evals.scores(source.found.captions, source.found.references)
  assert f'{scores["cider_d"]:.3f}' in content and 'greedy search' in content
  # From the worst to the best.
  places = [content.index(text) for text in ('(empty)', 'a cat runs', 'dogs run')]
  assert places == sorted(places)


def test_attention_word_by_word(source):
  content, caption = captions.attended(source)
  assert source.asked == ['look'] and 'figure 3' in caption
  assert content.count('<img') == 3
  assert 'Best: image 5 of val' in content and 'Worst: image 7 of val' in content
