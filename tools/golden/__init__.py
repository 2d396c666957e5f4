"""Checks of `tools/check_golden.py`, a module for each family; none is a command."""
