"""Stage 3: vectors fitted to activations, measured on responses they have not seen, and shown."""
