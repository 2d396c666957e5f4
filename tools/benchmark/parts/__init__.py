"""Modules of the benchmarks; none of them is a command."""
