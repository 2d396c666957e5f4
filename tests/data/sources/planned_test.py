import jax
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import coco, coco_classes, planned, tfds
from big_vision_like.data.transforms import boxes, image
from big_vision_like.errors import UserError
from big_vision_like.run import experiment


def test_data_that_are_not_there_have_a_stand_in():
  source = tfds.Tfds('no_such_data', 'full[:10]', examples=1000)
  found = source.planned()
  assert len(found) == 1000
  data = pipeline.TrainInput(
    source=found,
    transforms=[image.Decode(), image.InceptionCrop(size=32), image.Flip()],
    batch_size=4,
  )
  example = data.example()
  assert example['image'].shape == (32, 32, 3) and example['image'].dtype == 'uint8'
  assert example['label'] == 0 and example['label'].dtype == 'int32'
  # As expensive to decode as a photograph of ImageNet, which has 110 kB on average.
  assert 80_000 < len(found[0]['image']) < 140_000


def test_a_stand_in_has_all_that_the_catalogue_says():
  example = tfds.Tfds('clevr', examples=50).planned()[7]
  assert example['objects'].keys() >= {'pixel_coords'}
  assert len(example['image']) > 80_000
  source = tfds.Tfds('cifar10', examples=50).planned()
  assert image.Decode().map(source[7])['image'].shape == (32, 32, 3)
  assert source.image_sizes[7].tolist() == [32, 32]


@pytest.mark.parametrize('kind', ['tfds', 'json', 'masks', 'panoptic'])
def test_a_stand_in_of_coco(kind, tmp_path, capsys):
  there, absent = tmp_path / 'there', tmp_path / 'absent'
  there.mkdir()
  source = {
    'tfds': tfds.Tfds('coco/2017', examples=5000),
    'json': coco.Coco(f'{absent}/a.json', str(there), examples=5000),
    'masks': coco.Coco(str(there), str(absent), masks=True, examples=5000),
    'panoptic': coco.Coco(str(there), str(there), str(absent), examples=5000),
  }[kind].planned()
  assert len(source) == 5000 and capsys.readouterr().out == ''
  sizes_N2 = source.image_sizes
  landscape = (sizes_N2[:, 0] < sizes_N2[:, 1]).mean()
  assert 0.65 < landscape < 0.78 and sizes_N2.shape == (5000, 2)
  for index in (0, 1, 2, 1000):
    example = image.Decode().map(source[index])
    assert example['image'].shape[:2] == tuple(sizes_N2[index])
    if kind == 'panoptic':
      found = boxes.Panoptic(ids=coco_classes.PANOPTIC_IDS).map(example)
      count = len(example['panoptic_objects']['label'])
      assert set(np.unique(found['segment_map'])) <= {*range(1, count + 1)}
    else:
      found = boxes.Objects(crowds=True, ids=coco_classes.IDS).map(example)
    assert len(found['boxes']) and (found['box_labels'] == 1).all()
    if kind == 'masks':
      assert found['masks'].shape == (len(found['boxes']), *sizes_N2[index])


def test_annotations_that_are_there_stand_for_themselves(tmp_path):
  source = coco.Coco(str(tmp_path), str(tmp_path))
  assert source.planned() is source
  with pytest.raises(UserError, match='give the number of examples with --config'):
    len(coco.Coco(f'{tmp_path}/none', str(tmp_path)).planned())


def test_data_that_are_there_stand_for_themselves(data_dir):
  source = tfds.Tfds('digits')
  assert source.planned() is source


def test_a_plan_asks_how_many_examples_there_are():
  with pytest.raises(UserError, match='give the number of examples with --config'):
    len(planned.Pictures('no_such_data', None))


def test_a_run_is_not_a_plan(tmp_path):
  config = spec.load('configs/vit/i21k.py', root=experiment.Settings)
  with pytest.raises(UserError, match="TFDS knows no data set 'imagenet21k'") as error:
    experiment.make(config)
  assert len(str(error.value)) < 200
  assert experiment.make(config, planned_for=jax.devices()).data.batch_size == 4096
