"""Private parts of ``TraitMonitor``: how ``generate`` is understood, states projected, and scores recorded."""
