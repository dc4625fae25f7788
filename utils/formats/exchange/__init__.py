"""Forms in which vectors travel: one portable file, and those of other programs."""
