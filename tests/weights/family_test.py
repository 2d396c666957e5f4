"""Tests of made-up families that are found in a package of their own."""

import textwrap

import pytest

from big_vision_like.errors import UserError
from big_vision_like.weights import family

SOURCE = """
family.Source(
  name='a library', suffixes=family.NPZ, differences=lambda names: (set(), set()),
  read=family.of_params(dict),
)
"""
WHOLE = """
from big_vision_like.weights import family

FAMILY = family.Family(
  name='made_up', model=object, sources=(SOURCE,), describe=dict, images=dict,
  stem=('embed',),
)
""".replace('SOURCE', SOURCE.strip())


@pytest.fixture
def scan(tmp_path, monkeypatch):
  """Returns a function that finds the families of a package with these modules."""

  def found(name, **modules):
    (tmp_path / name).mkdir()
    for module, text in modules.items():
      (tmp_path / name / f'{module}.py').write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    return family.families(name)

  return found


def test_a_module_is_all_that_a_family_needs(scan):
  assert scan('whole', made_up=WHOLE).keys() == {'made_up'}


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('nothing', 'FAMILIES = ()', 'nothing/x.py declares no FAMILY = Family'),
    (
      'undescribed',
      WHOLE.replace('describe=dict, ', ''),
      "undescribed/x.py: FAMILY is incomplete: .* argument: 'describe'",
    ),
    (
      'unwritten',
      WHOLE.replace('family.NPZ', "family.TORCH, writes={'timm': dict}"),
      "FAMILY is incomplete: source 'a library' writes for timm without config",
    ),
    ('sourceless', WHOLE.replace(f'({SOURCE.strip()},)', '()'), 'without sources'),
    ('again', WHOLE, "again/x.py: FAMILY has the name 'made_up' of another family"),
    (
      'twice',
      WHOLE.replace('made_up', 'other'),
      r"x.py: FAMILY has a source 'a library', which families_twice/made_up.py al",
    ),
  ],
)
def test_half_a_declaration_is_one_sentence(scan, name, text, message):
  with pytest.raises(UserError, match=message):
    scan(f'families_{name}', made_up=WHOLE, x=text)
