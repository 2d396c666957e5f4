import numpy as np
import pytest

from big_vision_like.data.procedural import context_clips

CONFIGS = {config.name: config for config in context_clips.ContextClips.BUILDER_CONFIGS}


def distance(one, other):
  return max(max(one[i], other[i]) - min(one[i + 2], other[i + 2]) for i in range(2))


@pytest.mark.parametrize('name', CONFIGS)
def test_actor_and_object_are_apart(name):
  for index in range(50):
    example = context_clips.draw(CONFIGS[name], 'train', index)
    assert example['video'].shape == (4, 32, 32, 3)
    assert distance(example['actor'], example['object']) >= context_clips.APART
    top, left, bottom, right = example['object']
    mean = example['video'][:, top:bottom, left:right].mean((0, 1, 2)) / 255
    colors = np.array(list(context_clips.COLORS.values()))
    assert np.abs(colors - mean[None]).sum(axis=1).argmin() == example['label']
    assert example['label'] == index % 4


def test_the_actor_tells_nothing_in_object():
  means = []
  for index in range(200):
    example = context_clips.draw(CONFIGS['object'], 'train', index)
    top, left, bottom, right = example['actor']
    means.append(example['video'][:, top:bottom, left:right].mean((0, 1, 2)))
  by_label = np.array(means).reshape(-1, 4, 3).mean(axis=0)
  np.testing.assert_allclose(by_label, np.broadcast_to(by_label[:1], (4, 3)), atol=0.5)


def test_the_actor_points_to_the_object_in_chosen():
  sides = set()
  for index in range(50):
    example = context_clips.draw(CONFIGS['chosen'], 'test', index)
    top, left, bottom, right = example['actor']
    red, _, blue = example['video'][:, top:bottom, left:right].mean((0, 1, 2))
    frame_HWC = example['video'].mean(axis=0)
    far_HW = frame_HWC.max(axis=-1) - frame_HWC.min(axis=-1) > 130
    columns = np.flatnonzero(far_HW.any(axis=0))
    own = example['object'][1]
    # The object is the left one of all that is colourful, or the right one.
    assert (abs(columns.min() - own) <= 1) == (red > blue)
    sides.add(bool(red > blue))
  assert sides == {True, False}
