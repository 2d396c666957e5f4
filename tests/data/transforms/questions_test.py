import numpy as np
import pytest

from big_vision_like.data.sources import language, region_features
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import questions, regions
from big_vision_like.errors import BadRecordError, UserError

VOCABULARY = wordpiece.WordPiece(words=('a', 'dog', '##s', 'runs', 'cat', 'two'))
PAD, UNK, CLS, SEP = (VOCABULARY.table[x] for x in ('[PAD]', '[UNK]', '[CLS]', '[SEP]'))
A, DOG, S, RUNS, CAT, TWO = range(5, 11)


def words(text, length=8, **options):
  example = {'question': text, 'id': 3}
  return questions.Words(VOCABULARY, 'question', length, **options).map(example)


def test_words_are_padded_at_the_end():
  found = words('A dogs zebra', task=7)
  assert found['tokens'].tolist() == [CLS, A, DOG, S, UNK, SEP, PAD, PAD]
  assert found['token_mask'].tolist() == [True] * 6 + [False] * 2
  assert not found['token_types'].any() and found['task'] == 7
  assert words(b'a')['tokens'].tolist() == words('a')['tokens'].tolist()


def test_long_texts_lose_their_last_words():
  assert words('a dog runs cat', 5)['tokens'].tolist() == [CLS, A, DOG, RUNS, SEP]


def test_parts_of_a_text_are_separated():
  found = words(['a dog', 'cat'])
  assert found['tokens'].tolist() == [CLS, A, DOG, SEP, CAT, SEP, PAD, PAD]
  assert not found['token_types'].any()


def test_a_text_without_words_is_a_bad_record():
  with pytest.raises(BadRecordError, match='question of the example with id 3 has no'):
    words(' ')
  with pytest.raises(UserError, match='length=2 leaves no room'):
    words('a', 2)


def test_options_follow_the_question():
  example = {'question': 'a dog', 'options': ['cat', 'two cat runs']}
  found = questions.Options(VOCABULARY, 7, text='question').map(example)
  assert found['tokens'].tolist() == [
    [CLS, A, DOG, SEP, CAT, SEP, PAD],
    [CLS, A, DOG, SEP, TWO, CAT, SEP],  # the longer text is cut
  ]
  assert found['token_types'].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]]
  alone = questions.Options(VOCABULARY, 6).map(example)
  assert alone['tokens'].tolist()[0] == [CLS, CAT, SEP, PAD, PAD, PAD]


def test_answers_become_targets():
  example = {'labels': np.array([3, 0]), 'scores': np.array([1.0, 0.3])}
  target = questions.Answers(5).map(example)['target']
  np.testing.assert_allclose(target, [0.3, 0, 0, 1.0, 0])
  nothing = {'labels': np.array([], int), 'scores': np.array([])}
  assert not questions.Answers(5).map(nothing)['target'].any()
  with pytest.raises(UserError, match='has the answer 3, but num_answers=3'):
    questions.Answers(3).map(example)


def stored(count=3, width=4):
  made = region_features.made_up(5, width, classes=6)
  made = {
    k: np.resize(v, (count, v.shape[1])) if k in ('boxes', 'features', 'classes') else v
    for k, v in made.items()
  }
  return made | {'id': 9}


def test_regions_have_the_whole_image_first():
  example = stored() | {'size': np.array([100, 200])}
  example['boxes'] = np.array([[0, 0, 200, 50], [20, 10, 60, 30], [0, 50, 100, 100]])
  found = regions.Regions(6, targets=True).map(example)
  assert found['regions'].shape == (6, 4) and found['region_targets'].shape == (6, 6)
  np.testing.assert_allclose(found['regions'][0], example['features'].mean(0), 1e-6)
  np.testing.assert_array_equal(found['regions'][1:4], example['features'])
  np.testing.assert_allclose(
    found['locations'][:4],
    [
      [0, 0, 1, 1, 1],
      [0, 0, 1, 0.5, 0.5],
      [0.1, 0.1, 0.3, 0.3, 0.04],
      [0, 0.5, 0.5, 1, 0.25],
    ],
    atol=1e-6,
  )
  assert found['region_mask'].tolist() == [True] * 4 + [False] * 2
  assert not found['regions'][4:].any() and not found['locations'][4:].any()
  assert not found['region_targets'][[0, 4, 5]].any()
  np.testing.assert_allclose(found['region_targets'][1:4].sum(1), 1, 1e-6)
  assert found['id'] == 9 and 'boxes' not in found


