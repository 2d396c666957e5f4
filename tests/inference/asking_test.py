"""Answers and objects of one run of several tasks."""

import runpy

import jax
import numpy as np
import pytest
from random_weights import save_run

from big_vision_like import spec
from big_vision_like.data.procedural import drawing, shape_world
from big_vision_like.data.sources import tfds
from big_vision_like.errors import UserError
from big_vision_like.inference import asking, loading
from big_vision_like.report import compose
from big_vision_like.report import unit as report

CONFIG = runpy.run_path('configs/unit/shape_world.py')
TASKS = ('objects', 'questions', 'sentences')


@pytest.fixture(scope='module')
def picture():
  config = shape_world.ShapeWorld.BUILDER_CONFIGS[0]
  return drawing.png(shape_world.draw(config, 'train', 0)['image'])


def run_of(folder):
  """Saves a run of three tasks with random parameters."""
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

  def drawn(path, x):
    mean = 1.0 if path[-1].key in ('scale', 'var') else 0.0
    return rng.normal(mean, 0.05, x.shape).astype('float32')

  params, mutable = jax.tree.map_with_path(drawn, (state.params, state.mutable))
  save_run(folder, config, params, mutable=mutable)
  return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return run_of(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def asker(folder):
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


def test_the_report_shows_tasks_and_attention(folder, monkeypatch):
  drawn = {
    name: shape_world._encoded(config, 'train', 3)
    for name, config in zip(
      shape_world.TASKS, shape_world.ShapeWorld.BUILDER_CONFIGS, strict=True
    )
  }
  monkeypatch.setattr(
    tfds.Tfds, '__getitem__', lambda source, _: drawn[source.name.partition('/')[2]]
  )
  monkeypatch.setattr(tfds.Tfds, '__len__', lambda _: 4)
  for record in drawn.values():
    if 'objects' in record:
      rows = record['objects']
      record['objects'] = {key: [row[key] for row in rows] for key in rows[0]}
  source = compose.read(str(folder), None, 4, '')
  content, _ = report.of_tasks(source)
  assert 'sentences' in content and '>9<' in content  # answers of questions
  content, _ = report.attended(source)
  assert content.count('<img') == 2 * (2 + 1)  # two objects and a question, twice
  assert 'the image ' in content and '[CLS] 100 %' in content
  assert 'absent' not in content


def test_an_image_is_bright_where_a_query_attends():
  image_HWC = np.full((8, 12, 3), 100, np.uint8)
  lit_HWC = report.lit(image_HWC, np.array([0.5, 0, 0, 0, 0, 0.5]))
  assert lit_HWC.shape == (8 * 13, 12 * 13, 3)
  assert lit_HWC[0, 0, 0] == lit_HWC[-1, -1, 0] == 100
  assert lit_HWC[0, -1, 0] == lit_HWC[-1, 0, 0] == 20
  with pytest.raises(UserError, match='5 cells do not fit an image of 8x12'):
    report.lit(image_HWC, np.ones(5))
