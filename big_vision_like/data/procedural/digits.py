"""UCI handwritten digits, 8x8 grey scans, as the TFDS data set `digits`.

The 1,797 scans come with scikit-learn (`sklearn.datasets.load_digits`), so nothing is
downloaded. Importing this module registers the data set with TFDS.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from big_vision_like.data.procedural import drawing


class Digits(drawing.Pictures):
  """1,347 training and 450 test scans, split at random within each class.

  Examples have `image` (8,8,1) uint8, with grey levels 0..16 scaled to 0..255,
  `label` 0..9 and `id`, the scan's index in scikit-learn's order.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return self.described(
      '1,797 handwritten digits scanned to 8x8 pixels.',
      {
        'image': drawing.picture(8, 8, 1),
        'label': tfds.features.ClassLabel(names=list('0123456789')),
      },
      homepage='https://archive.ics.uci.edu/dataset/80',
      supervised_keys=('image', 'label'),
      license='CC BY 4.0',
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    images_NHW, labels_N, ids = scans()
    return {
      split: self._generate_examples(images_NHW, labels_N, ids[split]) for split in ids
    }

  def _generate_examples(
    self, images_NHW: np.ndarray, labels_N: np.ndarray, ids: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, i in enumerate(ids.tolist()):
      image = drawing.png(images_NHW[i][:, :, None])
      yield position, {'image': image, 'label': int(labels_N[i]), 'id': i}


def scans() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """Returns all scans, uint8 (N, 8, 8), their labels, and the indices of each split."""
  from sklearn import datasets, model_selection  # slow to import, needed only here

  found = datasets.load_digits()
  train, test = model_selection.train_test_split(
    np.arange(len(found.target)),
    test_size=450,
    random_state=0,
    stratify=found.target,
  )
  images_NHW = np.round(found.images * (255 / 16)).astype(np.uint8)
  return images_NHW, found.target, {'train': train, 'test': test}
