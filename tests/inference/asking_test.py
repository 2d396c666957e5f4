"""Answers and objects of one run of several tasks."""

import runpy

import jax
import numpy as np
import pytest
from random_weights import save_run

from big_vision_like import spec
from big_vision_like.data.procedural import drawing, shape_world
from big_vision_like.errors import UserError
from big_vision_like.inference import asking, loading

CONFIG = runpy.run_path('configs/unit/shape_world.py')
TASKS = ('objects', 'questions', 'sentences')


@pytest.fixture(scope='module')
def picture():
  config = shape_world.ShapeWorld.BUILDER_CONFIGS[0]
  return drawing.png(shape_world.draw(config, 'train', 0)['image'])


@pytest.fixture(scope='module')
def asker(tmp_path_factory):
  config = CONFIG['get_config']('all')
  for part in config.task.tasks, config.evals:
    for name in {*part} - {*TASKS}:
      del part[name]
  task = spec.build(config.task.to_dict(), 'task')
  image = dict(image=((1, 32, 32, 3), 'uint8'), size=((1, 2), 'int32'))
  text = {name: ((1, 8), 'int32') for name in ('tokens', 'token_types', 'token_mask')}
  batch = dict(objects=image, questions=image | text, sentences=text)
  batch = {
    name: {key: jax.ShapeDtypeStruct(*x) for key, x in part.items()}
    for name, part in batch.items()
  }
  state = jax.eval_shape(task.init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  params, mutable = jax.tree.map(
    lambda x: np.abs(rng.normal(0, 0.3, x.shape)).astype('float32'),
    (state.params, state.mutable),
  )
  folder = tmp_path_factory.mktemp('runs') / 'run'
  save_run(folder, config, params, mutable=mutable)
  return asking.Asker(loading.load_run(folder))


def test_a_question_about_a_picture(asker, picture):
  rows = asker.ask(['what color is the square'], picture)
  assert [row.task for row in rows] == ['questions'] * 3
  scores = [row.score for row in rows]
  assert scores == sorted(scores, reverse=True) and 0 < scores[0] <= 1
  others = asker.ask(['how many red'], picture)
  assert [row.score for row in others] != scores


def test_a_text_alone(asker):
  rows = asker.ask(['there is a red disc'])
  assert {row.task for row in rows} == {'sentences'}
  np.testing.assert_allclose(sum(row.score for row in rows), 1, rtol=1e-5)


def test_objects_of_a_picture(asker, picture):
  rows = asker.find(picture, threshold=-1.0)
  assert len(rows) == 8 and {row.task for row in rows} == {'objects'}
  assert all(len(row.box) == 4 for row in rows)
  assert asker.find(picture, threshold=1.0) == []


def test_texts_that_no_task_takes(asker, picture):
  with pytest.raises(UserError, match='has no task on 2 texts about a picture'):
    asker.ask(['a red disc', 'a disc'], picture)
