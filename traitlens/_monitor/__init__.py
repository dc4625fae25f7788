"""Private parts of ``TraitMonitor``: what ``generate`` does, states projected, scores kept, and a text followed."""
