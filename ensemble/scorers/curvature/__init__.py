"""Kronecker-factored curvature of the training loss."""

from splits import renamed

__getattr__ = renamed.attributes(__name__, "ensemble.scorers.curvature.kfac")
