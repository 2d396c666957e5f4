"""Checks of prose that a program can make: docstrings and worn phrases."""

import ast
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('big_vision_like', 'configs', 'tools', 'tests')
# First words that end like verbs in the third person, but are none.
NO_VERBS = {'As', 'Class', 'Does', 'Is', 'Its', 'This', 'Whose'}
# Phrases that read as translated, and a better choice for each.
PHRASES = {
  'anew': 'again',
  'are told': 'are given',
  'dear': 'expensive',
  'dearest': 'most expensive',
  'goes on': 'continues, resumes',
  'has gone': 'was removed',
  'in turns': 'interleaved',
  'is said': 'is reported',
  'is told': 'is given',
  'lies in': 'is stored in',
  'so many': 'N, the number of',
  'takes turns': 'alternates',
  'what is': 'the name of the thing',
}


def functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
  """Yields line and docstring of each function that is not a property."""
  for node in ast.walk(tree):
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      continue
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    text = ast.get_docstring(node)
    if text and not any(name.endswith('property') for name in decorators):
      yield node.lineno, text


def starts_with_verb(text: str) -> bool:
  """Returns whether a docstring starts like `Returns ...` or `Raises ...`."""
  first = re.match(r'[A-Z][\w-]*', text)
  return bool(first) and first[0].endswith('s') and first[0] not in NO_VERBS


def prose(source: str) -> str:
  """Returns comments and docstrings of a file in one line, without quoted code."""
  parts = [
    token.string.lstrip('# ')
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  ]
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
      parts.append(ast.get_docstring(node) or '')
  return plain(' '.join(parts))


def plain(text: str) -> str:
  """Returns text in one line, without code in backticks and without links."""
  text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)', ' ', text, flags=re.DOTALL)
  return ' '.join(text.split()).lower()


def worn(text: str) -> list[str]:
  """Returns the phrases in a text that should be replaced."""
  return [phrase for phrase in PHRASES if re.search(rf'\b{phrase}\b', text)]


@pytest.mark.parametrize('folder', FOLDERS)
def test_docstrings_of_functions_start_with_a_verb(folder):
  wrong = [
    f'{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}'
    for path in sorted((ROOT / folder).rglob('*.py'))
    for line, text in functions(ast.parse(path.read_text()))
    if not starts_with_verb(text)
  ]
  assert not wrong


@pytest.mark.parametrize('folder', FOLDERS)
def test_code_has_no_worn_phrases(folder):
  found = {
    str(path.relative_to(ROOT)): phrases
    for path in sorted((ROOT / folder).rglob('*.py'))
    if (phrases := worn(prose(path.read_text())))
  }
  assert not found


def test_pages_have_no_worn_phrases():
  pages = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')]
  assert pages
  found = {
    str(path.relative_to(ROOT)): phrases
    for path in pages
    if (phrases := worn(plain(path.read_text())))
  }
  assert not found


def test_what_is_found():
  source = 'def f():\n  """Of all images the mean."""\n  return 1  # it goes on\n'
  [(line, text)] = functions(ast.parse(source))
  assert line == 1 and not starts_with_verb(text)
  assert starts_with_verb('Returns the mean of all images.')
  assert worn(prose(source)) == ['goes on']
  assert not worn(prose('x = 1  # as `goes on` says\n'))
