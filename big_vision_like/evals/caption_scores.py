"""Scores of captions against several references, as the COCO caption tools define them.

Captions are lists of words. The functions give the same numbers as pycocoevalcap
(tylin/coco-caption) for the same words.
"""

import collections
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

Words = Sequence[str]
References = Sequence[Words]
ORDER = 4  # longest n-grams
# Added to counts of BLEU, so that an empty caption or no match gives a number.
TINY, SMALL = 1e-15, 1e-9
BETA = 1.2  # weight of recall in ROUGE-L
SIGMA = 6.0  # of the length penalty in CIDEr-D


class Bleu(NamedTuple):
  """BLEU-1 to 4, with and without the brevity penalty, and the ratio of lengths."""

  scores: tuple[float, ...]
  without_penalty: tuple[float, ...]
  length_ratio: float


def bleu(captions: Sequence[Words], references: Sequence[References]) -> Bleu:
  """Returns the BLEU of a corpus (ACL 2002, Papineni et al.).

  The reference length is that of the closest reference of each caption, the shorter of
  two equally close ones. The published tables of arXiv:1502.03044 have no penalty.
  """
  guessed, right = np.zeros(ORDER), np.zeros(ORDER)
  length = reference_length = 0
  for caption, own in zip(captions, references, strict=True):
    length += len(caption)
    lengths = (len(words) for words in own)
    reference_length += min((abs(n - len(caption)), n) for n in lengths)[1]
    most: collections.Counter = collections.Counter()
    for words in own:
      most |= counts(words)
    for gram, count in counts(caption).items():
      right[len(gram) - 1] += min(count, most[gram])
    guessed += [max(0, len(caption) - n) for n in range(ORDER)]
  precision = np.cumprod((right + TINY) / (guessed + SMALL))
  plain = precision ** (1 / np.arange(1, ORDER + 1))
  ratio = (length + TINY) / (reference_length + SMALL)
  penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
  return Bleu(tuple((penalty * plain).tolist()), tuple(plain.tolist()), ratio)


def counts(words: Words) -> collections.Counter:
  """Returns how often each n-gram of 1 to 4 words occurs."""
  return collections.Counter(grams(words))


def grams(words: Words) -> Iterator[tuple[str, ...]]:
  """Yields all n-grams of 1 to 4 words."""
  for n in range(1, ORDER + 1):
    for start in range(len(words) - n + 1):
      yield tuple(words[start : start + n])


def rouge_l(caption: Words, references: References) -> float:
  """Returns ROUGE-L: an F-measure of the longest common subsequence (ACL 2004, Lin).

  Precision and recall are each of the reference for which it is largest.
  """
  if not caption:
    return 0.0
  common = [common_length(caption, words) for words in references]
  precision = max(common) / len(caption)
  recall = max(n / len(words) for n, words in zip(common, references, strict=True))
  if not precision or not recall:
    return 0.0
  return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(a: Words, b: Words) -> int:
  """Returns the length of the longest common subsequence."""
  best = [0] * (len(b) + 1)
  for x in a:
    before = 0
    for place, y in enumerate(b, start=1):
      before, best[place] = (
        best[place],
        before + 1 if x == y else max(best[place], best[place - 1]),
      )
  return best[-1]


def cider_d(captions: Sequence[Words], references: Sequence[References]) -> list[float]:
  """Returns the CIDEr-D of each caption (arXiv:1411.5726 section 8.2).

  N-grams are weighted by how few images have them in a reference, so scores depend on
  all images. Of one image they are zero.
  """
  images: collections.Counter = collections.Counter()
  for own in references:
    images.update({gram for words in own for gram in grams(words)})
  rarity = {gram: math.log(len(references) / n) for gram, n in images.items()}
  rarest = math.log(max(len(references), 1))

  def weighted(words: Words) -> tuple[dict[tuple, float], np.ndarray]:
    vector = {g: n * rarity.get(g, rarest) for g, n in counts(words).items()}
    norms = np.zeros(ORDER)
    for gram, weight in vector.items():
      norms[len(gram) - 1] += weight**2
    return vector, np.sqrt(norms)

  scores = []
  for caption, own in zip(captions, references, strict=True):
    vector, norms = weighted(caption)
    total = 0.0
    for words in own:
      other, their_norms = weighted(words)
      similar = np.zeros(ORDER)
      for gram, weight in vector.items():
        theirs = other.get(gram, 0.0)
        similar[len(gram) - 1] += min(weight, theirs) * theirs
      both = norms * their_norms
      similar = np.divide(similar, both, out=similar, where=both != 0)
      # The published code counts pairs of words, one less than words.
      lengths = (max(0, len(x) - 1) for x in (caption, words))
      difference = next(lengths) - next(lengths)
      total += similar.mean() * math.exp(-(difference**2) / (2 * SIGMA**2))
    scores.append(float(10.0 * total / len(own)))
  return scores
