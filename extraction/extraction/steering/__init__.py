"""Whether adding a vector changes behaviour, told apart from chance."""
