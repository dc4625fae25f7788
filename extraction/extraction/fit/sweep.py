"""Fitting and measuring every method at every layer of one trait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch

from extraction.fit.contrast import Contrast
from extraction.fit.measure import clusters, measure, read_layer, span_at
from extraction.fit.results import Control, Measured, Sweep
from extraction.fit.text_controls import bag_of_words_scores
from traitlens.compute import has_both_classes
from traitlens.layers import middle_layer
from traitlens.methods import ExtractionMethod
from traitlens.validation.controls import Chance, feature_control, random_directions, shuffled_labels
from traitlens.validation.cross_validation import Choice, HeldOut, choose, cross_validate
from traitlens.validation.evaluation import auroc, auroc_difference, auroc_interval
from utils.errors import UserError

# Each holds its examples in float64: by their shapes some 0.3 GB at 8,192 dimensions.
_LAYERS_AT_ONCE = 8


def sweep(
    contrast: Contrast,
    methods: Sequence[ExtractionMethod],
    layers: Sequence[int],
    seed: int,
    advance: Callable[[], object],
) -> Sweep:
    """Fit and measure every method at every layer, choose one, and measure the controls beside it.

    Args:
        contrast: the examples.
        methods: what to fit.
        layers: layer numbers.
        seed: for shuffling and random directions.
        advance: called after each layer.

    Raises:
        UserError: a method failed; names it and the layer.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    vectors: list[Measured] = []
    held_out: dict[tuple[str, int], HeldOut] = {}

    def work(layer: int) -> list[tuple[Measured, HeldOut]]:
        states = read_layer(contrast, layer)
        found = []
        for method in methods:
            with _naming(contrast, method, layer):
                found.append(measure(contrast, states, method))
        advance()
        return found

    # The matrices are a few hundred wide: a layer a core, as threads inside a layer spend their time waiting.
    at_once = min(torch.get_num_threads(), _LAYERS_AT_ONCE)
    with threadpool_limits(1), ThreadPoolExecutor(at_once) as pool:
        for layer, found in zip(layers, pool.map(work, layers), strict=True):
            for measured, held in found:
                vectors.append(measured)
                held_out[measured.method, layer] = held
        middle = middle_layer(contrast.file.info.n_layers)
        chosen = choose(held_out, contrast.all_labels, contrast.all_folds, middle, contrast.is_neutral)
        choice = replace(chosen, nested_scores=chosen.nested_scores[~contrast.is_neutral])
        method = next(m for m in methods if m.name == choice.method)
        known = ~choice.nested_scores.isnan()
        if not has_both_classes(contrast.labels[known]):
            return Sweep(vectors, choice, None, [], None, None)
        return Sweep(
            vectors,
            choice,
            auroc_interval(choice.nested_scores, contrast.labels, clusters(contrast)),
            _controls(contrast, method, choice),
            *_chance_levels(contrast, method, choice, seed),
        )


@contextmanager
def _naming(contrast: Contrast, method: ExtractionMethod, layer: int) -> Iterator[None]:
    """Turn a failure of the mathematics into a message that names the method."""
    try:
        yield
    # numpy's LinAlgError is a ValueError, torch's is not
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise UserError(f"{contrast.trait}: {method.name} failed at layer {layer}: {error}") from error


def _controls(contrast: Contrast, method: ExtractionMethod, choice: Choice) -> list[Control]:
    labels, folds = contrast.labels, contrast.folds
    scores = {
        "length": feature_control(contrast.n_response_tokens.log1p(), labels, folds),
        "bag of words": bag_of_words_scores([r.response for r in contrast.responses], labels, folds),
    }
    if choice.layer != 0 and 0 in contrast.file.info.layers:
        with _naming(contrast, method, 0):
            span = span_at(contrast, 0)
            scores["layer 0"] = cross_validate(span, method, contrast.all_folds, nested=False).scores[~span.neutral]
    controls = []
    for name, values in scores.items():
        if has_both_classes(labels[~(values.isnan() | choice.nested_scores.isnan())]):
            advantage = auroc_difference(choice.nested_scores, values, labels, clusters(contrast))
            controls.append(Control(name, auroc(values, labels), advantage))
    return controls


def _chance_levels(
    contrast: Contrast, method: ExtractionMethod, choice: Choice, seed: int
) -> tuple[Chance | None, Chance | None]:
    """Shuffled labels and random directions at the chosen layer."""
    span = span_at(contrast, choice.layer)
    with _naming(contrast, method, choice.layer):
        shuffled = shuffled_labels(span, method, contrast.all_folds, seed=seed)
    return shuffled, random_directions(span, contrast.all_folds, seed=seed)
