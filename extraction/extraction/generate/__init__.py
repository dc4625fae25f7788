"""Stage 1: a trait's questions asked under its instructions, by a model here or behind a server."""
