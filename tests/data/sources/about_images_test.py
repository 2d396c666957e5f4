"""Texts about images in folders, and objects with attributes."""

import dataclasses
import json

import numpy as np
import pytest

from big_vision_like.data.prepare import visual_genome
from big_vision_like.data.sources import about_images, coco, statements
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Returns a file of statements about three images, two of which exist."""
  lines = [
    {'Flickr30K_ID': str(i), 'sentence2': f'text {i}', 'gold_label': 'neutral'}
    for i in range(3)
  ]
  (tmp_path / 've.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  (tmp_path / 'images').mkdir()
  for i in (0, 2):
    (tmp_path / 'images' / f'{i}.jpg').write_bytes(b'image %d' % i)
  return tmp_path


def made(folder, **options):
  annotations = statements.SnliVe(path=str(folder / 've.jsonl'))
  return about_images.AboutImages(annotations, str(folder / 'images'), **options)


def test_images_are_added_and_missing_ones_counted(folder):
  source = made(folder, tolerated=0.5)
  assert [(x['image'], x['sentence']) for x in source] == [
    (b'image 0', 'text 0'),
    (b'image 2', 'text 2'),
  ]
  assert source.left_out == {'examples whose image is not in the folder': 1}


def test_too_many_missing_images_are_an_error(folder):
  assert 'lacks the images of 1 of 3 examples' in made(folder).problems()[0]
  assert 'such as 1.jpg' in made(folder).problems()[0]
  named = made(folder, name='{:0>12}.jpg', tolerated=1.0)
  with pytest.raises(UserError, match='such as 000000000000.jpg'):
    len(named)


def test_a_plan_needs_no_files():
  annotations = statements.SnliVe(path='nowhere.jsonl', examples=7)
  source = about_images.AboutImages(annotations, 'nowhere').planned()
  assert len(source) == 7 and source[6]['image'].startswith(b'\xff\xd8')


def test_a_plan_of_objects_needs_no_files():
  objects = coco.Coco('nowhere.json', 'nowhere')
  source = about_images.WithAttributes(objects, 'nowhere.json', about=9).planned()
  assert len(source) == 9
  found = source[0]['objects']
  assert found['attributes'] == [[] for _ in found['bbox']]


@dataclasses.dataclass(frozen=True)
class Objects(Source):
  """One image with two objects."""

  def __len__(self):
    return 1

  def __getitem__(self, index):
    return {'id': 1, 'objects': {'id': np.array([1, 2]), 'label': np.array([0, 0])}}


def test_attributes_of_visual_genome(tmp_path):
  box = dict(x=1, y=2, w=3, h=4)
  entries = [
    {**box, 'names': ['cat'], 'attributes': ['Black', 'small']},
    {**box, 'names': ['dog'], 'attributes': ['black']},
    {**box, 'x': 9, 'names': ['cat'], 'attributes': ['odd']},
    {**box, 'x': 8, 'names': ['cat']},
  ]
  (tmp_path / 'attributes.json').write_text(
    json.dumps([{'image_id': 5, 'attributes': entries}])
  )
  truth = {
    'categories': [{'id': 1, 'name': 'cat'}],
    'annotations': [
      {'id': i, 'image_id': 5, 'category_id': 1, 'bbox': [x, 2, 3, 4]}
      for i, x in enumerate((1, 8, 9), start=1)
    ],
  }
  found = visual_genome.attributes_of(tmp_path / 'attributes.json', truth, 2)
  assert found == {'names': ['black', 'odd'], 'of': {'1': [0], '3': [1]}}
  (tmp_path / 'own.json').write_text(json.dumps(found))
  source = about_images.WithAttributes(Objects(), str(tmp_path / 'own.json'))
  assert source[0]['objects']['attributes'] == [[0], []]
  (tmp_path / 'own.json').write_text(json.dumps(found | {'of': {'1': [2]}}))
  wrong = about_images.WithAttributes(Objects(), str(tmp_path / 'own.json'))
  assert 'annotation 1 has attributes [2]' in wrong.problems()[0]


def test_the_images_of_coco_are_kept_for_evaluation(tmp_path):
  images = [{'image_id': i, 'coco_id': 10 + i if i % 2 else None} for i in range(4)]
  (tmp_path / 'image_data.json').write_text(json.dumps(images))
  (tmp_path / 'val.json').write_text(json.dumps({'images': [{'id': 11}, {'id': 99}]}))
  truth = {
    'images': [{'id': i} for i in range(4)],
    'annotations': [{'id': 1, 'image_id': 1}, {'id': 2, 'image_id': 2}],
    'categories': [],
  }
  train, val = visual_genome.split_by_coco(
    truth, tmp_path / 'image_data.json', tmp_path / 'val.json'
  )
  assert [x['id'] for x in train['images']] == [0, 2, 3]
  assert [x['id'] for x in val['annotations']] == [1]
