"""Evaluation of constituency trees as EVALB does it (Collins, 1997)."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from big_vision_like.data.text import symbols, trees, vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.evals import evaluator
from big_vision_like.evals.evaluator import Arrays, Predict, Results


class Rules(NamedTuple):
  """The rules of an EVALB parameter file; the defaults are those of COLLINS.prm.

  Words with a `deleted` tag do not count, and neither do brackets with such a label.
  Labels and words count as the first of the `equal` pairs that has them.
  """

  deleted: frozenset[str] = frozenset(['TOP', '-NONE-', ',', ':', '``', "''", '.'])
  equal_labels: Mapping[str, str] = {'PRT': 'ADVP'}
  equal_words: Mapping[str, str] = {}


COLLINS = Rules()


class Counts(NamedTuple):
  """The number of brackets in the true and the predicted tree, and in both."""

  matched: int
  true: int
  predicted: int


class _Brackets(NamedTuple):
  """The labelled brackets of a tree, with first and last word, and its words."""

  spans: collections.Counter[tuple[str, int, int]]
  words: list[str]


def counts(
  true: Sequence[trees.Tree], predicted: Sequence[trees.Tree], rules: Rules = COLLINS
) -> Counts | None:
  """Returns the counts of a sentence's true and predicted brackets.

  A sentence has one tree, or several next to each other. The result is None where
  EVALB reports an error: without a tree, or if the trees have different words. Where a
  tag with a deleted label has another one in the other tree, words with the true tree's
  deleted tags are left out of both.
  """
  if not true or not predicted:
    return None
  one, other = _brackets(true, rules), _brackets(predicted, rules)
  if one.words != other.words:
    places = _deleted_places(true, rules)
    one, other = (_brackets(of, rules, places) for of in (true, predicted))
    if one.words != other.words:
      return None
  matched = (one.spans & other.spans).total()
  return Counts(matched, one.spans.total(), other.spans.total())


def _deleted_places(of: Sequence[trees.Tree], rules: Rules) -> frozenset[int]:
  tags = [tag for tree in of for tag in tree.tags()]
  return frozenset(
    i for i, tag in enumerate(tags) if trees.bare_label(tag.label) in rules.deleted
  )


def _brackets(
  of: Sequence[trees.Tree], rules: Rules, places: frozenset[int] | None = None
) -> _Brackets:
  """Returns brackets and words without deleted labels, or words at `places`."""
  found = _Brackets(collections.Counter(), [])
  seen = 0

  def visit(tree: trees.Tree) -> None:
    nonlocal seen
    label = trees.bare_label(tree.label)
    if tree.is_tag:
      gone = label in rules.deleted if places is None else seen in places
      seen += 1
      if not gone:
        word = tree.children[0]
        found.words.append(rules.equal_words.get(word, word))
      return
    start = len(found.words)
    for child in tree.children:
      visit(child)
    if label not in rules.deleted and len(found.words) > start:
      label = rules.equal_labels.get(label, label)
      found.spans[label, start, len(found.words)] += 1

  for tree in of:
    visit(tree)
  return found


@dataclasses.dataclass(kw_only=True)
class Brackets(evaluator.Evaluator):
  """Labelled bracket `precision`, `recall` and `f1` of predicted trees.

  `data` has `source` ids; its source has the texts `words`, and `tree`, the symbols of
  the true tree (`data.text.trees`). The prediction has `ids`, int (B, any) up to EOS,
  of the symbols. `exact` is the share of sentences whose brackets are all right.
  `no_tree` is the share of predictions that are not one tree over all words of the
  sentence; they count as trees without brackets. EVALB leaves them out: a parser that
  fails on hard sentences gains by it.
  """

  needs = ('source',)

  vocabulary: vocabulary.SentencePiece | symbols.Symbols
  predict: str = 'translate'
  shown: int = 8

  def reports(self) -> Mapping[str, str]:
    return {
      'f1': 'max',
      'precision': 'max',
      'recall': 'max',
      'exact': 'max',
      'no_tree': 'min',
    }

  def run(self, predict: Predict, state: Any, mesh: Mesh | None = None) -> Results:
    found = self.joined(self.measure, predict, state, mesh)
    total, exact, broken, shown = Counts(0, 0, 0), 0, 0, []
    for ids, i in zip(
      found.values['ids'].tolist(), found.index_N.tolist(), strict=True
    ):
      example = self.data.source[i]
      words = text.text_of(example, 'words').split()
      true = trees.from_symbols(text.text_of(example, 'tree').split(), words)
      tree = trees.from_symbols(self.vocabulary.decode(ids).split(), words)
      one = counts([true], [] if tree is None else [tree])
      if one is None:
        one = Counts(0, counts([true], [true]).true, 0)
        broken += 1
      exact += tree is not None and one.matched == one.true == one.predicted
      total = Counts(*(a + b for a, b in zip(total, one, strict=True)))
      if len(shown) < self.shown:
        shown.append(str(tree) if tree is not None else self.vocabulary.decode(ids))
    sentences = len(found.index_N)
    scalars = {
      'f1': 2 * total.matched / max(total.true + total.predicted, 1),
      'precision': total.matched / max(total.predicted, 1),
      'recall': total.matched / max(total.true, 1),
      'exact': exact / sentences,
      'no_tree': broken / sentences,
    }
    return Results(scalars, texts={'trees': shown})

  def measure(self, outputs: Arrays, batch: Arrays) -> Arrays:
    """Returns the predicted ids."""
    return {'ids': outputs['ids']}
