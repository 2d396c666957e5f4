"""Families of published weights, one in each module; `weights.family` finds them."""
