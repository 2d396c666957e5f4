"""Readers and writers of published weights; plain numpy, nothing of ours imported."""
