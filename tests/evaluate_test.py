"""Tests of evaluating weights without a run; train_test evaluates runs."""

import dataclasses
import json
import shutil

import cv2
import jax
import ml_collections as mlc
import numpy as np
import optax
import pytest
import random_weights

from big_vision_like import cli, evaluate, optim, spec
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.data.transforms import boxes, image, labels
from big_vision_like.errors import UserError
from big_vision_like.evals import classification
from big_vision_like.evals import detection as evals
from big_vision_like.inference import adapt, loading
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.inference.objects import DetectionPreprocessing
from big_vision_like.models import detr, resnet, vit
from big_vision_like.tasks import classification as tasks
from big_vision_like.tasks import set_detection
from big_vision_like.weights import files, vision_transformer


@dataclasses.dataclass(frozen=True)
class Pictures(Source):
  """7 encoded colour images in 5 classes."""

  names: tuple[str, ...] = ()

  @property
  def label_names(self):
    return self.names or None

  def __len__(self):
    return 7

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    done, data = cv2.imencode('.png', cv2.resize(small, (40, 30)))
    return {'image': data.tobytes(), 'label': np.int32(index % 5), 'id': index}


def config(size=16, num_classes=5, names=(), **model):
  """Returns a config whose model is much larger than that of the weights."""
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
    source=spec.spec(Pictures, names=names),
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
  """Writes a ViT of 24-pixel images, cropped from 32, with their own mean and std."""
  params = random_weights.small_vit()
  files.write(tmp_path / 'a.npz', vision_transformer.to_npz(params))
  told = Preprocessing((24, 24), resize=32, mean=(0.4, 0.3, 0.2), std=(0.2,) * 3)
  (tmp_path / 'a.json').write_text(json.dumps({'preprocessing': told.to_json()}))
  return tmp_path / 'a.npz'


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)

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
  assert 'as the weights expect, not as in the config: 24x24, central crop' in out
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


@pytest.mark.parametrize(
  'theirs, ours, status, told',
  [
    ('abcde', 'edcba', 0, '5 of 5 classes, mapped by name'),
    ('abcde', 'abcdx', 1, "a.npz; new are 'x'; missing are 'e'"),
    ('abcde', ['n0144076' + k for k in '01234'], 0, '5 classes, compared by number'),
    (['a, f', 'b, g', 'c', 'd', 'e'], 'abcde', 0, '5 classes, compared by number'),
  ],
)
def test_classes_of_weights_are_compared(weights, run, theirs, ours, status, told):
  path = weights.with_suffix('.json')
  about = json.loads(path.read_text())
  about['preprocessing']['label_names'] = list(theirs)
  path.write_text(json.dumps(about))
  done, out, err = run(f'--weights={weights}', names=list(ours))
  assert done == status and told in (err if status else out), out + err


def test_the_configs_preprocessing_is_an_explicit_choice(weights, run):
  keep = f'--weights={weights}', '--preprocessing=config'
  status, out, err = run(*keep, size=24, scan=True)
  assert status == 0, err
  assert 'as in the config, not as the weights expect' in out
  assert (
    'the weights expect: 24x24, central crop of shorter side 32' in out
    and 'top1' in out
  )
  status, _, err = run(*keep, size=40)
  assert status == 1 and 'grid of 5x5' in err and '(1, 10, 36)' in err
  status, _, err = run(*keep, '--image-size=40', size=40)
  assert status == 0, err


def test_configs_of_something_else(weights, run, tmp_path):
  status, _, err = run(f'--weights={weights}', num_classes=7)
  assert status == 1
  assert 'is a ViT of 5 classes, but the config has a ViT of 7 classes: use' in err
  status, _, err = run()
  assert status == 1 and 'name the folder of a run: --workdir' in err
  status, _, err = run('--workdir=gone', '--image-size=40')
  assert status == 1 and '--image-size needs --weights' in err
  status, _, err = run('--workdir=gone', '--source-grid=2x2')
  assert status == 1 and '--source-grid needs --weights' in err


