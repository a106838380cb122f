"""What must be true for an ablation to be exact, checked part by part."""

from splits import renamed

__getattr__ = renamed.attributes(__name__, "ensemble.certificate.certificate")
