import numpy as np

from big_vision_like.data.procedural import five_shapes

CONFIG = five_shapes.FiveShapesConfig(name='plain', noise=0.0)


def test_shapes_have_two_colours_and_their_area():
  shares = {label: [] for label in range(5)}
  for index in range(100):
    example = five_shapes.draw(CONFIG, 'train', index)
    colours, counts = np.unique(
      example['image'].reshape(-1, 3), axis=0, return_counts=True
    )
    assert len(colours) == 2
    there = (example['image'] != example['image'][0, 0]).any(axis=-1)
    rows, columns = np.nonzero(there)
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    shares[example['label']].append(there.sum() / box)
  disc, square, triangle, cross, ring = (np.mean(x) for x in shares.values())
  # The areas of the shapes in their bounding boxes.
  assert abs(disc - np.pi / 4) < 0.05 and square > 0.95 and abs(triangle - 0.5) < 0.05
  assert abs(cross - 0.55) < 0.06 and abs(ring - np.pi / 4 * 0.75) < 0.06


def test_splits_and_noise():
  train, test = (five_shapes.draw(CONFIG, split, 3) for split in ('train', 'test'))
  assert (train['image'] != test['image']).any()
  noisy = five_shapes.FiveShapesConfig(name='noisy')
  image = five_shapes.draw(noisy, 'train', 3)['image'].astype(float)
  assert 2 < (image - train['image']).std() < 12
