"""Constituency trees: reading brackets, and writing a tree as a sequence of symbols.

A tree is `(S (NP (DT the) (NN cat)) (VP (VBD slept)))`. As symbols, arXiv:1412.7449, it
is `(S (NP DT NN )NP (VP VBD )VP )S`: the tags stand for the words, which the reader of
the symbols has to know.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Union

from big_vision_like.errors import UserError

_TOKEN = re.compile(r'[()]|[^\s()]+')
# The tag of traces and other elements without sound, which have no words.
NONE = '-NONE-'


class Tree(NamedTuple):
  """A constituent with its parts, or a tag with the one word below it."""

  label: str
  children: tuple[Union['Tree', str], ...]

  @property
  def is_tag(self) -> bool:
    """Whether the tree is a tag with its word."""
    return len(self.children) == 1 and isinstance(self.children[0], str)

  def tags(self) -> Iterator['Tree']:
    """Yields the tags with their words, from left to right."""
    if self.is_tag:
      yield self
    else:
      for child in self.children:
        yield from child.tags()

  def words(self) -> list[str]:
    """Returns the words from left to right."""
    return [tag.children[0] for tag in self.tags()]

  def __str__(self) -> str:
    return f'({self.label} {" ".join(map(str, self.children))})'


def read(text: str, name: str = 'the text') -> list[Tree]:
  """Returns the trees of a text in brackets; an error names the text by `name`.

  A tree may extend over several lines. Brackets without a label, which surround each
  tree of the Penn Treebank, get the label TOP.
  """
  trees, open_ = [], []
  for match in _TOKEN.finditer(text):
    token = match[0]
    if token == '(':
      open_.append([])
    elif token == ')':
      if not open_:
        raise UserError(f'{name}: {_at(text, match)} closes a tree that is not open')
      found = _tree(open_.pop(), f'{name}: the tree that ends in {_at(text, match)}')
      (open_[-1] if open_ else trees).append(found)
    elif open_:
      open_[-1].append(token)
    else:
      raise UserError(f'{name}: {_at(text, match)} is outside of all trees')
  if open_:
    raise UserError(
      f'{name}: {len(open_)} brackets are not closed at the end, after'
      f' {len(trees):,} trees'
    )
  return trees


def _at(text: str, match: re.Match[str]) -> str:
  line = text.count('\n', 0, match.start()) + 1
  return f'{match[0]!r} in line {line:,}'


def _tree(parts: list[Tree | str], what: str) -> Tree:
  """Returns a tree of what its brackets hold, the label first."""
  label, *children = parts if parts and isinstance(parts[0], str) else ['TOP', *parts]
  mixed = any(isinstance(child, str) for child in children) and len(children) > 1
  if not children or mixed:
    raise UserError(
      f'{what} must have a label and either parts in brackets or one word, not'
      f' {" ".join(map(str, parts)) or "nothing"!r}'
    )
  return Tree(label, tuple(children))


def bare_label(label: str) -> str:
  """Returns a label without its functions: NP of NP-SBJ-1 and of NP=2."""
  return label if label.startswith('-') else re.split('[-=]', label)[0]


def cleaned(tree: Tree) -> Tree | None:
  """Returns a tree as parsers learn it; None if no word is left.

  Traces (-NONE-), constituents without words, functions such as -SBJ, and the
  brackets around a whole tree are removed.
  """
  if tree.is_tag:
    return None if tree.label == NONE else Tree(bare_label(tree.label), tree.children)
  kept = tuple(found for c in tree.children if (found := cleaned(c)) is not None)
  if tree.label == 'TOP' and len(kept) == 1:
    return kept[0]
  return Tree(bare_label(tree.label), kept) if kept else None


def symbols(tree: Tree) -> list[str]:
  """Returns the symbols of a tree: an opening bracket, a tag or a closing bracket."""
  if tree.is_tag:
    return [tree.label]
  inner = [symbol for child in tree.children for symbol in symbols(child)]
  return [f'({tree.label}', *inner, f'){tree.label}']


def from_symbols(symbols: Sequence[str], words: Sequence[str]) -> Tree | None:
  """Returns the tree of symbols over words; None if it is not one tree over all words.

  Each bracket must be closed by its own label, and hold something.
  """
  open_: list[tuple[str, list[Tree]]] = [('', [])]
  left = iter(words)
  for symbol in symbols:
    if symbol.startswith('(') and len(symbol) > 1:
      open_.append((symbol[1:], []))
    elif symbol.startswith(')') and len(symbol) > 1:
      label, children = open_.pop()
      if label != symbol[1:] or not children or not open_:
        return None
      open_[-1][1].append(Tree(label, tuple(children)))
    else:
      word = next(left, None)
      if word is None:
        return None
      open_[-1][1].append(Tree(symbol, (word,)))
  complete = len(open_) == 1 and len(open_[0][1]) == 1 and next(left, None) is None
  return open_[0][1][0] if complete else None
