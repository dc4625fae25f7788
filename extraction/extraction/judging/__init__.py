"""Scores of responses, and how far to trust the judge that gave them."""
