"""Scores of captions against pycocoevalcap, and the tutorial's model in PyTorch."""

import numpy as np
import pytest

from big_vision_like.evals import caption_scores

WORDS = 'a the dog cat man horse on mat red two runs sits with ball near'.split()


def made_up(seed, images=40):
  rng = np.random.default_rng(seed)

  def text(low, high):
    return ' '.join(rng.choice(WORDS, size=rng.integers(low, high)))

  references = [[text(2, 12) for _ in range(rng.integers(1, 6))] for _ in range(images)]
  # Some captions share words with a reference, in part of its order.
  captions = []
  for own in references:
    words = own[0].split() if rng.random() < 0.7 else text(1, 14).split()
    captions.append(' '.join(word for word in words if rng.random() < 0.8) or 'a')
  return captions, references


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_scores_are_those_of_pycocoevalcap(seed):
  bleu = pytest.importorskip('pycocoevalcap.bleu.bleu')
  from pycocoevalcap.cider import cider
  from pycocoevalcap.rouge import rouge

  captions, references = made_up(seed)
  theirs = (
    {i: own for i, own in enumerate(references)},
    {i: [text] for i, text in enumerate(captions)},
  )
  ours = [x.split() for x in captions], [[x.split() for x in o] for o in references]
  want, _ = bleu.Bleu(4).compute_score(*theirs, verbose=0)
  np.testing.assert_allclose(caption_scores.bleu(*ours).scores, want, rtol=1e-9)
  _, want = cider.Cider().compute_score(*theirs)
  np.testing.assert_allclose(caption_scores.cider_d(*ours), want, rtol=1e-9, atol=1e-12)
  _, want = rouge.Rouge().compute_score(*theirs)
  have = [caption_scores.rouge_l(*pair) for pair in zip(*ours, strict=True)]
  np.testing.assert_allclose(have, want, rtol=1e-9)
