"""The form that the figures in a vector's metadata must have: vectors from elsewhere bring their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def check_figures(metadata: Mapping[str, Any]) -> None:
    """Check what other modules read of a vector's metadata. All of it may be unknown: absent or None.

    Raises:
        ValueError: something has the wrong form; names it.
    """
    metrics, choice, controls = (_object(metadata, key) for key in ("metrics", "choice", "controls"))
    _check(metadata, "threshold", is_number, "a number")
    _check(metadata, "responses_from", _is_text, "a text")
    _check(metrics, "auroc", _is_interval, "an interval")
    for key in ("n_pos", "n_neg"):
        _check(metrics, key, _is_count, "a count")
    _check(choice, "auroc", _is_interval, "an interval")
    _check(choice, "warnings", _are_texts, "a list of texts")
    for name in controls:
        control = _object(controls, name)
        for key in ("auroc", "mean"):
            _check(control, key, is_number, "a number")


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that floating point has: JSON has integers of any length."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def shown(value: object) -> str:
    """The beginning of a value, for a message about it."""
    return f"{value!r:.40}"


def _object(owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    _check(owner, key, lambda value: isinstance(value, dict), "a JSON object")
    return owner.get(key) or {}


def _check(owner: Mapping[str, Any], key: str, is_right: Callable[[object], bool], wanted: str) -> None:
    value = owner.get(key)
    if value is not None and not is_right(value):
        raise ValueError(f"{shown(key)} is {shown(value)}, not {wanted}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_interval(value: object) -> bool:
    return isinstance(value, dict) and all(is_number(value.get(key)) for key in ("value", "low", "high"))
