"""What a run is made of: images, sources, codes; how a run grows and what was removed."""
