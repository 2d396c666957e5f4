"""Tests of reports about detectors."""

import dataclasses
import html
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pages
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError
from big_vision_like.evals import detection as precision
from big_vision_like.evals import panoptic
from big_vision_like.models import detr, resnet
from big_vision_like.report import compose
from big_vision_like.report import detection as report_detection
from big_vision_like.spec import spec
from big_vision_like.tasks import set_detection
from big_vision_like.viz import detection as drawing

HEIGHT, WIDTH, ROWS, COUNT = 32, 40, 3, 11
SHIFT = 0.29  # in pixels, times the index of the image
NAMES = ('red', 'green <b>', 'sky')  # the last is stuff


def sides(index: int) -> tuple[int, int]:
  """Returns height and width of an image before padding."""
  return (32, 30) if index % 2 else (24, 40)


def objects_of(index: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns true boxes and labels of an image; every fifth image has none."""
  count = index % 5 if index % 5 < ROWS else 2
  lefts = 1.0 + 12 * np.arange(count)
  boxes_N4 = np.stack([lefts, lefts + 1, lefts + 8, lefts + 9], axis=1)
  boxes_N4[:, [1, 3]] = [3, 13]
  return boxes_N4, (np.arange(count) + index) % 2


def found_of(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns boxes, labels and scores that the model predicts for an image.

  Boxes are shifted right in proportion to the index. In image 8, the first box has
  another class; in image 7, the second has a low score.
  """
  boxes_N4, label_N = objects_of(index)
  boxes_N4 = boxes_N4 + np.array([SHIFT * index, 0, SHIFT * index, 0])
  score_N = np.linspace(0.9, 0.8, len(label_N))
  label_N, score_N = label_N.copy(), score_N.copy()
  if index == 8:
    label_N[0] = 1 - label_N[0]
  if index == 7:
    score_N[1] = 0.3
  return boxes_N4, label_N, score_N


@dataclasses.dataclass(frozen=True)
class Marks(Source):
  """Rectangles on grey; the first row of pixels encodes the model's predictions."""

  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    height, width = sides(index)
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    image[:height, :width] = 0.5
    panoptic_map = np.zeros((HEIGHT, WIDTH), np.int32)
    panoptic_map[:height, :width] = 9
    segments = np.zeros((ROWS + 1, 3), np.int32)
    segments[0] = 9, 2, 0
    boxes_N4, label_N = objects_of(index)
    masks = np.zeros((ROWS, HEIGHT, WIDTH), np.uint8)
    for k, (box, label) in enumerate(zip(boxes_N4, label_N, strict=True)):
      left, top, right, bottom = box.astype(int)
      image[top:bottom, left:right] = np.eye(3)[label]
      panoptic_map[top:bottom, left:right] = k + 1
      masks[k, top:bottom, left:right] = 1
      segments[k + 1] = k + 1, label, 0
    found_N4, found_label_N, score_N = found_of(index)
    image[0] = 0
    for k, (box, label, score) in enumerate(
      zip(found_N4, found_label_N, score_N, strict=True)
    ):
      image[0, 3 * k : 3 * k + 3] = np.reshape(
        [*(box / [width, height, width, height]), label, score, 0, 0, 0], (3, 3)
      )
    count = len(label_N)
    return {
      'image': image,
      'size': np.int32([height, width]),
      'boxes': np.pad(boxes_N4, ((0, ROWS - count), (0, 0))).astype(np.float32),
      'box_labels': np.pad(label_N, (0, ROWS - count)).astype(np.int32),
      'box_mask': np.arange(ROWS) < count,
      'image_id': np.int32(100 + index),
      'panoptic': panoptic_map,
      'segments': segments,
      'masks': masks,
    }


class Knowing(detr.DETR):
  """A DETR that reads its predictions: of queries 2 to 4, and of stuff by query 5."""

  def __call__(
    self, image_BHWC: jax.Array, size_B2: Any = None, train: bool = False
  ) -> dict[str, jax.Array]:
    outputs = dict(super().__call__(image_BHWC, size_B2, train))
    told_BK9 = image_BHWC[:, 0, : 3 * ROWS].reshape(-1, ROWS, 9)
    low_BK2, high_BK2 = told_BK9[..., :2], told_BK9[..., 2:4]
    score_BK1 = told_BK9[..., 5:6]
    share_BK3 = score_BK1 * jax.nn.one_hot(told_BK9[..., 4].astype(int), 3)
    share_BKC = jnp.concatenate([share_BK3, 1 - score_BK1], axis=-1)
    none, stuff = jnp.eye(4)[3], jnp.array([0.3, 0, 0.45, 0.25])
    share_BQC = jnp.tile(none, (len(told_BK9), 6, 1))
    share_BQC = share_BQC.at[:, 2:5].set(share_BKC).at[:, 5].set(stuff[None])
    outputs['logits'] = jnp.log(share_BQC + 1e-6)
    boxes_BK4 = jnp.concatenate([(low_BK2 + high_BK2) / 2, high_BK2 - low_BK2], axis=-1)
    outputs['boxes'] = outputs['boxes'].at[:, 2:5].set(boxes_BK4)
    rows, columns = (jnp.arange(0, n, 4) + 2.0 for n in (HEIGHT, WIDTH))
    size_B12 = size_B2[:, None, ::-1]
    (x0, y0), (x1, y1) = (
      jnp.moveaxis(x * size_B12, -1, 0)[..., None, None] for x in (low_BK2, high_BK2)
    )
    y, x = rows.reshape(1, 1, -1, 1), columns.reshape(1, 1, 1, -1)
    inside = (x0 < x) & (x < x1) & (y0 < y) & (y < y1)
    masks = jnp.zeros_like(outputs['mask_logits'])
    outputs['mask_logits'] = masks.at[:, 2:5].set(jnp.where(inside, 5.0, -5.0))
    return outputs


def config_of() -> mlc.ConfigDict:
  examples = spec(Marks, length=COUNT)

  def data() -> mlc.ConfigDict:
    return spec(pipeline.EvalInput, source=examples, batch_size=8)

  model = spec(
    Knowing,
    num_classes=3,
    backbone=spec(
      resnet.ResNet,
      depths=(1, 1, 1, 1),
      root=4,
      channels=(2, 3, 3, 4),
      norm='frozen',
      dilated=True,
    ),
    num_queries=6,
    width=16,
    encoder_depth=1,
    decoder_depth=1,
    num_heads=2,
    mlp_dim=8,
    masks=True,
  )
  return mlc.ConfigDict(
    dict(
      total_steps=2,
      task=spec(
        set_detection.Detection, model=model, optimizer=spec(optim.adamw, rate=1e-3)
      ),
      train_data=spec(pipeline.TrainInput, source=examples, batch_size=8),
      evals=dict(
        panoptic=spec(
          panoptic.PanopticQuality, data=data(), num_things=2, threshold=0.4
        ),
        val=spec(precision.CocoAP, data=data(), names=NAMES),
      ),
    )
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> pathlib.Path:
  return pages.untrained(config_of(), tmp_path_factory.mktemp('runs') / 'marks')


@pytest.fixture(scope='module')
def source(run):
  return pages.source_of(run)


@pytest.fixture(scope='module')
def page(run, source) -> pathlib.Path:
  path = run / 'report.html'
  path.write_text(compose.render([source]))
  return path


@pytest.fixture(scope='module')
def sections(page) -> dict[str, str]:
  """Returns the page's sections by heading."""
  return dict(
    re.findall('<section><h2[^>]*>(.*?)</h2>(.*?)</section>', page.read_text(), re.S)
  )


def with_config(source, evaluator: str = '', **fields):
  """Returns the run as if its config had these fields."""
  log = dataclasses.replace(source.log, config={**source.log.config, **fields})
  return dataclasses.replace(source, log=log, evaluator=evaluator)


def percent(share: float) -> str:
  return f'{100 * share:.1f}\u00a0%'


def overlap(index: int) -> float:
  """Returns the IoU of boxes of 8 pixels, one of which is shifted."""
  return (8 - SHIFT * index) / (8 + SHIFT * index)


def picture_of(index: int) -> np.ndarray:
  height, width = sides(index)
  image = Marks(COUNT)[index]['image'][:height, :width]
  return np.rint(255 * np.clip((image + 1) / 2, 0, 1)).astype(np.uint8)


def test_all_sections_are_on_the_page(page):
  reader = pages.Reader(page)
  assert reader.headings == ['Summary', 'Curves', 'Inputs', 'Objects', 'Attention'] + [
    'Queries',
    'Precision',
    'Panoptic',
  ]
  assert 'Not shown' not in reader.text
  assert len(reader.images) == report_detection.NUM_INPUTS + 3 + 3 + 6 + 3


def test_a_browser_shows_the_page(page, tmp_path):
  pages.opened(page, tmp_path)


def test_inputs_show_training_images_with_their_boxes(source, sections):
  content = sections['Inputs']
  _, batch = source.training_batch(report_detection.NUM_INPUTS)
  pictures = pages.pictures_of(content)
  assert len(pictures) == len(batch['image'])
  for row, picture in enumerate(pictures):
    index = batch['image_id'][row] - 100
    boxes_N4, label_N = objects_of(index)
    image = np.clip((batch['image'][row] + 1) / 2, 0, 1)
    called = [NAMES[label] for label in label_N]
    sheet = drawing.boxes_sheet(image, [(boxes_N4, called)], 320)
    np.testing.assert_array_equal(picture, sheet)
  assert '32x40x3 arrays' in content and 'padding' in content
  counts = re.findall('alt="([^"]*)"', content)
  assert counts == [
    {0: '0 objects', 1: '1 object', 2: '2 objects'}[n.sum()] for n in batch['box_mask']
  ]


def test_objects_are_counted_and_ordered(sections):
  content = sections['Objects']
  text = html.unescape(content)
  assert 'The first 11 images of val have 14 objects: 12 are found (85.7' in text
  assert 'and 2 are missed. Boxes without a matching object: 1.' in text
  titles = re.findall(
    '<h3>(\\w+): image (\\d+) of val, quality ([\\d.]+\u00a0%)', content
  )
  assert titles == [
    ('Best', '101', percent(overlap(1))),
    ('Median', '106', percent(overlap(6))),
    ('Worst', '108', percent(overlap(8) / 2)),
  ]
  worst = pages.pictures_of(content)[2]
  true_N4, true_N = objects_of(8)
  found_N4, found_N, score_N = found_of(8)
  sets = [
    (true_N4, [NAMES[label] for label in true_N]),
    (found_N4, [NAMES[label] for label in found_N], score_N),
  ]
  sheet = drawing.boxes_sheet(picture_of(8), sets)
  assert worst.shape == sheet.shape
  # Boxes have been rounded to float32.
  assert (worst == sheet).all(axis=-1).mean() > 0.99


def test_attention_is_shown_for_queries_that_found_objects(source, sections):
  _, _, picture = pages.pictures_of(sections['Attention'])
  model, state = source.run.task.model, source.run.state
  example = Marks(COUNT)[8]

  @jax.jit
  def sown_by(variables):
    inputs = example['image'][None], jnp.array([sides(8)])
    return model.apply(variables, *inputs, mutable=['intermediates'])[1]

  sown = sown_by(state.variables)
  weights_Qhw = drawing.decoder_attention(sown['intermediates'], (2, 3))[0]
  found_N4, found_N, score_N = found_of(8)
  image = np.rint(255 * np.clip((example['image'] + 1) / 2, 0, 1)).astype(np.uint8)
  names, size = [NAMES[label] for label in found_N], sides(8)
  sheet = drawing.attention_sheet(
    image, found_N4, names, score_N, weights_Qhw[[2, 3]], size, side=250
  )
  assert picture.shape == sheet.shape == (144, 3 * 240 + 4, 3)
  # Boxes have been rounded to float32.
  assert (picture == sheet).all(axis=-1).mean() > 0.99
  first, second = sheet[:, 242:482], sheet[:, 484:]
  assert (first == second).all(axis=-1).mean() < 0.9


def test_finding_nothing_is_reported(source):
  val = {**source.log.config['evals']['val'], 'shown': 0.95}
  blind = with_config(source, evals={'val': val})
  content, _ = report_detection.objects_found(blind)
  assert '0 are found (0.0' in content and len(pages.pictures_of(content)) == 3
  # The queries with the highest scores are still shown.
  content, _ = report_detection.attention(blind)
  assert [p.shape[1] for p in pages.pictures_of(content)] == 3 * [4 * 240 + 6]


def test_each_query_has_its_boxes(sections):
  content = sections['Queries']
  pictures = pages.pictures_of(content)
  assert 'all queries in the first 11 images' in content
  # Images with at least one object, or with two, one of which has a low score.
  expected = {0: 0, 1: 0, 2: 8 / 11, 3: 5 / 11, 4: 0, 5: 0}
  for query, share in expected.items():
    assert f'>query {query}: {percent(share)}<' in content
  boxes = [objects_of(i)[0] + [SHIFT * i, 0, SHIFT * i, 0] for i in range(COUNT)]
  firsts = [each[0] if len(each) else np.zeros(4) for each in boxes]
  places = np.array(
    [
      [*(b[:2] + b[2:]) / 2 / sides(i)[::-1], *(b[2:] - b[:2]) / sides(i)[::-1]]
      for i, b in enumerate(firsts)
    ]
  )
  picture = drawing.places_picture(places)
  ink = 255 - picture.astype(int)
  assert np.abs(pictures[2] - picture.astype(int)).sum() < 0.1 * ink.sum()


def test_with_many_queries_the_most_successful_are_shown(source, monkeypatch):
  monkeypatch.setattr(report_detection, 'MOST_QUERIES', 2)
  content, _ = report_detection.queries(source)
  assert 'the 2 of 6 queries that find the most objects' in content
  assert re.findall('>query (\\d): ', content) == ['2', '3']


def test_precision_matches_the_evaluator(source, sections):
  content = sections['Precision']
  expected = pages.evaluated(source, 'val')
  assert 0.1 < expected['AP'] < 1
  text = html.unescape(content)
  assert (
    f'AP is {percent(expected["AP"])}, AP50 {percent(expected["AP50"])} and AP75 '
    f'{percent(expected["AP75"])}.'
  ) in text
  header, *rows = pages.rows_of(content)
  assert header == ['class', 'objects', 'AP', 'AP50', 'AP75']
  labels = np.concatenate([objects_of(i)[1] for i in range(COUNT)])
  assert {row[0]: row[1] for row in rows} == {
    NAMES[label]: str((labels == label).sum()) for label in (0, 1)
  }
  aps = [float(row[2].removesuffix('\u00a0%')) for row in rows]
  assert aps == sorted(aps, reverse=True)
  assert np.mean(aps) == pytest.approx(100 * expected['AP'], abs=0.06)
  assert f'all at 0.75: {100 * expected["AP75"]:.4g}' in text
  assert 'IoU 0.5 at 0:' in text and 'IoU 0.75 at 1:' in text
  assert 'green <b> at 0.5:' in text


def test_segments_are_measured_as_the_evaluator_does(source, sections):
  content = sections['Panoptic']
  expected = pages.evaluated(source, 'panoptic')
  header, *rows = pages.rows_of(content)
  assert header[1:] == ['quality', 'segmentation', 'recognition']
  for row, what, of in zip(
    rows, ('all classes', 'things', 'stuff'), ('', 'th', 'st'), strict=True
  ):
    assert row == [what] + [percent(expected[f'{q}{of}']) for q in ('PQ', 'SQ', 'RQ')]
  assert 0 < expected['PQth'] < expected['PQst'] < 1
  titles = re.findall(
    '<h3>(\\w+): example (\\d+) of panoptic, quality ([\\d.]+)', content
  )
  assert [title for title, *_ in titles] == ['Best', 'Median', 'Worst']
  qualities = [float(quality) for *_, quality in titles]
  assert qualities == sorted(qualities, reverse=True) and qualities[2] < qualities[0]
  for (_, index, _), picture in zip(titles, pages.pictures_of(content), strict=True):
    height, width = sides(int(index))
    example = Marks(COUNT)[int(index)]
    segments = example['segments']
    true = example['panoptic'][:height, :width], segments[segments[:, 0] > 0, :2]
    sheet = drawing.panoptic_sheet(
      picture_of(int(index)), [true], dict(enumerate(NAMES))
    )
    np.testing.assert_array_equal(picture[:, : sheet.shape[1]], sheet)


def test_a_model_without_masks_has_no_segments(source):
  task = source.log.config['task']
  model = {**task['model'], 'masks': False}
  plain = with_config(source, task={**task, 'model': model})
  assert [section.heading for section in plain.sections] == [
    'Inputs',
    'Objects',
    'Attention',
    'Queries',
    'Precision',
  ]


def test_missing_sections_give_a_reason(source):
  none = with_config(source, evals={})
  with pytest.raises(UserError, match='no evaluator of the config finds objects'):
    report_detection.objects_found(none)
  with pytest.raises(UserError, match='no evaluator of the config finds segments'):
    report_detection.segments(none)
  other = with_config(source, evaluator='panoptic')
  with pytest.raises(
    UserError, match='evals.panoptic is not an evaluator that finds obj'
  ):
    report_detection.precision(other)
  node = {'_fn': 'big_vision_like.data.transforms.labels:Keep', 'names': ['image']}
  val = json.loads(json.dumps(source.log.config['evals']['val']))
  val['data']['transforms'] = [node]
  with pytest.raises(UserError, match='the data of evals.val has no `image_id`'):
    report_detection.queries(with_config(source, evals={'val': val}))
  train_data = {**source.log.config['train_data'], 'transforms': [node]}
  with pytest.raises(UserError, match='the training batches have no `boxes`'):
    report_detection.sample_inputs(with_config(source, train_data=train_data))
