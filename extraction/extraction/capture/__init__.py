"""Stage 2: responses read by the model, and their mean activations written layer by layer."""
