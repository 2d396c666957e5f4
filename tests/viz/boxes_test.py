import numpy as np
import pytest

from big_vision_like.viz import boxes


def grey(height=100, width=140):
  return np.full((height, width, 3), 128, np.uint8)


def painted(picture, label):
  """Returns where (H, W) a picture has the colour of a label."""
  return (picture == boxes.color(label)).all(-1)


def test_a_box_has_the_colour_of_its_label_and_a_tag_above():
  got = boxes.draw(grey(), np.array([[30.0, 40.0, 90.0, 80.0]]), ['cat'])
  there = painted(got, 'cat')
  rows, columns = np.flatnonzero(there[:, 60:].any(1)), np.flatnonzero(there[60].T)
  assert rows[-1] == 79 and columns[0] == 30 and columns[-1] == 89
  assert there[40, 30:90].all() and there[79, 30:90].all()
  assert there[:40].any() and not there[:20].any()  # the tag
  inside = got[45:75, 35:85]
  np.testing.assert_array_equal(inside, 128)


@pytest.mark.parametrize(
  'box, tag',
  [
    ([0, 0, 20, 20], slice(20, 35)),  # no room above: below
    ([0, 0, 140, 100], slice(1, 15)),  # no room below: inside
    ([130, 50, 140, 60], slice(35, 50)),  # moved left, into the picture
    ([-20, -20, 200, 200], slice(0, 15)),
  ],
)
def test_tags_stay_in_the_picture(box, tag):
  got = boxes.draw(grey(), np.array([box], np.float32), ['zebra'], [0.5])
  assert got.shape == (100, 140, 3)
  assert painted(got, 'zebra')[tag].sum() > 200


def test_tags_of_equal_boxes_do_not_overlap():
  box, labels = [40, 40, 110, 70], ['square', 'disc', 'triangle']
  got = boxes.draw(grey(), np.array([box] * 3), labels, [0.9, 0.8, 0.7])
  areas = [painted(got, label).sum() for label in labels]
  alone = []
  for label, score in zip(labels, [0.9, 0.8, 0.7], strict=True):
    one = boxes.draw(grey(), np.array([box]), [label], [score])
    tag = painted(one, label)
    tag[41:69] = False  # the sides of the box
    alone.append(tag.sum() - 70 * 2)
  assert all(area >= tag for area, tag in zip(areas, alone, strict=True))


def test_a_tag_prefers_places_that_are_free():
  corners = (10, 30, 60, 60)
  options = boxes._options(corners, (30, 12), (140, 100))
  assert options[0] == (10, 18, 40, 30)  # above, left-aligned
  assert (30, 18, 60, 30) in options and (10, 60, 40, 72) in options
  assert boxes._shared(options[0], (35, 20, 45, 25)) == 25
  assert boxes._shared(options[0], (40, 20, 45, 25)) == 0


def test_drawing_nothing_and_leaving_the_input_unchanged():
  picture = grey()
  got = boxes.draw(picture, np.zeros((0, 4)), [])
  np.testing.assert_array_equal(got, picture)
  boxes.draw(picture, np.array([[5, 5, 50, 50]]), [3])
  np.testing.assert_array_equal(picture, 128)


def test_high_scores_and_small_boxes_are_on_top():
  large, small = [20, 20, 80, 80], [40, 20, 60, 80]
  got = boxes.draw(grey(), np.array([small, large]), [0, 1])
  assert painted(got, 0)[79, 50]
  got = boxes.draw(grey(), np.array([small, large]), [0, 1], [0.1, 0.9])
  assert painted(got, 1)[79, 50]


def test_colours_of_labels_differ_and_stay():
  colours = {boxes.color(label) for label in range(91)}
  assert len(colours) == 91
  assert boxes.color('dog') == boxes.color('dog') != boxes.color('cat')


def test_counts_that_disagree_are_an_error():
  with pytest.raises(ValueError, match='2 boxes, 1 labels and 1 scores'):
    boxes.draw(grey(), np.zeros((2, 4)), ['a'])