def test_images_of_another_grid_with_equally_many_tokens(weights, run, tmp_path):
  """Checks 1x9 patches for positions of 3x3: their shapes cannot be distinguished."""
  keep = f'--weights={weights}', '--preprocessing=config'
  told = (
    'config.evals.test.data has images of 8x72, a grid of 1x9 tokens, but the positions'
    ' of the model are for 3x3: change their size'
  )
  status, _, err = run(*keep, size=(8, 72))
  assert status == 1 and told in err, err
  weights.with_suffix('.json').unlink()
  status, out, err = run(*keep, '--source-grid=1x9', size=(8, 72))
  assert status == 0, err


def test_only_transforms_that_size_images_are_replaced():
  before = config()
  before.evals.test.data.transforms = [
    spec.spec(image.Decode),
    spec.spec(image.Brighten),
    spec.spec(image.ResizeSmall, size=20),
    spec.spec(image.CentralCrop, size=16),
    spec.spec(labels.Keep),
  ]
  grey = Preprocessing((8, 8), mean=(0.3,), std=(0.2,))
  after = adapt.with_preprocessing(before, grey)
  nodes = [node.to_dict() for node in after.evals.test.data.transforms]
  assert [node['_fn'].split(':')[1] for node in nodes] == [
    'Decode',
    'Brighten',
    'Resize',
    'Keep',
  ]
  assert nodes[0]['channels'] == 1 and nodes[2]['size'] == 8
  assert (after.task.mean, after.task.std) == ((0.3,), (0.2,))
  assert len(before.evals.test.data.transforms) == 5  # the old config is unchanged


def test_a_task_that_does_not_normalise():
  before = config()
  before.task = spec.spec(Other)
  with pytest.raises(
    UserError, match='Other does not normalize images: it has no mean'
  ):
    adapt.with_preprocessing(before, Preprocessing((8, 8)))


class Other:
  pass


# Weights of detectors


class Scenes(Source):
  """3 encoded images, each with an object."""

  def __len__(self):
    return 3

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    picture = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    done, data = cv2.imencode('.png', picture)
    objects = {'bbox': np.float32([[0.1, 0.1, 0.5, 0.5]]), 'label': np.int64([1])}
    return {'image': data.tobytes(), 'objects': objects, 'image/id': index}


def finding(save='', num_classes=5, masks=False, resize=True):
  """Returns a config whose model is larger in every way, with smaller images."""
  c = mlc.ConfigDict(dict(total_steps=1))
  c.task = spec.spec(
    set_detection.Detection,
    model=spec.spec(
      detr.DETR,
      num_classes=num_classes,
      backbone=spec.spec(resnet.ResNet, **resnet.variant('R50'), frozen_stages=1),
      masks=masks,
      scan=True,
    ),
    optimizer=spec.spec(
      optim.momentum, rate=spec.spec(optax.constant_schedule, value=0)
    ),
  )
  sizing = [spec.spec(boxes.ResizeShort, size=24, longest=32)] if resize else []
  data = spec.spec(
    pipeline.EvalInput,
    source=spec.spec(Scenes),
    transforms=[
      spec.spec(image.Decode),
      spec.spec(boxes.Objects),
      spec.spec(labels.Keep, names=KEPT),
      *sizing,
      spec.spec(boxes.Pad, sizes=((40, 40),), max_boxes=2),
    ],
    batch_size=8,
  )
  c.evals = dict(test=spec.spec(evals.CocoAP, data=data, save=save))
  c.train_data = spec.spec(pipeline.TrainInput, source=spec.spec(Scenes), batch_size=8)
  return c


KEPT = ['image', 'boxes', 'box_labels', 'image_id', 'original_size']


