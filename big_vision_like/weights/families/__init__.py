"""Families of published weights, one per module; `weights.family` finds them."""
