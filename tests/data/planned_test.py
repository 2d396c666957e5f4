import jax
import pytest

from big_vision_like import experiment, spec
from big_vision_like.data import pipeline, planned, sources
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError


def test_data_that_are_not_there_have_a_stand_in():
  source = sources.Tfds('no_such_data', 'full[:10]', examples=1000)
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
  # As dear as a photograph of ImageNet, on average 110 kB.
  assert 80_000 < len(found[0]['image']) < 140_000


def test_a_stand_in_has_all_that_the_catalogue_says():
  example = sources.Tfds('clevr', examples=50).planned()[7]
  assert example['objects'].keys() >= {'pixel_coords'}
  assert len(example['image']) > 80_000
  small = sources.Tfds('cifar10', examples=50).planned()[7]
  assert image.Decode().map(small)['image'].shape == (32, 32, 3)


def test_data_that_are_there_stand_for_themselves(data_dir):
  source = sources.Tfds('digits')
  assert source.planned() is source


def test_a_plan_asks_how_many_examples_there_are():
  with pytest.raises(UserError, match='how many examples there are, with --config'):
    len(planned.Pictures('no_such_data', None))


def test_data_of_another_size_than_the_config_says(data_dir):
  source = sources.Tfds('digits', 'train', examples=5)
  with pytest.raises(UserError, match=r'holds 1,347 examples, not the 5 that the conf'):
    len(source)


def test_a_run_is_not_a_plan(tmp_path):
  config = spec.load('configs/vit/i21k.py', root=experiment.Settings)
  with pytest.raises(UserError, match="TFDS knows no data set 'imagenet21k'") as error:
    experiment.make(config)
  assert len(str(error.value)) < 200
  assert experiment.make(config, planned_for=jax.devices()).data.batch_size == 4096
