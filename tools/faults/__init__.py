"""Faults for `tools/benchmark/faults.py`, a kind of file in each; none is a command."""
