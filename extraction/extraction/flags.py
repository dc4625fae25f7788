"""Flags of a command line, as they are written and as the values that they stand for."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from inspect import Parameter

from utils.errors import UserError


def normalised(arguments: Sequence[str], parameters: Mapping[str, Parameter]) -> list[str]:
    """The arguments as ``--name=value`` each, which leaves fire nothing to guess.

    Raises:
        UserError: an argument fits no flag.
    """
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        # A value that stands apart from its flag may be a path of other bytes.
        if argument.encode("utf-8", "replace").decode() != argument:
            raise UserError(f"an argument is not text in UTF-8: {argument!r}")
        written, equals, value = argument.partition("=")
        if not written.startswith("-") or written == "-":
            raise UserError(
                f"unexpected argument {written + equals + value!r}: every value needs its flag (see --help)"
            )
        name, is_no = _flag(written, parameters)
        if name in flags:
            raise UserError(f"--{name} is given twice")
        if not equals and parameters[name].annotation is bool:
            value = str(not is_no)
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value (one that begins with -- is written --{name}=VALUE)")
            value = rest.pop(0)
        flags[name] = value
    for name, parameter in parameters.items():
        if parameter.default is Parameter.empty and name not in flags:
            raise UserError(f"--{name} is required (see --help)")
    return [f"--{name}={value}" for name, value in flags.items()]


def _flag(written: str, parameters: Mapping[str, Parameter]) -> tuple[str, bool]:
    """The parameter of ``--batch-size``, ``--batch_size``, ``-b`` or ``--nooverwrite``; and whether it says no."""
    name = written.lstrip("-").replace("-", "_")
    beginning = [n for n in parameters if n.startswith(name)]
    if not written.startswith("--") and len(name) == 1 and len(beginning) == 1:
        return beginning[0], False
    if written.startswith("--") and name in parameters:
        return name, False
    positive = name.removeprefix("no").lstrip("_")
    if name != positive and positive in parameters and parameters[positive].annotation is bool:
        return positive, True
    near = difflib.get_close_matches(name, parameters, n=1)
    raise UserError(f"unknown flag {written}" + (f"; did you mean --{near[0]}?" if near else " (see --help)"))


def value_of(name: str, kind: object, text: str) -> object:
    """The value that ``text`` stands for in a parameter annotated with ``kind``.

    Raises:
        UserError: it stands for none.
    """
    inner = [k for k in typing.get_args(kind) if k is not types.NoneType]
    # Literal[...] | None is a typing.Union, all others are types of their own.
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if not text.strip():  # commands would take it for a flag left out, and do their default unasked
            raise UserError(f"--{name} names nothing, got {text!r:.60}")
        return value_of(name, inner[0], text)
    if typing.get_origin(kind) is list:
        items = [part.strip() for part in text.split(",") if part.strip()]
        if not items:  # some commands would take it for all
            raise UserError(f"--{name} names nothing, got {text!r:.60}")
        return [value_of(name, inner[0], item) for item in items]
    if typing.get_origin(kind) is typing.Literal and text not in inner:
        raise UserError(f"--{name} must be {' or '.join(inner)}, got {text!r}")
    if kind is bool:
        return value_of(name, typing.Literal["True", "False"], text.capitalize()) == "True"
    return _number(name, kind, text) if kind is int or kind is float else text


def _number(name: str, kind: type[int] | type[float], text: str) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 2**63:  # neither NaN nor infinity, nor what no counter holds
        raise UserError(f"--{name} must be a number of type {kind.__name__}, got {text!r:.60}")
    return value
