"""Made-up translations, shared by tests of texts."""

import numpy as np
import tensorflow_datasets as tfds

NOUNS = [('Hund', 'dog'), ('Kater', 'tomcat'), ('Käfer', 'beetle'), ('Bär', 'bear')]
VERBS = [('sieht', 'sees'), ('jagt', 'chases'), ('mag', 'likes'), ('sucht', 'seeks')]
ENDS = [('.', '.'), (' oft, sehr oft.', ' often, very often.'), ('!', '!')]
# 192 pairs of sentences; TFDS returns them as bytes.
PAIRS = [
  {'de': f'Der {a} {v} den {b}{end}', 'en': f'The {x} {w} the {y}{stop}'}
  for a, x in NOUNS
  for v, w in VERBS
  for b, y in NOUNS
  for end, stop in ENDS
]


class TinyTranslation(tfds.core.GeneratorBasedBuilder):
  """`PAIRS` in the form of the translation data sets of TFDS."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features.Translation(languages=('de', 'en'))
    return tfds.core.DatasetInfo(
      builder=self, features=features, disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(PAIRS)}

  def _generate_examples(self, pairs):
    yield from enumerate(pairs)


class TinyTexts(TinyTranslation):
  """The same as separate texts, with an id; the last has no 'de'."""

  def _info(self):
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict({'de': text, 'en': text, 'id': np.int64})
    return tfds.core.DatasetInfo(
      builder=self, features=features, disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    pairs = [pair | {'id': 100 + i} for i, pair in enumerate(PAIRS)]
    pairs.append({'de': '', 'en': 'Nothing.', 'id': 7})
    return {'train': self._generate_examples(pairs)}


def prepared(builder, folder):
  """Writes one of the data sets and returns the name to read it by."""
  tfds.disable_progress_bar()
  builder(data_dir=folder).download_and_prepare(file_format='array_record')
  return builder.name
