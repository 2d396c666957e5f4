import numpy as np

from big_vision_like.data.procedural import digit_rows, digits


def test_digits_are_named_in_reading_order():
  config = digit_rows.DigitRowsConfig(name='digit_rows')
  images, labels, _ = digits.scans()
  counts = []
  for index in range(30):
    example = digit_rows.draw(config, 'test', index)
    assert example['image'].shape == (16, 32, 1) and example['image'].dtype == np.uint8
    names = example['captions'][0].split()
    spans = example['spans'][: len(names)]
    counts.append(len(names))
    assert (example['spans'][len(names) :] == -1).all()
    assert (np.diff(spans.ravel()) >= 0).all() and (
      spans[:, 1] - spans[:, 0] == 8
    ).all()
    rest = example['image'][..., 0].copy()
    for name, (left, right) in zip(names, spans, strict=True):
      column = rest[:, left:right]
      own = images[labels == digit_rows.NAMES.index(name)]
      found = [
        (column[top : top + 8][None] == own).all(axis=(1, 2)).any() for top in range(9)
      ]
      assert any(found)
      column[:] = 0
    assert not rest.any()
  assert set(counts) == {2, 3}
  assert not np.array_equal(
    digit_rows.draw(config, 'train', 0)['image'], digit_rows.draw(config, 'test', 0)
  )


def test_test_images_have_unseen_scans():
  _, _, ids = digits.scans()
  assert not set(ids['train']) & set(ids['test'])
  assert len(digit_rows.scans('train')[1]) == 1_347
  assert len(digit_rows.scans('test')[1]) == 450
