"""Version, links and make targets in the project's files are correct."""

import pathlib
import re
import tomllib

import pytest

import big_vision_like

REPOSITORY = pathlib.Path(__file__).parent.parent


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
  'name', ['CONTRIBUTING.md', 'CHANGELOG.md', 'docs/commands.md']
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
