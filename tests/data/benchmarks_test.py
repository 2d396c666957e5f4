import json

import numpy as np
import pytest

from big_vision_like.data import benchmarks, fake, pipeline, sources
from big_vision_like.errors import UserError
from big_vision_like.spec import build, calls, spec, symbol

PARTS = {'fit': 'train800', 'val': 'val200', 'train': 'train800val200', 'test': 'test'}
# The catalogue has no version 3 of Pets any more.
NEWER = {'oxford_iiit_pet:3.*.*': 'oxford_iiit_pet:4.*.*'}


@pytest.fixture(scope='module')
def published(golden):
  tasks = json.loads((golden / 'vtab1k_tasks.json').read_text())['tasks']
  return {task['name']: task for task in tasks}


def test_vtab_has_the_tasks_of_its_authors(published):
  assert list(benchmarks.VTAB) == list(published)


@pytest.mark.parametrize('name', benchmarks.VTAB)
def test_vtab_task(name, published):
  task, theirs = benchmarks.VTAB[name], published[name]
  assert task.name == NEWER.get(theirs['tfds'], theirs['tfds'])
  assert (task.num_classes, task.group) == (theirs['num_classes'], theirs['group'])
  splits = {PARTS[part]: split for part, (split, _) in task.parts.items()}
  assert splits == theirs['splits']
  assert [task.parts[part][1] for part in ('fit', 'val', 'train')] == [800, 200, 1000]


@pytest.mark.parametrize('name', benchmarks.VTAB)
def test_vtab_examples_become_labelled_rgb_images(name):
  task = benchmarks.VTAB[name]
  source = fake.Fake(task.name, examples=8, classes=task.num_classes)
  transforms = build(task.eval_input('test', [], batch_size=1).transforms)
  batches = pipeline.EvalInput(source=source, batch_size=1, transforms=transforms)
  for batch in batches.epoch():
    assert (
      {'image', 'label', 'mask'} <= batch.keys() <= {'image', 'label', 'mask', 'id'}
    )
    assert batch['image'].shape[-1] == 3 and batch['image'].dtype == np.uint8
    assert 0 <= batch['label'].item() < task.num_classes


def test_parts_of_a_split_are_joined(data_dir):
  parts = 'train[:800]', 'train[1000:1200]'
  first, second, both = (
    sources.Tfds('digits', split, data_dir=str(data_dir))
    for split in (*parts, '+'.join(parts))
  )
  assert len(both) == 1000
  assert (both[799], both[800]) == (first[799], second[0])


def test_vtab_means():
  accuracies = {name: i / 10 for i, name in enumerate(benchmarks.VTAB)}
  means = benchmarks.vtab_means(accuracies)
  assert means == pytest.approx(
    dict(natural=0.3, specialised=0.85, structured=1.45, all=0.9)
  )
  with pytest.raises(UserError, match='missing dtd; unknown textures'):
    benchmarks.vtab_means(
      {name.replace('dtd', 'textures'): a for name, a in accuracies.items()}
    )


@pytest.mark.parametrize('name', benchmarks.TRANSFER)
def test_transfer_parts_divide_the_training_data(name):
  parts = benchmarks.TRANSFER[name].parts
  assert parts['fit'][1] + parts['val'][1] == parts['train'][1]
  share = int(parts['fit'][0].removeprefix('train[:').removesuffix('%]'))
  assert parts['val'][0] == f'train[{share}%:]'
  assert parts['fit'][1] == round(parts['train'][1] * share / 100)  # as TFDS rounds


def test_fewshot_sets_are_those_of_the_protocol():
  assert sorted(benchmarks.FEWSHOT) == [
    'caltech101',
    'cars196',
    'cifar100',
    'dtd',
    'imagenet',
    'oxford_iiit_pet',
    'uc_merced',
  ]
  probe = benchmarks.FEWSHOT['imagenet']
  assert probe.parts['train'][0] == 'train[:65000]'
  assert probe.parts['test'][0] == 'validation'


def test_inputs_of_a_config_share_nothing():
  own = [spec(fake.Fake, name='digits')]
  first, second = (benchmarks.IMAGENET.eval_input('val', own, 8) for _ in range(2))
  first.transforms[1].name = 'glyphs'
  assert (second.transforms[1].name, own[0].name) == ('digits', 'digits')


def test_real_labels_go_into_batches():
  node = benchmarks.imagenet_real([], batch_size=4)
  names = [symbol(node).__name__ for _, node in calls(node)]
  assert names == ['EvalInput', 'Tfds', 'Decode', 'RealLabels', 'Keep']
  assert list(node.transforms[-1].names) == ['image', 'labels']


def test_an_unknown_name_is_told_with_those_there_are():
  with pytest.raises(UserError, match="no task 'stanford': take one of caltech101, "):
    benchmarks.chosen('stanford', benchmarks.VTAB, 'task')


@pytest.mark.parametrize(
  'transforms',
  [
    benchmarks.deit_augmentation(32),
    benchmarks.three_augment(32),
    benchmarks.three_augment(32, simple_crop=True),
  ],
  ids=['deit', 'three', 'three simple'],
)
def test_augmentation(transforms):
  source = fake.Fake('imagenet2012', examples=3, classes=7)
  task = benchmarks.IMAGENET.train_input('train', transforms, batch_size=6, workers=0)
  batches = pipeline.TrainInput(
    source=source, batch_size=6, transforms=build(task.transforms)
  )
  batch = next(iter(batches))
  assert batch['image'].shape == (6, 32, 32, 3) and batch['image'].dtype == np.uint8
  assert len({image.tobytes() for image in batch['image']}) == 6
