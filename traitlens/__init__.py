"""Toolkit for extracting trait vectors from a model's activations and reading them token by token."""

from traitlens.activations import ActivationCapture, mean_activations, mean_over_tokens, read_layers
from traitlens.compute import (
    compute_derivative,
    compute_second_derivative,
    cosine_similarity,
    mean_difference,
    normalize_vectors,
    projection,
)
from traitlens.dynamics import Dynamics, analyze_dynamics
from traitlens.hooks import HookManager
from traitlens.layers import LAYER_CONVENTION, find_blocks, hook_point, layer_path, middle_layer, n_layers
from traitlens.methods import (
    METHODS,
    ExtractionMethod,
    ExtractionResult,
    GradientMethod,
    ICAMethod,
    MeanDifferenceMethod,
    ProbeMethod,
    get_method,
)
from traitlens.monitor import TraitMonitor
from traitlens.segments import Segment, prompt_segments, response_segments

__all__ = [
    "LAYER_CONVENTION",
    "METHODS",
    "ActivationCapture",
    "Dynamics",
    "ExtractionMethod",
    "ExtractionResult",
    "GradientMethod",
    "HookManager",
    "ICAMethod",
    "MeanDifferenceMethod",
    "ProbeMethod",
    "Segment",
    "TraitMonitor",
    "analyze_dynamics",
    "compute_derivative",
    "compute_second_derivative",
    "cosine_similarity",
    "find_blocks",
    "get_method",
    "hook_point",
    "layer_path",
    "mean_activations",
    "mean_difference",
    "mean_over_tokens",
    "middle_layer",
    "n_layers",
    "normalize_vectors",
    "projection",
    "prompt_segments",
    "read_layers",
    "response_segments",
]
