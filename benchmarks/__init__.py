"""Figures that a reader can print again."""
