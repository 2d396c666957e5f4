"""What all tests of data share."""

import pathlib

import pytest


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path_factory) -> pathlib.Path:
  """A home of its own for each test: what is kept there is not read by others."""
  folder = tmp_path_factory.mktemp('home')
  monkeypatch.setenv('HOME', str(folder))
  return folder
