"""Evaluation of translations against reference translations."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.errors import UserError, check_one_of
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results

TOKENIZERS = ('13a', 'intl', 'zh', 'char', 'none')
NO_SACREBLEU = (
  "BLEU needs the package sacrebleu: install the extra `text`: pip install -e '.[text]'"
)


@dataclasses.dataclass(kw_only=True)
class Bleu(evaluator.Evaluator):
  """Case-sensitive sacreBLEU and chrF (0 to 100) of detokenised translations.

  `data` has `source` ids. References are the unprocessed texts `target` of its source.
  The prediction has `ids`, int (B, any) up to EOS. `tokenize` is sacreBLEU's
  tokenizer: WMT reports '13a'; 'intl' is closer to the BLEU of arXiv:1706.03762.
  `length_ratio` is the number of translated words over the number of reference words.
  `translations` has the first `shown` texts.
  """

  needs = ('source',)

  vocabulary: vocabulary.SentencePiece
  target: str
  predict: str = 'translate'
  tokenize: str = '13a'
  shown: int = 8

  def __post_init__(self) -> None:
    check_one_of(TOKENIZERS, tokenize=self.tokenize)

  def reports(self) -> Mapping[str, str]:
    return {'bleu': 'max', 'chrf': 'max'}

  def problems(self) -> list[str]:
    return [] if importlib.util.find_spec('sacrebleu') else [NO_SACREBLEU]

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    try:
      from sacrebleu import metrics
    except ImportError as error:
      raise UserError(NO_SACREBLEU) from error

    found = self.joined(self.measure, predict, state, mesh)
    translations = [self.vocabulary.decode(ids) for ids in found.values['ids'].tolist()]
    source = self.data.source
    references = [text.text_of(source[i], self.target) for i in found.index_N.tolist()]
    # `force` only silences a warning about translations that look tokenised.
    bleu = metrics.BLEU(tokenize=self.tokenize, force=True)
    score = bleu.corpus_score(translations, [references])
    scalars = {
      'bleu': score.score,
      'chrf': metrics.CHRF().corpus_score(translations, [references]).score,
      'length_ratio': score.sys_len / score.ref_len,
    }
    return Results(scalars, texts={'translations': translations[: self.shown]})

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the predicted ids."""
    return {'ids': outputs['ids']}
