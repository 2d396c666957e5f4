"""Readers and writers of published weights, as NumPy arrays."""
