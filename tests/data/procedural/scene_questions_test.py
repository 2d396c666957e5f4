import collections

import numpy as np

from big_vision_like.data.procedural import scene_questions
from big_vision_like.data.procedural.scene_questions import COLORS, SHAPES
from big_vision_like.data.text import wordpiece

CONFIG = scene_questions.SceneQuestions.BUILDER_CONFIGS[0]
TABLES = scene_questions.features(np.arange(6), np.resize(np.arange(5), 6))


def seen(example):
  """Returns colours and shapes from left to right, read off the regions."""
  half = scene_questions.WIDTH // 2
  order = np.argsort(example['boxes'][:, 0])
  found = []
  for part, table in (
    (slice(half), TABLES[:, :half]),
    (slice(half, None), TABLES[:5, half:]),
  ):
    features = example['features'][order][:, None, part]
    found.append(((features - table[None]) ** 2).sum(-1).argmin(1))
  return [COLORS[i] for i in found[0]], [SHAPES[i] for i in found[1]]


def answer(question, colors, shapes):
  """Returns the answer that the words of a question ask for."""
  words = question.split()
  pairs = list(zip(colors, shapes, strict=True))
  if words[0] == 'how':
    return str(colors.count(words[2]))
  if words[0] == 'is':
    return 'yes' if (words[3], words[4]) in pairs else 'no'
  if words[1] == 'color':
    assert shapes.count(words[-1]) == 1
    return colors[shapes.index(words[-1])]
  if words[2] == 'left' or words[3] == 'left':
    assert pairs.count((words[-2], words[-1])) == 1
    return shapes[pairs.index((words[-2], words[-1])) - 1]
  assert colors.count(words[-2]) == 1
  return shapes[colors.index(words[-2])]


def test_answers_follow_from_the_regions():
  counts = collections.Counter()
  for index in range(300):
    example = scene_questions.draw(CONFIG, 'train', index)
    want = scene_questions.ANSWERS[example['label']]
    assert answer(example['question'], *seen(example)) == want
    counts[scene_questions.KINDS[example['kind']], want] += 1
  for kind in scene_questions.KINDS:
    assert sum(n for (k, _), n in counts.items() if k == kind) > 30
  assert (
    0.35
    < counts['exists', 'yes'] / (counts['exists', 'yes'] + counts['exists', 'no'])
    < 0.65
  )


def test_words_of_questions_are_word_pieces():
  vocabulary = wordpiece.WordPiece(words=scene_questions.WORDS)
  for index in range(50):
    text = scene_questions.draw(CONFIG, 'validation', index)['question']
    ids = vocabulary.encode(text)
    assert len(ids) == len(text.split()) <= 8 and vocabulary.unk_id not in ids


def test_examples_depend_on_split_and_index_only():
  first, again = (scene_questions.draw(CONFIG, 'train', 7) for _ in range(2))
  other = scene_questions.draw(CONFIG, 'validation', 7)
  np.testing.assert_array_equal(first['features'], again['features'])
  assert not np.array_equal(first['features'], other['features'])
