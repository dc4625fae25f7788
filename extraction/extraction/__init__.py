"""The pipeline behind the numbered commands: responses, activations, vectors."""
