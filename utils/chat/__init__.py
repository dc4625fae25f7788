"""Servers that answer chat requests: which one, how it is asked, and how its answers are read with suspicion."""
