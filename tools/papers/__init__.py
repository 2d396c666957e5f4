"""Modules of the tools for published tables; none of them is a command."""
