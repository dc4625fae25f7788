"""Kinds of judge, and how what one says becomes a number."""
