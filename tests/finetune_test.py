"""Tests of a new user who fine-tunes weights on a folder of images."""

import json

import cv2
import numpy as np
import pages
import pytest
import random_weights

from big_vision_like import spec
from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import folders, tfds
from big_vision_like.data.transforms import image
from big_vision_like.errors import UserError
from big_vision_like.run import experiment
from big_vision_like.weights import detr, files, vision_transformer

CONFIG, DETR = 'configs/vit/finetune.py', 'configs/detr/finetune.py'
CLASSES = {'azul': (200, 60, 30), 'rot': (30, 30, 200), '緑': (40, 180, 40)}
STEPS = ['--config.total_steps=3', '--config.task.optimizer.rate=1e-3']


def paint(root, count=5):
  rng = np.random.default_rng(0)
  for name, colour in CLASSES.items():
    (root / name).mkdir(parents=True)
    for i in range(count):
      noise = rng.integers(0, 40, (30, 40, 3))
      pixels = np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)
      (root / name / f'{i}.png').write_bytes(cv2.imencode('.png', pixels)[1].tobytes())


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Returns a folder with images, one of them damaged, and Google's weights."""
  place = tmp_path_factory.mktemp('own')
  paint(place / 'colours')
  (place / 'colours' / 'rot' / 'cut.png').write_bytes(b'\x89PNG')
  params = random_weights.calm(random_weights.small_vit(num_classes=7))
  np.savez(place / 'ViT.npz', **vision_transformer.to_npz(params))
  return place


@pytest.fixture(scope='module')
def trained(place, run):
  argument = f'{CONFIG}:{place}/colours,{place}/ViT.npz'
  words = ['-m', 'big_vision_like.train', f'--config={argument}']
  done = run(*words, f'--workdir={place}/run', *STEPS)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_one_command_finds_everything_and_says_so(trained, place):
  for line in (
    'data      16 images: 13 for training, 3 for validation',
    'classes   3: azul, rot, 緑',
    f'weights   {place}/ViT.npz, of vision_transformer or big_vision ViT',
    'model     ViT: patch=8, width=36, depth=2, num_heads=3, mlp_dim=72',
    'images    24x24, whatever the aspect ratio, bilinear; mean 0.5, std 0.5',
    'head      new, for 3 classes; not from the weights: head/.*',
    '1 damaged image left out: rot/cut.png',
    'newly initialized: head/bias, head/kernel',
    'best      val/top1',
  ):
    assert line in trained, line
  config = json.loads((place / 'run' / 'config.json').read_text())
  assert config['task']['model']['num_classes'] == 3


def test_it_is_evaluated_and_named_and_reported(trained, place, run):
  done = run('-m', 'big_vision_like.evaluate', f'--workdir={place}/run')
  assert done.returncode == 0 and 'top1' in done.stdout, done.stderr
  picture = place / 'colours' / '緑' / '0.png'
  words = [f'--weights={place}/run', str(picture), f'--out={place}/looked']
  done = run('tools/predict.py', *words)
  assert done.returncode == 0, done.stderr
  assert all(name in done.stdout for name in CLASSES)
  assert (place / 'looked' / '0.png').is_file()
  done = run('tools/report.py', f'{place}/run')
  assert done.returncode == 0, done.stderr
  page = pages.Reader(place / 'run' / 'report.html')
  assert {'Accuracy by class', 'Confusion matrix'} <= {*page.headings}
  assert 'Not shown' not in page.text and '緑' in page.text


def test_the_same_command_resumes(trained, place, run):
  argument = f'{CONFIG}:{place}/colours,{place}/ViT.npz'
  words = ['-m', 'big_vision_like.train', f'--config={argument}']
  done = run(*words, f'--workdir={place}/run', *STEPS)
  assert done.returncode == 0 and 'head      new' in done.stdout, done.stderr


def load(argument):
  return spec.load(argument, root=experiment.Settings)


