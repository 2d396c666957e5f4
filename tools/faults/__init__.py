"""Faults for `tools/benchmark/faults.py`, one kind of files in each module."""
