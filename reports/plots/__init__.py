"""The page's plots as places and words: every coordinate is found here, and a template draws it."""
