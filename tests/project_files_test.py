"""Tests of version, links, make targets and commands in the project's files."""

import itertools
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest

import big_vision_like
from big_vision_like import commands

REPOSITORY = pathlib.Path(__file__).parent.parent
PAGES = [
  *(REPOSITORY / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((REPOSITORY / 'docs').rglob('*.md')),
]


def test_one_version():
  project = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())
  assert 'version' in project['project']['dynamic']
  where = project['tool']['setuptools']['dynamic']['version']
  assert where == {'attr': 'big_vision_like.__version__'}
  citation = (REPOSITORY / 'CITATION.cff').read_text()
  assert f'\nversion: {big_vision_like.__version__}\n' in citation
  changes = (REPOSITORY / 'CHANGELOG.md').read_text()
  assert f'Version {big_vision_like.__version__} ' in changes


@pytest.mark.parametrize(
  'name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/commands.md']
)
def test_links_and_targets_exist(name):
  file = REPOSITORY / name
  text = file.read_text()
  links = re.findall(r'\]\(([^)#]+)[^)]*\)', text)
  for link in links:
    assert link.startswith('https://') or (file.parent / link).exists(), link
  makefile = (REPOSITORY / 'Makefile').read_text()
  for target in re.findall(r'(?:`|    )make ([a-z-]+)', text):
    assert f'\n{target}:' in makefile, target


def commands_of(text: str) -> Iterator[list[str]]:
  """Yields the words of each command that starts a program or a tool of ours."""
  text = text.replace('\\\n', ' ')
  blocks = '\n'.join(re.findall(r'^(?: {4,}|\t).*$', text, re.MULTILINE))
  quoted = ['\n'.join(re.findall(r'`([^`]+)`', re.sub(r'```', '', text))), blocks]
  for line in '\n'.join(quoted).splitlines():
    found = re.search(r'\b(python (-m big_vision_like|tools/)|bvl [a-z]).*', line)
    if found:
      words = found[0].partition(' | ')[0].partition(' > ')[0]
      yield shlex.split(words, comments=True)


def source_of(words: list[str]) -> tuple[str, list[str]]:
  """Returns the path of the file that a command starts, and the words after it."""
  known = commands.programs() | commands.tools(REPOSITORY)
  if words[0] == 'bvl' or words[2:3] == ['big_vision_like']:
    name, count = commands.chosen(words[1 if words[0] == 'bvl' else 3 :], known)
    started, rest = known[name], words[1 + count :]
    path = started.module.replace('.', '/') + '.py' if started.module else started.file
    return str(path), rest
  if words[1] == '-m':
    return words[2].replace('.', '/') + '.py', words[3:]
  return words[1], words[2:]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.name)
def test_commands_exist_with_their_options(page):
  common = (REPOSITORY / 'big_vision_like' / 'cli.py').read_text()
  common += (REPOSITORY / 'big_vision_like' / 'inference' / 'loading.py').read_text()
  common += (REPOSITORY / 'big_vision_like' / 'devices' / 'processes.py').read_text()
  for words in commands_of(page.read_text()):
    if words == ['python', '-m', 'big_vision_like']:
      continue
    path, rest = source_of(words)
    file = REPOSITORY / path
    assert file.is_file(), f'{page.name}: {shlex.join(words)}: no file {path}'
    source = file.read_text() + common
    own = itertools.takewhile(lambda word: word != '--', rest)
    for word in own:
      flag = re.match(r'--[a-z][\w-]*', word)
      if flag and not word.startswith('--config.') and flag[0] != '--help':
        assert f"'{flag[0]}'" in source, f'{page.name}: {path} has no {flag[0]}'
      if 'mlp_mixer' in word:  # the example of docs/adding_a_model.md
        continue
      if config := re.match(r'(?:--config=)?(configs/[\w/]+\.py)', word):
        assert (REPOSITORY / config[1]).is_file(), f'{page.name}: {config[1]}'


def test_commands_are_found():
  text = (
    'So:\n\n    python tools/x.py a \\\n        --b=c > out  # why\n\n`bvl train --x`'
  )
  assert list(commands_of(text)) == [
    ['bvl', 'train', '--x'],
    ['python', 'tools/x.py', 'a', '--b=c'],
  ]


@pytest.mark.parametrize('name', ['classification', 'detection', 'discovery'])
def test_pictures_of_the_readme_are_small(name):
  assert f'src="docs/{name}.png"' in (REPOSITORY / 'README.md').read_text()
  assert (REPOSITORY / 'docs' / f'{name}.png').stat().st_size < 200_000
