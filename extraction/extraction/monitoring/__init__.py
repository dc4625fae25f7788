"""Texts that are generated or read with every token scored, results on disk, and pages of them."""
