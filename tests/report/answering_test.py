import types

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.text import wordpiece
from big_vision_like.errors import UserError
from big_vision_like.evals import answering as evals
from big_vision_like.evals import retrieval
from big_vision_like.report import answering, compose
from big_vision_like.report import source as report_source
from big_vision_like.spec import spec
from big_vision_like.tasks import answering as tasks

VOCABULARY = wordpiece.WordPiece(words=('what', 'is', 'it', 'a', 'dog', 'cat'))


def tokens(*texts, length=8):
  ids = [VOCABULARY.cls_id]
  for text in texts:
    ids += [*VOCABULARY.encode(text), VOCABULARY.sep_id]
  return np.pad(np.array(ids), (0, length - len(ids)))


def source(**more):
  config = {'evals': {'val': spec(evals.AnswerScore, data=None)}}
  made = answering.Source(
    types.SimpleNamespace(config=config), None, 'no checkpoint', 8, ''
  )
  for name, value in {'vocabulary': VOCABULARY, **more}.items():
    vars(made)[name] = value
  return made


def test_the_class_of_reports_is_found_by_what_the_task_predicts():
  config = {'task': spec(tasks.Answering, model=None, optimizer=None, head='x')}
  assert compose.source_of(config) is answering.Source


def test_questions_with_their_answers():
  found = answering.Selected(
    'val',
    np.stack([tokens('what is it'), tokens('a dog')]),
    np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]),
    np.array([[1.0, 0.3, 0.0], [1.0, 0.0, 0.3]]),
  )
  assert found.score_N.tolist() == [1.0, 0.3]
  names = {0: 'yes', 1: 'no', 2: 'blue'}
  content, caption = answering.answered(source(selected=found, answer_names=names))
  assert 'a mean score of 65.0' in content and 'right ones are' in caption
  wrong, right = content.split('Right')
  assert '1: a dog' in wrong and '0: what is it' in right
  assert wrong.index('"blue"') < wrong.index('"no"') < wrong.index('"yes"')
  assert wrong.count('bar true') == right.count('bar true') == 1


def test_options_show_their_texts():
  options = np.stack([tokens('what is it', 'a dog'), tokens('what is it', 'a cat')])
  found = answering.Selected(
    'val', options[None], np.array([[0.2, 0.8]]), np.array([[0.0, 1.0]])
  )
  content, _ = answering.answered(source(selected=found))
  assert '0: what is it</div>' in content
  assert content.index('a cat') < content.index('a dog')


def test_measured_probabilities():
  outputs = {'logits': np.array([[0.0, np.log(3.0)]])}
  batch = {'tokens': tokens('it')[None], 'label': np.array([1])}
  values = answering.measured(False, outputs, batch)
  np.testing.assert_allclose(values['shares'], [[0.25, 0.75]], rtol=1e-6)
  assert values['target'].tolist() == [[0, 1]]
  batch = {'tokens': batch['tokens'], 'target': np.array([[0.3, 1.0]])}
  values = answering.measured(True, outputs, batch)
  np.testing.assert_allclose(values['shares'], [[0.5, 0.75]], rtol=1e-6)


def test_retrieved_images():
  captions = [
    {'tokens': tokens('a dog'), 'image_number': np.int32(1), 'id': 0},
    {'tokens': tokens('a cat'), 'image_number': np.int32(0), 'id': 1},
  ]
  images = [
    {
      'regions': np.full((3, 2), float(i), np.float32),
      'locations': np.array([[0, 0, 1, 1, 1], [0, 0, 0.5, 0.5, 0.25], [0] * 5]),
      'region_mask': np.array([True, True, False]),
      'id': i,
    }
    for i in range(2)
  ]

  def data(rows):
    return pipeline.EvalInput(source=rows, transforms=(), batch_size=2)

  def match(state, batch, key):
    return {'score': batch['regions'][:, 0, 0]}

  made = source()
  task = types.SimpleNamespace(prediction=lambda name, **arguments: match)
  made.run = types.SimpleNamespace(task=task, state=1.0)
  evaluator = retrieval.Retrieval(data=data(captions), images=data(images))
  made.evaluator_of = lambda kind, what: ('val', evaluator)
  content, caption = answering.gallery(made)
  assert content.index('The right image has rank 1 of 2') < content.index(
    'The right image has rank 2 of 2'
  )
  assert content.count('the right one:') == 4 and content.count('<img') == 4
  assert 'features of regions only' in caption


def test_sections_fit_the_evaluators():
  fits = [section.fits(source()) for section in answering.SECTIONS]
  assert fits == [True, False]


def test_a_config_without_word_pieces():
  made = source()
  del vars(made)['vocabulary']
  with pytest.raises(UserError, match='the config has no word pieces'):
    made.vocabulary  # noqa: B018
  assert isinstance(made, report_source.Source)
