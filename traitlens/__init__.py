"""Toolkit for extracting trait vectors from a model's activations and reading them token by token."""

from traitlens.activations import ActivationCapture, mean_activations
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
from traitlens.layers import find_blocks, hook_point, layer_path, middle_layer, n_layers
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
from traitlens.span import ContrastSpan
from traitlens.steering import DoseResponse, add_steering_hook, dose_response
from traitlens.validation.calibration import Calibration, NeutralScale, calibrate, midpoint_baseline, neutral_scale
from traitlens.validation.controls import Chance, feature_control, random_directions, shuffled_labels
from traitlens.validation.cross_validation import Choice, HeldOut, choose, cross_validate
from traitlens.validation.evaluation import Interval, Metrics, auroc, auroc_difference, auroc_interval, evaluate
from traitlens.validation.folds import Folds, make_folds

__all__ = [
    "METHODS",
    "ActivationCapture",
    "Calibration",
    "Chance",
    "Choice",
    "ContrastSpan",
    "DoseResponse",
    "Dynamics",
    "ExtractionMethod",
    "ExtractionResult",
    "Folds",
    "GradientMethod",
    "HeldOut",
    "HookManager",
    "ICAMethod",
    "Interval",
    "MeanDifferenceMethod",
    "Metrics",
    "NeutralScale",
    "ProbeMethod",
    "Segment",
    "TraitMonitor",
    "add_steering_hook",
    "analyze_dynamics",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "calibrate",
    "choose",
    "compute_derivative",
    "compute_second_derivative",
    "cosine_similarity",
    "cross_validate",
    "dose_response",
    "evaluate",
    "feature_control",
    "find_blocks",
    "get_method",
    "hook_point",
    "layer_path",
    "make_folds",
    "mean_activations",
    "mean_difference",
    "middle_layer",
    "midpoint_baseline",
    "n_layers",
    "neutral_scale",
    "normalize_vectors",
    "projection",
    "prompt_segments",
    "random_directions",
    "response_segments",
    "shuffled_labels",
]