def test_detectors_bring_their_sizes(detector, monkeypatch, capsys, tmp_path):
  path, model, variables = detector
  copied = tmp_path / 'weights/dots.pth'
  shutil.copytree(path.parent, copied.parent)
  path = (copied.parent / path.name).rename(copied)
  shapes = ((64, 96), (96, 64))
  told = DetectionPreprocessing(64, 85, mean=(0.4, 0.3, 0.2), std=(0.2,) * 3)
  beside = json.dumps({'preprocessing': told.to_json()})
  path.with_suffix('.json').write_text(beside)
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)
  file, results = tmp_path / 'config.json', tmp_path / 'found.json'
  file.write_text(finding(str(results)).to_json())
  status = evaluate.main([f'--config={file}', f'--weights={path}'])
  out, err = capsys.readouterr()
  assert status == 0, err
  assert 'as the weights expect, not as in the config: shorter side 64' in out
  found = json.loads(results.read_text())
  preprocess = dataclasses.replace(told, shapes=shapes)
  apply = jax.jit(model.apply)
  for index in range(3):
    image_HWC, size, original_size = preprocess(Scenes()[index]['image'])
    outputs = apply(variables, image_HWC[None], size[None])
    want = preprocess.objects(outputs, original_size, threshold=-1.0)
    got = [entry for entry in found if entry['image_id'] == index]
    assert len(got) == 7
    for one, entry in zip(want, sorted(got, key=lambda e: -e['score']), strict=True):
      left, top, width, height = entry['bbox']
      box = left, top, left + width, top + height
      np.testing.assert_allclose(entry['score'], one.score, atol=1e-5)
      np.testing.assert_allclose(box, one.box, atol=1e-3)


def test_a_detector_keeps_the_computation_options_of_the_config(detector):
  path, model, _ = detector
  before = finding()
  before.task.model.backbone.dtype = 'bfloat16'
  after = adapt.with_model(before, model, str(path))
  made = spec.build(after.task.to_dict()['model'], 'model')
  assert made.backbone == model.backbone.clone(dtype='bfloat16')
  assert made.scan and not made.masks
  same = made.clone(scan=False, masks=True, backbone=model.backbone)
  assert same == model
  with pytest.raises(
    UserError, match='DETR of 5 classes, but the config has a DETR of'
  ):
    adapt.with_model(finding(num_classes=3), model, str(path))
  without = model.clone(masks=False)
  with pytest.raises(UserError, match='without masks, but the config has them'):
    adapt.with_model(finding(masks=True), without, str(path))


def test_detectors_keep_equal_settings():
  def sized(preprocess, **arguments):
    transforms = adapt.with_preprocessing(
      finding(**arguments), preprocess
    ).evals.test.data.transforms
    return [node.to_dict() for node in transforms]

  before = [node.to_dict() for node in finding().evals.test.data.transforms]
  assert sized(DetectionPreprocessing(24, 32)) == before
  assert sized(DetectionPreprocessing(shapes=((48, 48),))) == before
  assert len(sized(DetectionPreprocessing(800, 1333), resize=False)) == 4
  *_, resizing, padding = sized(DetectionPreprocessing(800, 1333))
  assert (resizing['size'], resizing['longest']) == (800, 1333)
  assert padding['sizes'] == ((800, 1344), (1344, 800)) and padding['max_boxes'] == 2
  *_, padding = sized(DetectionPreprocessing(30, 40, shapes=((40, 40),)))
  assert padding['sizes'] == ((40, 40),)
  with pytest.raises(UserError, match='30 pixels and no longest one'):
    sized(DetectionPreprocessing(30))


def test_without_a_resize_the_size_is_fixed(detector, monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(cli, 'set_up_jax', lambda: None)
  file = tmp_path / 'config.json'
  file.write_text(finding(resize=False).to_json())
  words = f'--config={file}', f'--weights={detector[0]}', '--image-size=64'
  assert evaluate.main(words) == 1
  assert 'evaluators of the config do not resize images' in capsys.readouterr().err
