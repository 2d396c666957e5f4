import collections

import numpy as np
import pytest

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import caption_texts
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import mismatched, questions
from big_vision_like.errors import UserError

GROUPS = (('red', 'blue', 'green'), ('disc', 'ring'))
TEXTS = ['red disc', 'blue ring', 'a wave', 'green disc']
EXAMPLES = [{'caption': text.encode(), 'id': i} for i, text in enumerate(TEXTS)]


def drawn(transform, example, count=1000):
  found = [
    transform.random_map(example, np.random.default_rng(seed)) for seed in range(count)
  ]
  return collections.Counter((e['caption'], bool(e['aligned'])) for e in found)


def test_half_of_the_captions_are_others():
  found = drawn(mismatched.Mismatched(EXAMPLES), EXAMPLES[0])
  assert {*found} == {(text, text == TEXTS[0]) for text in TEXTS}
  np.testing.assert_allclose(found['red disc', True], 500, atol=60)
  for text in TEXTS[1:]:
    np.testing.assert_allclose(found[text, False], 500 / 3, atol=50)


def test_one_word_is_changed():
  transform = mismatched.Mismatched(EXAMPLES, share=1.0, changed=1.0, words=GROUPS)
  found = drawn(transform, EXAMPLES[0], 300)
  assert {*found} == {(text, False) for text in ('blue disc', 'green disc', 'red ring')}
  # A caption without such a word becomes another one.
  found = drawn(transform, EXAMPLES[2], 50)
  assert {*found} <= {(text, False) for text in TEXTS if text != 'a wave'}


def test_evaluation_is_the_same_every_time():
  transform = mismatched.FixedMismatch(mismatched.Mismatched(EXAMPLES))
  both = [[transform.map(e)['caption'] for e in EXAMPLES] for _ in range(2)]
  assert both[0] == both[1]
  more = [dict(EXAMPLES[0], id=i) for i in range(200)]
  aligned = [transform.map(e)['aligned'] for e in more]
  np.testing.assert_allclose(np.mean(aligned), 0.5, atol=0.1)


def test_mistakes_are_sentences():
  with pytest.raises(UserError, match='changed=0.5 needs groups of words'):
    mismatched.Mismatched(EXAMPLES, changed=0.5)
  same = mismatched.Mismatched(EXAMPLES[:1], share=1.0)
  with pytest.raises(UserError, match="100 random captions are all 'red disc'"):
    same.random_map(EXAMPLES[0], np.random.default_rng(0))
  with pytest.raises(UserError, match="examples have no 'caption'"):
    same.random_map({'id': 0}, np.random.default_rng(0))


def test_a_plan_needs_no_captions():
  source = caption_texts.ConceptualCaptions(path='missing.tsv', examples=30)
  pairing = mismatched.Mismatched(source)
  for transform in (pairing, mismatched.FixedMismatch(pairing)):
    words = questions.Words(wordpiece.WordPiece('missing.txt'), 'caption', 8)
    steps = [transform, words]
    planned = pipeline.TrainInput(
      source=source, transforms=steps, batch_size=4
    ).planned()
    example = planned.source[0]
    made, words = planned.transforms
    assert words.map(example)['tokens'].shape == (8,)
    inner = getattr(made, 'mismatched', made)
    assert len(inner.captions) == 30 and inner.captions.made_up
    found = inner.random_map(example, np.random.default_rng(0))
    assert found['caption'] and 'aligned' in found
  assert pairing.captions is source
