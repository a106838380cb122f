"""Denoisers, one by one and as an ensemble, and what may be loaded from a folder."""
