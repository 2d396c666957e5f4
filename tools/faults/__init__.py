"""Faults for `tools/benchmark/faults.py`, with one kind of file in each module."""
