"""Tests of reports about runs of Slot Attention."""

import dataclasses
import json
import pathlib
import re

import cv2
import ml_collections as mlc
import numpy as np
import pages
import pytest
from scipy import optimize

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import solids, tetrominoes
from big_vision_like.data.sources import fake
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import labels, objects
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.evals import clevr_sets as precision
from big_vision_like.evals import object_discovery as segmentation
from big_vision_like.models import slot_attention
from big_vision_like.report import slots as report_slots
from big_vision_like.report import source as report_source
from big_vision_like.spec import spec
from big_vision_like.tasks import object_discovery, set_prediction
from tools import report

SIDE, SLOTS, ITERATIONS, COUNT = 12, 4, 2, 13
NAMES = report_slots.CLEVR


@dataclasses.dataclass(frozen=True)
class Blocks(Source):
  """Three squares on black, 8x8 pixels; the first image is empty."""

  length: int
  split: str

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    example = tetrominoes.draw(
      0, self.split, index, size=8, cell=1, shapes=('O0',), gap=1
    )
    shown = np.uint8(index > 0)
    return {
      'image': shown * example['image'],
      'segmentation': shown * example['segmentation'][..., 0],
    }


@dataclasses.dataclass(frozen=True)
class Solids(Source):
  """Two to four solids, described as in TFDS."""

  length: int
  split: str

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    example = solids.draw(0, self.split, index, solids.View(SIDE, SIDE), (2, 4))
    told = {'3d_coords': [each['3d_coords'] for each in example['objects']]}
    for name, values in NAMES.items():
      told[name] = [values.index(each[name]) for each in example['objects']]
    return {'image': example['image'], 'objects': told}


def config_of(
  task: type, model: mlc.ConfigDict, source: type, **evals
) -> mlc.ConfigDict:
  transforms = []
  if source is Solids:
    names = ['image', 'targets']
    transforms = [
      spec(objects.ClevrTargets, max_objects=4),
      spec(labels.Keep, names=names),
    ]

  def data(kind: type, split: str, length: int) -> mlc.ConfigDict:
    examples = spec(source, length=length, split=split)
    return spec(kind, source=examples, transforms=transforms, batch_size=8)

  return mlc.ConfigDict(
    dict(
      total_steps=2,
      task=spec(task, model=model, optimizer=spec(optim.adamw, rate=1e-3)),
      train_data=data(pipeline.TrainInput, 'train', 20),
      evals={
        name: spec(kind, data=data(pipeline.EvalInput, 'validation', COUNT), **options)
        for name, (kind, options) in evals.items()
      },
    )
  )


