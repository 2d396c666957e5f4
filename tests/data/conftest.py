"""Shared fixtures of the tests of data."""

import pathlib

import pytest


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path_factory) -> pathlib.Path:
  """Sets a separate home for each test, so that no test reads the cache of another."""
  folder = tmp_path_factory.mktemp('home')
  monkeypatch.setenv('HOME', str(folder))
  return folder
