"""Features of TFDS's `glue` (arXiv:1804.07461), known without its builder.

TFDS's builder needs TensorFlow; prepared data do not. `idx` numbers the examples.
"""

from typing import Any

import numpy as np

# The texts of an example, and the names of labels.
QNLI = ('question', 'sentence'), ('entailment', 'not_entailment')
MNLI = ('premise', 'hypothesis'), ('entailment', 'neutral', 'contradiction')
QQP = ('question1', 'question2'), ('not_duplicate', 'duplicate')
SST2 = ('sentence',), ('negative', 'positive')
TASKS = {'qnli': QNLI, 'mnli': MNLI, 'qqp': QQP, 'sst2': SST2}


def catalogued(kind: str) -> Any:
  """Returns the features of a task of `TASKS`; None for another one."""
  import tensorflow_datasets as tfds

  if kind not in TASKS:
    return None
  texts, names = TASKS[kind]
  return tfds.features.FeaturesDict(
    {
      **{name: tfds.features.Text() for name in texts},
      'label': tfds.features.ClassLabel(names=names),
      'idx': np.int32,
    }
  )
