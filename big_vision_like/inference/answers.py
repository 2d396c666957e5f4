"""Preprocessing of runs that answer questions, whose inputs are those of `pairs`."""

from big_vision_like.inference import pairs

of_run = pairs.of_run
