"""Vectors that travel: to and from one portable file, other engines, other tools and the Hub."""
