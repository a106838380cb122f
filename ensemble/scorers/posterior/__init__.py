"""Scores corrected by what the members measured."""

from splits import renamed

__getattr__ = renamed.attributes(__name__, "ensemble.scorers.posterior.posterior")
