"""Private parts of ``TraitMonitor``: what ``generate`` does, how states are projected, scores kept and a text followed."""
