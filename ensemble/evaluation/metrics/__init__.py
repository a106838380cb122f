"""Statistics of evaluations: correlations, intervals, distances."""
