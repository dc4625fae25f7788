"""From a name to a loaded model, what it generates, and whether a vector is of it."""

from utils.models.compatibility import documented_layer, same_model
from utils.models.embedded import EMBEDDED_MODEL
from utils.models.load import LoadedModel, load_model, model_of_experiment, model_path

__all__ = [
    "EMBEDDED_MODEL",
    "LoadedModel",
    "documented_layer",
    "load_model",
    "model_of_experiment",
    "model_path",
    "same_model",
]
