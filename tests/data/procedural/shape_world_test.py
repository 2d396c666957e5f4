"""Drawn shapes with questions, statements and sentences."""

import dataclasses

import numpy as np
import pytest

from big_vision_like.data.procedural import shape_world
from big_vision_like.data.procedural.shape_world import COLORS, SHAPES

CONFIGS = {config.name: config for config in shape_world.ShapeWorld.BUILDER_CONFIGS}


def drawn(task, count=200, **options):
  config = dataclasses.replace(CONFIGS[task], **options)
  return [shape_world.draw(config, 'train', i) for i in range(count)]


def test_objects_have_boxes_colors_and_shapes():
  rgb = np.array(list(COLORS.values()))
  for example in drawn('objects', 30):
    assert example['image'].shape == (32, 32, 3)
    assert 1 <= len(example['objects']) <= 4
    for found in example['objects']:
      top, left, bottom, right = (round(x * 32) for x in found['bbox'])
      box = example['image'][top:bottom, left:right]
      middle = box[len(box) // 2, len(box) // 2] / 255
      assert np.abs(rgb - middle).sum(1).argmin() == found['color']
      assert found['label'] == found['color'] * len(SHAPES) + found['shape']


def shapes_in(monkeypatch, task):
  """Returns examples with the words of the shapes in their pictures."""
  seen, place = [], shape_world.placed

  def spied(rng):
    seen.append(place(rng))
    return seen[-1]

  monkeypatch.setattr(shape_world, 'placed', spied)
  return zip(drawn(task), seen, strict=True)


def test_answers_are_right(monkeypatch):
  answers = set()
  for example, shapes in shapes_in(monkeypatch, 'questions'):
    answer = shape_world.ANSWERS[example['label']]
    answers.add(answer)
    last = example['question'].split()[-1]
    if example['question'].startswith('how many'):
      count = sum(x.words.startswith(last) for x in shapes)
      assert answer == shape_world.NUMBERS[count]
    else:
      (color,) = (x.words.split()[0] for x in shapes if x.words.endswith(last))
      assert answer == color
  assert {'zero', 'one', 'two', *COLORS} <= answers


def test_statements_are_true_false_or_undecided(monkeypatch):
  counts = np.zeros(3)
  for example, shapes in shapes_in(monkeypatch, 'statements'):
    truth, text = shape_world.TRUTHS[example['label']], example['sentence']
    there = any(x.words in text for x in shapes)
    if 'is small' in text or 'is large' in text:
      assert truth == 'undecided' and not there
    else:
      assert (truth == 'true') == (there != ('there is no' in text))
    counts[example['label']] += 1
  assert (counts > 45).all()


def test_paraphrases_name_the_same_shape():
  def named(text):
    words = text.split()
    return {w for w in words if w in COLORS}, {w for w in words if w in SHAPES}

  examples = drawn('paraphrases')
  for x in examples:
    assert x['label'] == (named(x['sentence1']) == named(x['sentence2']))
  assert 70 < sum(x['label'] for x in examples) < 130


def test_words_of_all_texts_are_in_the_vocabulary():
  for task in shape_world.TASKS[1:]:
    for example in drawn(task, 100):
      for name in ('question', 'sentence', 'sentence1', 'sentence2'):
        assert {*example.get(name, '').split()} <= {*shape_world.WORDS}


def test_examples_depend_on_split_and_index_only():
  config = CONFIGS['sentences']
  first, again = (shape_world.draw(config, 'train', 7) for _ in range(2))
  assert first == again
  others = [shape_world.draw(config, 'validation', i) for i in range(7, 12)]
  assert any(x['sentence'] != first['sentence'] for x in others)
  with pytest.raises(ValueError, match='not one of'):
    shape_world.draw(config, 'test', 0)
