"""From seeds, conditions and votes to images: the pipeline and kept queries."""
