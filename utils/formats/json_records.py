"""JSON objects as frozen dataclasses: the types of the fields say what is read and what is written."""

from __future__ import annotations

import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="Record")


@dataclass(frozen=True)
class Record:
    """A JSON object whose known keys are the fields of a subclass.

    A key that may be unknown has None in its type. Without a default it is always written, as null where it is unknown;
    with the default None it is written where it is known. All other keys are kept, and written back unchanged.

    Attributes:
        extra: the keys that the class does not know.
    """

    extra: Mapping[str, object] = field(default_factory=dict, kw_only=True, repr=False)

    @classmethod
    def from_json(cls: type[Kind], value: Mapping[str, object]) -> Kind:
        """The record that a JSON object describes.

        Raises:
            ValueError: a key is missing, or its value has another form; names it.
        """
        hints = _hints(cls)  # type: ignore[arg-type]  # to mypy a class is no key
        missing = [key for key, hint in hints.items() if value.get(key) is None and not _may_be_unknown(hint)]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        known = {key: _read(hint, key, value.get(key)) for key, hint in hints.items()}
        return cls(**known, extra={key: inner for key, inner in value.items() if key not in hints})

    def to_json(self) -> dict[str, object]:
        """The JSON object that describes the record."""
        known = {f.name: (getattr(self, f.name), f.default is MISSING) for f in fields(self) if f.name != "extra"}
        written = {key: _written(value) for key, (value, always) in known.items() if always or value is not None}
        return {**written, **self.extra}


def recorded(kind: type[Kind], figures: DataclassInstance | None) -> Kind | None:
    """The figures of another dataclass with the same fields as a record; None where there are none."""
    return None if figures is None else kind.from_json(asdict(figures))


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that floating point has: JSON has integers of any length."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def shown(value: object) -> str:
    """The beginning of a value, for a message about it."""
    return f"{value!r:.40}"


_FORMS: dict[object, tuple[str, Callable[[object], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: type(value) is int and is_number(value)),
    float: ("a number", is_number),
    object: ("a value", lambda _: True),
    Mapping: ("a JSON object", lambda value: isinstance(value, Mapping)),
    tuple: ("a list", lambda value: isinstance(value, list | tuple)),
}


@functools.cache
def _hints(kind: type[Record]) -> dict[str, object]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.name != "extra"}


def _may_be_unknown(hint: object) -> bool:
    return type(None) in typing.get_args(hint)


def _read(hint: object, key: str, value: object) -> typing.Any:
    """A value in the form that a field has."""
    if value is None and _may_be_unknown(hint):
        return None
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    is_record = isinstance(hint, type) and issubclass(hint, Record)
    words, is_right = _FORMS[Mapping if is_record else typing.get_origin(hint) or hint]
    if not is_right(value):
        raise ValueError(f"{shown(key)} is {shown(value)}, not {words}")
    if is_record:
        return hint.from_json(value)  # type: ignore[attr-defined]
    if isinstance(value, Mapping) and hint is not object:
        return {name: _read(typing.get_args(hint)[1], name, inner) for name, inner in value.items()}
    if isinstance(value, list | tuple) and hint is not object:
        return tuple(_read(typing.get_args(hint)[0], key, inner) for inner in value)
    return value


def _written(value: object) -> object:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _written(inner) for key, inner in value.items()}
    return [_written(inner) for inner in value] if isinstance(value, tuple) else value
