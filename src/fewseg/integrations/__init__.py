"""fewseg inside other programs."""
