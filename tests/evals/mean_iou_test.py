import found
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.evals import mean_iou

CLASSES = 4


def test_scores_of_a_small_matrix():
  # Class 1 is never true and is predicted once; class 2 is never true or predicted.
  count = np.array([[6, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 4]])
  np.testing.assert_allclose(
    mean_iou.intersection_over_union(count), [6 / 10, 0, np.nan, 4 / 7]
  )
  assert mean_iou.scores(count) == pytest.approx(
    {
      'mIoU': (6 / 10 + 0 + 4 / 7) / 3,
      'mAcc': (6 / 8 + 4 / 6) / 2,
      'aAcc': 10 / 14,
    }
  )


def examples(count=5):
  """Returns padded images of several sizes with void pixels, and their label maps."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(count):
    height, width = int(rng.integers(3, 8)), int(rng.integers(3, 10))
    truth = rng.integers(0, CLASSES - 1, (8, 10)).astype(np.uint8)
    truth[rng.random((8, 10)) < 0.2] = 255
    shown = np.where(
      rng.random((8, 10)) < 0.6, truth, rng.integers(0, CLASSES, (8, 10))
    )
    image = np.zeros((8, 10, 3), np.uint8)
    image[..., 0] = np.where(shown == 255, 0, shown)
    size = np.array([height, width], np.int32)
    rows.append(
      {'image': image, 'truth_map': truth, 'original_size': size, 'size': size, 'id': i}
    )
  return rows


def predict(state, batch, key):
  return {'found_map': batch['image'][..., 0].astype(jnp.int32)}


def run(rows, devices=1, **options):
  data = pipeline.EvalInput(source=rows, transforms=(), batch_size=2)
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  evaluator = mean_iou.MeanIoU(
    data=data, **{'num_classes': CLASSES, 'pictures': 2} | options
  )
  return evaluator, evaluator.run(predict, jnp.float32(1.0), mesh)


@pytest.mark.parametrize('devices', [1, 2])
def test_all_pixels_of_all_images_count_once(devices):
  rows = examples()
  count = np.zeros((CLASSES, CLASSES), np.int64)
  for row in rows:
    for y, x in np.ndindex(*row['original_size'].tolist()):
      if row['truth_map'][y, x] != 255:
        count[row['truth_map'][y, x], row['image'][y, x, 0]] += 1
  _, results = run(rows, devices, names=('sky', 'sea', 'sand', 'ship'))
  assert results.scalars == pytest.approx(mean_iou.scores(count))
  iou = mean_iou.intersection_over_union(count)
  assert len(results.texts['classes']) == 4
  assert results.texts['classes'][1] == f'sea: {100 * iou[1]:.2f} %'
  sheets = results.pictures['label_maps']
  assert sheets.dtype == np.uint8 and len(sheets) == 2


def test_mean_iou_matches_sklearn():
  metrics = pytest.importorskip('sklearn.metrics')
  rows = examples()
  truth, shown = [], []
  for row in rows:
    height, width = row['original_size']
    part = row['truth_map'][:height, :width]
    truth.append(part[part != 255])
    shown.append(row['image'][:height, :width, 0][part != 255])
  want = metrics.jaccard_score(
    np.concatenate(truth), np.concatenate(shown), average='macro'
  )
  assert run(rows)[1].scalars['mIoU'] == pytest.approx(want)


def test_labels_beyond_the_classes_are_one_sentence():
  rows = examples()
  rows[3]['truth_map'][0, 0] = 9
  with pytest.raises(UserError, match='example 3 of .* a true label of 9, but num_cla'):
    run(rows)
  rows = examples()
  for row in rows:
    row['truth_map'][:] = 255
  with pytest.raises(UserError, match='no pixel of .* has a label'):
    run(rows)
  with pytest.raises(UserError, match='`names` has 1 names, but num_classes=4'):
    run(rows, names=('sky',))


def test_pictures_show_the_first_images():
  evaluator, results = run(examples(), pictures=0)
  assert not results.pictures and found.flat(results)['aAcc'] > 0.5
  assert evaluator.class_names == {}
