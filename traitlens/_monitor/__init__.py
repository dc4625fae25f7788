"""Private parts of ``TraitMonitor``: how ``generate`` is understood, states are projected, scores are kept, and a text is followed."""
