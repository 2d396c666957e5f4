"""Tests of pages about runs with a student and a teacher."""

import dataclasses

import ml_collections as mlc
import numpy as np
import pages
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.evals import classification as accuracy
from big_vision_like.models import deit, resnet
from big_vision_like.ops import images
from big_vision_like.report import distillation as report_distillation
from big_vision_like.run import init_from
from big_vision_like.spec import spec
from big_vision_like.tasks import classification, distillation
from tools import report

STUDENT = dict(num_classes=3, patch=8, width=12, depth=2, num_heads=3, mlp_dim=16)
TEACHER = dict(num_classes=3, depths=(1,), bottleneck=False, root=4, channels=(4,))


@dataclasses.dataclass(frozen=True)
class Squares(Source):
  """16 x 24 images with a square at one of three positions; some have no label."""

  length: int
  labelled: bool = True
  label_names = ('left', 'middle', 'right')

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(index)
    image_HWC = random.integers(0, 90, (16, 24, 3)).astype(np.uint8)
    label = index % 3
    image_HWC[4:12, 8 * label : 8 * label + 8] = 255
    if not self.labelled and index % 2:
      label = -1
    return {'image': image_HWC, 'label': np.int32(label), 'id': np.int64(index)}


def config_of(task: mlc.ConfigDict, labelled: bool = True) -> mlc.ConfigDict:
  source = spec(Squares, length=24, labelled=labelled)
  data = spec(pipeline.EvalInput, source=spec(Squares, length=50), batch_size=16)
  return mlc.ConfigDict(
    dict(
      total_steps=2,
      task=task,
      train_data=spec(pipeline.TrainInput, source=source, batch_size=8),
      evals=dict(val=spec(accuracy.Accuracy, data=data)),
    )
  )


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  optimizer = spec(optim.momentum, rate=0.1)
  teacher = spec(resnet.ResNet, **TEACHER)
  config = config_of(
    spec(
      classification.Classification,
      model=teacher,
      optimizer=optimizer,
      mean=0.25,
      std=0.25,
    )
  )
  pages.untrained(config, folder / 'teacher')
  for name, distilled in (('two_heads', True), ('one_head', False)):
    config = config_of(
      spec(
        distillation.Distillation,
        model=spec(deit.DeiT, **STUDENT, distilled=distilled),
        teacher=teacher,
        teacher_images=spec(images.Normalization, mean=0.25, std=0.25),
        optimizer=optimizer,
      ),
      labelled=False,
    )
    config.frozen = dict(
      teacher=spec(init_from.from_run, workdir=str(folder / 'teacher'))
    )
    pages.untrained(config, folder / name)
  return folder


def test_a_page_compares_student_and_teacher(runs):
  assert report.main([str(runs / 'two_heads')]) == 0
  reader = pages.Reader(runs / 'two_heads/report.html')
  assert 'Not shown' not in reader.text
  assert 'Student and teacher' in reader.headings
  assert 'distillation token' in reader.text  # with its attention
  source = pages.source_of(runs / 'two_heads')
  run, shown = source.run, source.predictions
  image = images.normalize(shown.image_BHWC, 0.5, 0.5)
  student = run.network.module.apply(run.variables, image)
  theirs = init_from.from_run(str(runs / 'teacher')).variables
  seen = images.normalize(shown.image_BHWC, 0.25, 0.25)
  teacher = run.task.teacher.apply(theirs, seen)['logits'].argmax(-1)
  rows = pages.rows_of((runs / 'two_heads/report.html').read_text())
  for name, title in report_distillation.HEADS.items():
    best = student[name].argmax(-1)
    want = [f'{100 * np.mean(best == x):.1f}\u00a0%' for x in (shown.label_B, teacher)]
    assert [title, *want] in rows
  right = f'{100 * np.mean(teacher == shown.label_B):.1f}\u00a0%'
  assert ['teacher', right, '100.0\u00a0%'] in rows
  best = student['logits'].argmax(-1)
  differ = int(np.sum(best != teacher))
  assert f'Where they differ: {differ} of 50 examples' in reader.text
  middle = shown.label_B == 1
  agree = f'{100 * np.mean((best == teacher)[middle]):.1f}\u00a0%'
  assert ('middle', '17', agree) in [(row[0], row[1], row[-1]) for row in rows if row]
  assert 'no label' in reader.text  # some training images


def test_a_student_with_one_head_has_one_row(runs):
  source = pages.source_of(runs / 'one_head')
  assert source.answers.probability_BC.keys() == {'teacher', 'logits'}
  headings = [each.heading for each in source.sections if each.fits(source)]
  assert 'Student and teacher' in headings


def test_runs_without_a_teacher_have_no_such_section(runs):
  source = pages.source_of(runs / 'teacher')
  headings = [each.heading for each in source.sections if each.fits(source)]
  assert 'Student and teacher' not in headings and 'Predictions' in headings


def test_a_teacher_that_has_moved_is_a_reason(runs, tmp_path):
  source = pages.source_of(runs / 'one_head')
  source.run.config.frozen.teacher.workdir = str(tmp_path / 'gone')
  with pytest.raises(ValueError, match='config.frozen.teacher .*gone holds no chec'):
    _ = source.answers
