import numpy as np
import pytest

from big_vision_like.data.procedural import label_scenes, scenes


@pytest.mark.parametrize('name', label_scenes.CONFIGS)
def test_label_maps_have_the_classes_of_all_segments(name):
  config, names = label_scenes.CONFIGS[name], label_scenes.NAMES[name]
  seen = set()
  for index in range(8):
    scene = scenes.draw(config, 'validation', index)
    found = label_scenes.draw(config, 'validation', index)
    np.testing.assert_array_equal(found['image'], scene['image'])
    label_HW = found['label_map'][..., 0]
    counts = np.bincount(label_HW.ravel(), minlength=len(names) + 1)
    assert len(counts) == len(names) + 1
    first, areas = 2 - config.hidden, np.zeros_like(counts)
    for segment in scene['panoptic_objects']:
      areas[segment['label'] + first] += segment['area']
    rest = label_HW.size - areas.sum()
    areas[0 if config.hidden else 1] += rest  # void, or the background
    np.testing.assert_array_equal(counts, areas)
    seen |= {*np.unique(label_HW).tolist()}
  assert seen >= {*range(1, len(names) + 1)}
