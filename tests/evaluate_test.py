"""Weights evaluated without a run; of a run: train_test."""

import json

import cv2
import jax
import ml_collections as mlc
import numpy as np
import optax
import pytest
import random_weights

from big_vision_like import evaluate, experiment, loading, optim, spec
from big_vision_like.data import pipeline
from big_vision_like.data.preprocessing import Preprocessing
from big_vision_like.data.transforms import image, labels
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.models import vit
from big_vision_like.tasks import classification as tasks
from big_vision_like.weights import files, vision_transformer


class Pictures:
  """7 encoded colour pictures in 5 classes."""

  def __len__(self):
    return 7

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    done, data = cv2.imencode('.png', cv2.resize(small, (40, 30)))
    return {'image': data.tobytes(), 'label': np.int32(index % 5), 'id': index}


def config(size=16, num_classes=5, **model):
  """For a much larger model."""
  c = mlc.ConfigDict(dict(total_steps=1))
  c.task = spec.spec(
    tasks.Classification,
    model=spec.spec(vit.ViT, num_classes=num_classes, **vit.variant('L/16'), **model),
    optimizer=spec.spec(
      optim.momentum, rate=spec.spec(optax.constant_schedule, value=0)
    ),
  )
  data = spec.spec(
    pipeline.EvalInput,
    source=spec.spec(Pictures),
    transforms=[
      spec.spec(image.Decode),
      spec.spec(image.Resize, size=size),
      spec.spec(labels.Keep),
    ],
    batch_size=8,
  )
  c.evals = dict(test=spec.spec(classification.Accuracy, data=data))
  c.train_data = spec.spec(
    pipeline.TrainInput, source=spec.spec(Pictures), batch_size=8
  )
  return c


@pytest.fixture
def weights(tmp_path):
  """A ViT whose images are grey levels of another mean, cropped from 32 pixels."""
  params = random_weights.small_vit()
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  told = Preprocessing((24, 24), resize=32, mean=(0.4, 0.3, 0.2), std=(0.2,) * 3)
  (tmp_path / 'a.json').write_text(json.dumps({'preprocessing': told.to_json()}))
  return tmp_path / 'a.npz'


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(experiment, 'set_up_jax', lambda: None)

  def call(*words, **arguments):
    path = tmp_path / 'config.json'
    path.write_text(config(**arguments).to_json())
    status = evaluate.main([f'--config={path}', *words])
    told = capsys.readouterr()
    return status, told.out, told.err

  return call


def test_weights_bring_model_and_preprocessing(weights, run, tmp_path):
  status, out, err = run(f'--weights={weights}', f'--workdir={tmp_path}/results')
  assert status == 0, err
  assert 'as the weights have them, not the config: 24x24, central crop' in out
  assert 'mean 0.4 0.3 0.2, std 0.2' in out and '--preprocessing=config' in out
  [file] = (tmp_path / 'results').glob('evaluation-*.json')
  found = json.loads(file.read_text())
  model, variables, preprocess = loading.load(weights)
  examples = [Pictures()[i] for i in range(7)]
  image_BHWC = preprocess.batch([example['image'] for example in examples])
  logits_BC = np.asarray(jax.jit(model.apply)(variables, image_BHWC)['logits'])
  label_B = [example['label'] for example in examples]
  right = np.mean(logits_BC.argmax(-1) == label_B)
  np.testing.assert_allclose(found['test/top1'], right)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits_BC, np.array(label_B))
  np.testing.assert_allclose(found['test/loss'], loss.mean(), rtol=1e-5)


def test_the_configs_preprocessing_is_an_explicit_choice(weights, run):
  keep = f'--weights={weights}', '--preprocessing=config'
  status, out, err = run(*keep, size=24, scan=True)
  assert status == 0, err
  assert 'as the config has them, not as the weights do' in out
  assert 'theirs: 24x24, central crop of shorter side 32' in out and 'top1' in out
  status, _, err = run(*keep, size=40)
  assert status == 1 and 'grid of 5x5' in err and '(1, 10, 36)' in err
  status, _, err = run(*keep, '--image-size=40', size=40)
  assert status == 0, err


def test_configs_of_something_else(weights, run, tmp_path):
  status, _, err = run(f'--weights={weights}', num_classes=7)
  assert status == 1
  assert 'is a ViT of 5 classes, the config has a ViT of 7 classes: take' in err
  status, _, err = run()
  assert status == 1 and 'name the folder of a run: --workdir' in err
  status, _, err = run('--workdir=gone', '--image-size=40')
  assert status == 1 and '--image-size is for --weights' in err


def test_only_what_sizes_images_is_replaced():
  before = config()
  before.evals.test.data.transforms = [
    spec.spec(image.Decode),
    spec.spec(image.Brighten),
    spec.spec(image.ResizeSmall, size=20),
    spec.spec(image.CentralCrop, size=16),
    spec.spec(labels.Keep),
  ]
  grey = Preprocessing((8, 8), mean=(0.3,), std=(0.2,))
  after = evaluate.with_preprocessing(before, grey)
  nodes = [node.to_dict() for node in after.evals.test.data.transforms]
  assert [node['_fn'].split(':')[1] for node in nodes] == [
    'Decode',
    'Brighten',
    'Resize',
    'Keep',
  ]
  assert nodes[0]['channels'] == 1 and nodes[2]['size'] == 8
  assert (after.task.mean, after.task.std) == ((0.3,), (0.2,))
  assert len(before.evals.test.data.transforms) == 5  # the old one is as it was


def test_a_task_that_does_not_normalise():
  before = config()
  before.task = spec.spec(Other)
  with pytest.raises(
    UserError, match='Other does not normalise images: it has no mean'
  ):
    evaluate.with_preprocessing(before, Preprocessing((8, 8)))


class Other:
  pass
