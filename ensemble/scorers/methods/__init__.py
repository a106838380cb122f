"""Published methods of attribution, those of one family in one file."""