def test_words_of_the_argument(place, tmp_path):
  both = f'{CONFIG}:{place}/colours,{place}/ViT.npz'
  plain = load(f'{both},plain,48')
  assert plain.task.model.posemb == 'learned'
  sizes = [x.to_dict() for x in plain.train_data.transforms]
  assert [x['_fn'].split(':')[1] for x in sizes] == ['Decode', 'Resize']
  assert sizes[1]['size'] == 48 == plain.evals.val.data.transforms[1].size
  cropped = load(f'{both}')
  assert [x._fn.split(':')[1] for x in cropped.train_data.transforms] == [
    'Decode',
    'RandomResizedCrop',
    'Flip',
  ]
  # 200 steps of 32 images are more than 20 epochs of 13 images.
  assert cropped.total_steps.epochs == 493
  paint(tmp_path / 'a,b')
  assert load(f'{CONFIG}:{tmp_path}/a,b,{place}/ViT.npz').task.model.num_classes == 3


@pytest.mark.parametrize(
  ('argument', 'told'),
  [
    ('{}/colour,{}/ViT.npz', "colour does not exist; did you mean '.*/colours'"),
    ('{}/colours,{}/ViT-B.npz', r'ViT-B.npz does not exist; did you mean .*ViT.npz'),
    ('{}/colours', 'weights/ViT-B_16.npz does not exist: name other weights after'),
  ],
)
def test_mistakes_are_one_sentence(place, argument, told):
  with pytest.raises(UserError, match=told):
    load(f'{CONFIG}:{argument.format(place, place)}')


def test_without_a_folder_there_is_a_plan_and_no_run(run, tmp_path):
  assert load(CONFIG).task.model.num_classes == 1000
  words = ['-m', 'big_vision_like.train', f'--config={CONFIG}']
  done = run(*words, f'--workdir={tmp_path}/run')
  assert done.returncode == 1
  assert 'data/images does not exist: name the folder of your images' in done.stderr


def test_a_detector_has_the_classes_of_its_folder(tmp_path, capsys):
  for part in ('train', 'val'):
    (tmp_path / part).mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / part / '0.png'), pixels)
    entries = dict(
      images=[dict(id=1, file_name='0.png', height=40, width=60)],
      categories=[dict(id=3, name='gull'), dict(id=7, name='tern')],
      annotations=[
        dict(id=1, image_id=1, category_id=7, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
      ],
    )
    (tmp_path / f'{part}.json').write_text(json.dumps(entries))
  model = random_weights.small_detr()
  state = detr.to_facebook(random_weights.calm(random_weights.variables_of(model)))
  path = tmp_path / 'detr.safetensors'
  files.write(path, {k: np.ascontiguousarray(x) for k, x in state.items()})
  config = load(f'{DETR}:{tmp_path},{path}')
  out = capsys.readouterr().out
  assert 'data      2 images: 1 for training, 1 for validation' in out
  assert 'classes   2: gull, tern' in out and 'images    shorter side 800' in out
  assert config.task.model.num_classes == 2
  assert config.task.model.backbone.frozen_stages == 1
  assert config.task.std == (0.229, 0.224, 0.225)
  assert list(config.init_from.leave_out) == ['class_head/.*']
  source = spec.build(config.evals.val.data.source)
  assert source.category_names == ['gull', 'tern'] and len(source) == 1


def test_plain_and_prepared_folders_need_no_more_transforms(run, tmp_path):
  folder = tmp_path / 'photos'
  paint(folder)
  name = ['--name', 'colours', '--split', 'train', '--data-dir', str(tmp_path)]
  done = run('tools/prepare_data.py', '--from', f'folder:{folder}', *name)
  assert not done.returncode, done.stderr
  steps = [image.Decode(), image.Resize(8)]
  for source in (
    folders.Folder(str(folder)),
    tfds.Tfds(name='colours', split='train', data_dir=str(tmp_path)),
  ):
    data = pipeline.TrainInput(source=source, transforms=steps, batch_size=4)
    batches = data.batches()
    try:
      batch = next(batches)
    finally:
      batches.close()
    assert {*batch} == {'image', 'label', 'id'} and batch['image'].shape[0] == 4
