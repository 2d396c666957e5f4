import collections

import pytest

from big_vision_like.data.procedural import twins

CONFIG = twins.Twins.BUILDER_CONFIGS[0]


def test_boxes_are_tight_and_apart():
  for index in range(100):
    example = twins.draw(CONFIG, 'train', index)
    lit_HW = (example['image'] > 0.16 * 255).any(axis=-1)
    assert example['image'].shape == (64, 64, 3)
    assert 3 <= len(example['objects']) <= 6
    for entry in example['objects']:
      top, left, bottom, right = (round(64 * edge) for edge in entry['bbox'])
      assert lit_HW[top:bottom, left:right].sum() == pytest.approx(entry['area'], abs=3)
      around_HW = lit_HW[max(top - 4, 0) : bottom + 4, max(left - 4, 0) : right + 4]
      assert around_HW.sum() == pytest.approx(entry['area'], abs=3)


def test_twins_look_alike_and_contexts_tell_them_apart():
  assert len(twins.TWINS) == len(twins.OTHERS) == 6
  looks = collections.Counter(twins.LOOKS)
  assert sorted(looks.values()) == [1] * 6 + [2] * 3
  inside = right = count = 0
  for index in range(1_000):
    example = twins.draw(CONFIG, 'train', index)
    own = range(3 * example['context'], 3 * example['context'] + 3)
    for entry in example['objects']:
      label = entry['label']
      inside += label in own
      if label in twins.TWINS:
        count += 1
        alike = [i for i in own if twins.LOOKS[i] == twins.LOOKS[label]]
        # If the context has neither twin, a guess is right half of the time.
        right += alike[0] == label if alike else 0.5
  total = sum(
    len(twins.draw(CONFIG, 'train', index)['objects']) for index in range(1_000)
  )
  assert inside / total == pytest.approx(0.85, abs=0.02)
  assert right / count == pytest.approx(0.9, abs=0.02)