def test_only_detected_regions_make_the_mean():
  example = stored(5) | {'num_detected': 2}
  found = regions.Regions(6).map(example)
  np.testing.assert_allclose(found['regions'][0], example['features'][3:].mean(0), 1e-6)


def test_too_many_regions_are_refused_or_cut():
  with pytest.raises(UserError, match='id 9 has 3 regions, .* more than rows=3: raise'):
    regions.Regions(3).map(stored())
  found = regions.Regions(3, truncate=True).map(stored())
  assert found['regions'].shape == (3, 4) and found['region_mask'].all()


def test_unusable_regions():
  with pytest.raises(BadRecordError, match='id 9 has no regions'):
    regions.Regions(3).map(stored(0))
  with pytest.raises(UserError, match='of width 4, but the config has width=5'):
    regions.Regions(5, width=5).map(stored())
  with pytest.raises(UserError, match='without class distributions'):
    regions.Regions(5, targets=True).map({**stored(), 'classes': None})
  with pytest.raises(UserError, match='examples have no regions; they have question'):
    regions.Regions(5).map({'question': 'x'})


def test_targets_of_expressions_are_overlaps():
  boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 4], [0, 0, 9, 3], [50, 50, 60, 60]])
  example = {'boxes': boxes, 'size': np.array([10, 10]), 'box': np.array([0, 0, 9, 9])}
  found = regions.OverlapTargets(7).map(example)['target']
  # Row 0 is the image, of 11x11 pixels as boxes are counted; 0.4 is below 0.5.
  np.testing.assert_allclose(found, [100 / 121, 1, 0.5, 0, 0, 0, 0], atol=1e-6)
  assert regions.OverlapTargets(3).map(example)['target'].shape == (3,)


class Captions(language.Annotations):
  """Six captions of made-up images."""

  paths = ('captions',)

  def read(self):
    examples = [
      {'caption': f'text {i}', 'image_id': str(i // 2), 'image_number': i // 2, 'id': i}
      for i in range(6)
    ]
    return language.Read(examples, {})

  def trial(self, index, rng):
    raise NotImplementedError


def test_distractors_belong_to_other_images():
  stored = region_features.RegionFeatures('x', width=4, made_up=8)
  source = language.WithRegions(Captions(), stored)
  transform = questions.Distractors(source, hard=1)
  rng, seen = np.random.default_rng(0), set()
  for _ in range(20):
    found = transform.random_map(source[2], rng)
    own, other, same, hard = (int(text.split()[1]) for text in found['options'])
    assert own == same == 2 and other // 2 != 1 != hard // 2 and found['label'] == 0
    assert not np.array_equal(found['features'], found['features_2'])
    seen |= {(other, hard)}
  assert len(seen) > 4
  for suffix in ('', '_2'):
    found = regions.Regions(10, suffix=suffix).map(found)
  found = questions.Paired((0, 0, 1, 0)).map(found)
  assert found['regions'].shape == (4, 10, 4) and found['region_mask'].shape == (4, 10)
  np.testing.assert_array_equal(found['regions'][0], found['regions'][3])
  assert not np.array_equal(found['regions'][0], found['regions'][2])
  assert 'regions_2' not in found


def test_questions_about_classes():
  ask = questions.AskClass(('zero', 'one', 'two'))
  found = [
    ask.random_map({'label': 1, 'id': i}, np.random.default_rng(i)) for i in range(200)
  ]
  for example in found:
    assert (example['question'] == 'is it one') == bool(example['label'])
  asked = {example['question'] for example in found}
  assert asked == {'is it zero', 'is it one', 'is it two'}
  assert 70 < sum(example['label'] for example in found) < 130
  fixed = questions.FixedQuestion(ask)
  example = {'label': 2, 'id': 17}
  assert fixed.map(example) == fixed.map(example)


def test_blank_regions_have_no_features():
  found = regions.Regions(5).map(regions.Blank().map(stored()))
  assert not found['regions'].any() and found['locations'].any()
