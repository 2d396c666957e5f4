import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.data.transforms import image, label_maps
from big_vision_like.errors import UserError
from big_vision_like.inference import predict_segmentation
from big_vision_like.inference.label_maps import SegmentationPreprocessing
from big_vision_like.ops import resampling
from big_vision_like.spec import spec
from big_vision_like.viz import label_maps as drawing

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (30, 50, 3)).astype(np.uint8)


class Halves:
  """A minimal model: logits of two classes at half the size."""

  def apply(self, variables, image):
    red = image[:, ::2, ::2, :1]
    return {'logits': jnp.concatenate([red, -red], axis=-1)}


def test_pictures_are_resized_and_label_maps_resized_back():
  preprocess = SegmentationPreprocessing(shortest=20, longest=80, multiple=4)
  prepared = preprocess(PICTURE)
  assert prepared.image_HWC.shape == (20, 32, 3)
  assert prepared.original_size.tolist() == [30, 50]
  outputs = Halves().apply(None, prepared.image_HWC[None])
  found = preprocess.label_map(outputs, (20, 32), prepared.original_size)
  logits = resampling.resize(outputs['logits'], (20, 32), 'bilinear')
  want = resampling.resize(logits, (30, 50), 'bilinear')[0].argmax(-1)
  np.testing.assert_array_equal(found, want)
  assert preprocess.with_size(10).longest == 40
  assert preprocess.with_size((8, 12))(PICTURE).image_HWC.shape == (8, 12, 3)
  assert SegmentationPreprocessing()(PICTURE).image_HWC.shape == PICTURE.shape
  again = SegmentationPreprocessing.from_json(preprocess.to_json())
  assert again == preprocess and 'multiples of 4' in str(preprocess)


def test_a_config_keeps_its_transforms_only_if_they_fit():
  preprocess = SegmentationPreprocessing(shortest=20, longest=80)
  nodes = [spec(image.Decode), spec(label_maps.Views, longest=80, shortest=20)]
  assert preprocess.replaced(nodes) == nodes
  nodes[1] = spec(label_maps.Views, longest=80, shortest=30)
  with pytest.raises(UserError, match='--preprocessing=config keeps'):
    preprocess.replaced(nodes)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    (dict(shortest=0, longest=9), 'are not positive'),
    (dict(shortest=9), 'give both or neither'),
    (dict(shortest=9, longest=9, size=(3, 3)), 'give one of them'),
  ],
)
def test_sizes_that_contradict_each_other(fields, words):
  with pytest.raises(UserError, match=words):
    SegmentationPreprocessing(**fields)


def test_classes_of_a_picture_are_listed_and_drawn():
  preprocess = SegmentationPreprocessing(label_names=('sky', 'sea'))
  segment = predict_segmentation.Segmenter(Halves(), None, preprocess)
  segment.draws = True
  rows, found, pictures = segment(PICTURE)
  assert {one['class'] for one in found} == {'sky', 'sea'} and len(rows) == 2
  assert sum(one['share'] for one in found) == pytest.approx(1.0)
  assert pictures[''].ndim == 3 and pictures[''].dtype == np.uint8
  with pytest.raises(UserError, match=r'--share=2 is not in \[0, 1\)'):
    predict_segmentation.Segmenter(Halves(), None, preprocess, share=2)


def test_a_sheet_has_a_legend_and_paints_labels_only():
  label = np.zeros((30, 50), np.int32)
  label[:, :10] = 255
  painted = drawing.painted(PICTURE, label)
  np.testing.assert_array_equal(painted[:, :10], PICTURE[:, :10])
  assert (painted[:, 10:] != PICTURE[:, 10:]).any()
  sheet = drawing.sheet(PICTURE, [label, label], {0: 'sky'}, side=100)
  assert sheet.shape[0] > 60 and sheet.shape[1] > 3 * 100 - 1
  many = drawing.legend(range(40), {}, 200)
  assert many.shape[0] > drawing.legend([1], {}, 200).shape[0]
