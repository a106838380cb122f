"""One file for each published method of attribution."""