CONFIGS = {
  'blocks': config_of(
    object_discovery.ObjectDiscovery,
    spec(
      slot_attention.AutoEncoder,
      num_slots=SLOTS,
      iterations=ITERATIONS,
      slot_size=8,
      hidden=8,
      encoder_convs=((6, 3, 1),),
      grid=(4, 4),
      decoder_convs=((6, 3, 2),),
    ),
    Blocks,
    more=(
      segmentation.Segmentation,
      dict(predict_args=dict(num_slots=5, iterations=3), pictures=COUNT),
    ),
    one=(segmentation.Segmentation, dict(objects=(1, 1))),
  ),
  'solids': config_of(
    set_prediction.SetPrediction,
    spec(
      slot_attention.SetClassifier,
      num_slots=SLOTS,
      num_properties=19,
      iterations=ITERATIONS,
      slot_size=8,
      hidden=8,
      encoder_convs=((6, 3, 2),),
    ),
    Solids,
    val=(precision.AveragePrecision, dict(pictures=COUNT)),
  ),
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
  folder = tmp_path_factory.mktemp('runs')
  return {
    name: pages.untrained(config, folder / name) for name, config in CONFIGS.items()
  }


@pytest.fixture(scope='module')
def blocks(runs):
  return pages.source_of(runs['blocks'])


@pytest.fixture(scope='module')
def sets(runs):
  return pages.source_of(runs['solids'])


def with_evals(source, evals: dict, evaluator: str = ''):
  """Returns the run as if its config had these evaluators."""
  config = {**source.log.config, 'evals': evals}
  log = dataclasses.replace(source.log, config=config)
  return dataclasses.replace(source, log=log, evaluator=evaluator)


@pytest.fixture(scope='module')
def pair_page(runs) -> pathlib.Path:
  out = runs['blocks'].parent / 'pair.html'
  assert report.main([*map(str, runs.values()), f'--out={out}']) == 0
  return out


def test_runs_of_both_kinds_have_sections_of_their_own(pair_page):
  reader = pages.Reader(pair_page)
  assert reader.headings == ['Summary', 'Curves', 'Inputs', 'Slots', 'Objects']
  assert 'Not shown' not in reader.text
  of_both = re.findall('<h3>(blocks|solids)</h3>', pair_page.read_text())
  assert of_both == ['blocks', 'solids', 'blocks', 'solids']
  assert len(reader.images) == 2 * report_slots.NUM_INPUTS + 2 * report_source.NUM_SHOWN


def test_a_browser_shows_the_page(pair_page, tmp_path):
  pages.opened(pair_page, tmp_path)


def test_inputs_are_the_first_of_training(blocks, sets):
  content, caption = report_slots.sample_inputs(blocks)
  _, batch = blocks.training_batch(16)
  for shown, image in zip(pages.pictures_of(content), batch['image'], strict=True):
    np.testing.assert_array_equal(cv2.resize(shown, (8, 8), interpolation=0), image)
  assert '8x8x3 arrays' in caption and 'objects' not in content
  content, _ = report_slots.sample_inputs(sets)
  assert {n for n in '2345' if f'>{n} objects<' in content} == {*'234'}


def test_slots_are_measured_as_the_evaluator_does(blocks):
  assert blocks.found.name == 'more'  # the first evaluator that fits
  values = blocks.found.values
  np.testing.assert_array_equal(values.pop('objects'), [0] + 12 * [3])
  expected = pages.evaluated(blocks, 'more')
  sheets = expected.pop('slots')
  assert {k: v[1:].mean() for k, v in values.items()} == pytest.approx(expected)
  values['objects'] = np.array([0] + 12 * [3])
  content, _ = report_slots.slots_by_iteration(blocks)
  assert '12 of the first 13 examples of more show 1 object or more' in content
  assert f'foreground ARI is {100 * expected["ari_foreground"]:.1f}\u00a0%' in content
  [header, ari] = pages.rows_of(content)
  assert header == ['after iteration', '1', '2', '3']
  assert ari == ['foreground ARI'] + [
    f'{100 * expected[f"ari_foreground_{i}"]:.1f}\u00a0%' for i in (1, 2, 3)
  ]
  order = values['ari_foreground'][1:].argsort(kind='stable')
  titles = re.findall('<h3>(\\w+): example (\\d+) of more, foreground ARI', content)
  assert [title for title, _ in titles] == ['Best', 'Median', 'Worst']
  shown = [int(example) - 1 for _, example in titles]
  found = values['ari_foreground'][1:]
  assert found[shown[0]] == found.max() and found[shown[2]] == found.min()
  assert found[order[5]] <= found[shown[1]] <= found[order[6]]
  for example, picture in zip(shown, pages.pictures_of(content), strict=True):
    # Other programs round differently.
    np.testing.assert_allclose(picture, sheets[example], atol=2)


def test_few_images_are_shown_once_each():
  titles = report_source.from_best_to_worst
  assert titles(np.array([0.5])) == {0: 'Best'}
  assert titles(np.array([0.5, 0.1])) == {1: 'Best', 0: 'Worst'}
  assert [*titles(np.arange(9.0)[::-1]).items()] == [
    (8, 'Best'),
    (4, 'Median'),
    (0, 'Worst'),
  ]


def test_objects_are_matched_and_measured_as_the_evaluator_does(sets):
  found = sets.found
  values, expected = found.values, pages.evaluated(sets, 'val')
  assert values['huber'].mean() == pytest.approx(expected['huber'])
  batches = list(found.evaluator.data.epoch())
  targets = np.concatenate([batch['targets'][batch['mask']] for batch in batches])
  np.testing.assert_array_equal(values['targets'], targets)
  for predictions, objects_OP, slot_O in zip(
    values['predictions'], targets, values['slot'], strict=True
  ):
    off = np.abs(predictions[None] - objects_OP[:, None])  # below 1, losses are squares
    rows, columns = optimize.linear_sum_assignment(np.square(off).sum(axis=-1))
    np.testing.assert_array_equal(slot_O[rows], columns)
  content, _ = report_slots.objects_found(sets)
  header, aps, *_ = pages.rows_of(content)
  assert header == ['distance below', '\u221e', '1', '0.5', '0.25', '0.125']
  thresholds = ['inf', *header[2:]]
  assert aps[1:] == [f'{100 * expected[f"ap_{t}"]:.1f}\u00a0%' for t in thresholds]
  shown = [int(n) for n in re.findall('example (\\d+) of val, loss', content)]
  assert [values['huber'][i] for i in shown] == np.sort(values['huber'])[
    [0, 6, 12]
  ].tolist()
  for example, picture in zip(shown, pages.pictures_of(content), strict=True):
    sheet = expected['attention'][example]
    np.testing.assert_allclose(picture, sheet, atol=2)


def an_object(place, size, material, shape, color, presence):
  """Returns a row of targets, given the coordinates in the scene."""
  one_hot = [
    np.arange(len(values)) == values.index(value)
    for values, value in zip(
      NAMES.values(), (size, material, shape, color), strict=True
    )
  ]
  return np.concatenate([(np.array(place) + 3) / 6, *one_hot, [presence]])


def test_objects_are_listed_next_to_their_slots():
  targets = np.stack(
    [
      an_object((-3, 0, 0.7), 'large', 'metal', 'cube', 'red', 1),
      an_object((1.5, 2, 0.35), 'small', 'rubber', 'sphere', 'gray', 1),
      np.zeros(19),
    ]
  )
  predictions = np.stack(
    [
      an_object((1.5, 2.3, 0.75), 'small', 'metal', 'sphere', 'cyan', 0.9),
      an_object((0, 0, 0), 'small', 'metal', 'cube', 'blue', 0.4),
      an_object((-3, 0, 0.7), 'large', 'metal', 'cube', 'red', 0.25),
      an_object((2, 2, 2), 'large', 'rubber', 'cylinder', 'brown', 0.6),
    ]
  )
  slot_of = np.array([2, 0, 1])
  table = report_slots.objects_table(predictions, targets, slot_of, (2, 2, 3, 8))
  header, first, second, third = (' | '.join(row) for row in pages.rows_of(table))
  assert header == (
    'true object | x, y, z | slot | presence'
    ' | size | material | shape | color | x, y, z | distance'
  )
  at, share = '\u22123.00, 0.00, 0.70', '\u00a0%'
  assert first == (
    f'large red metal cube | {at} | 3 | 25.0{share}'
    f' | large | metal | cube | red | {at} | 0.00'
  )
  assert second == (
    f'small gray rubber sphere | 1.50, 2.00, 0.35 | 1 | 90.0{share}'
    ' | small | metal \u2717 | sphere | cyan \u2717 | 1.50, 2.30, 0.75 | 0.50'
  )
  # Slot 2 has low scores for everything.
  assert third.startswith(f'no object |  | 4 | 60.0{share} | large')
  assert third.endswith('2.00, 2.00, 2.00 | ')


def test_names_come_from_the_data_set():
  import tensorflow_datasets as tfds

  features = fake.catalogued('clevr:3.1.0')['objects'].feature
  assert isinstance(features, tfds.features.FeaturesDict)
  for name, values in NAMES.items():
    assert list(values) == features[name].names


def test_other_attributes_have_numbers():
  names = report_slots.attribute_names((2, 3))
  assert names == {'attribute 1': ['0', '1'], 'attribute 2': ['0', '1', '2']}
  row = np.array([0.5, 0.5, 0.5, 0.1, 0.9, 0.2, 0.6, 0.3, 1.0])
  told = report_slots.told(row, names)
  assert told == {'attribute 1': '1', 'attribute 2': '1'}
  assert report_slots.described(told) == '1 1'


def test_missing_sections_give_a_reason(runs, blocks, sets):
  one = pages.source_of(runs['blocks'], evaluator='one')
  with pytest.raises(UserError, match='none of the first 13 examples of one shows 1'):
    report_slots.slots_by_iteration(one)
  with pytest.raises(
    UserError, match='no evaluator of the config measures the segmentation of objects'
  ):
    report_slots.slots_by_iteration(with_evals(blocks, {}))
  node = {**blocks.log.config['evals']['more']}
  accuracy = spec(classification.Accuracy, data=node['data']).to_dict()
  other = with_evals(blocks, {'labels': accuracy}, 'labels')
  with pytest.raises(UserError, match='evals.labels is not an evaluator that measures'):
    report_slots.slots_by_iteration(other)
  val = json.loads(json.dumps(sets.log.config['evals']['val']))
  val['data']['transforms'][1]['names'] = ['image']
  with pytest.raises(UserError, match='the data of evals.val has no `targets`'):
    report_slots.objects_found(with_evals(sets, {'val': val}))
