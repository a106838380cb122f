"""Evaluation: how far scores and ablation can be believed.

Before: ensemble/influence.py, ensemble/scoring.py. After: ensemble/report.py.
"""
