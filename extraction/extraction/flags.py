"""Flags of a command line, as they are written and as the values that they stand for."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from utils.errors import UserError


def normalised(arguments: Sequence[str], signature: inspect.Signature) -> list[str]:
    """The arguments as ``--name=value`` each, which leaves fire nothing to guess.

    Raises:
        UserError: an argument fits no flag.
    """
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.isprintable() and not argument.encode("utf-8", "replace").decode() == argument:
            raise UserError(f"an argument is not text in UTF-8: {argument!r}")
        if not argument.startswith("-") or argument == "-":
            raise UserError(f"unexpected argument {argument!r}: every value needs its flag (see --help)")
        written, equals, value = argument.partition("=")
        name = _flag_name(written, signature)
        if name in flags:
            raise UserError(f"--{name} is given twice")
        if not equals and _is_bool(signature, name):
            value = str(written == f"-{name[0]}" or written.replace("-", "_") == f"__{name}")
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value (one that begins with -- is written --{name}=VALUE)")
            value = rest.pop(0)
        flags[name] = value
    for name, parameter in signature.parameters.items():
        if parameter.default is parameter.empty and name not in flags:
            raise UserError(f"--{name} is required (see --help)")
    return [f"--{name}={value}" for name, value in flags.items()]


def _flag_name(written: str, signature: inspect.Signature) -> str:
    """The parameter that a flag stands for: ``--batch-size``, ``--batch_size``, ``--nooverwrite`` or ``-b``."""
    names = list(signature.parameters)
    name = written.lstrip("-").replace("-", "_")
    if not written.startswith("--"):
        beginning = [n for n in names if n.startswith(name)]
        if len(name) == 1 and len(beginning) == 1:
            return beginning[0]
        raise UserError(f"unknown flag {written} (see --help)")
    if name in names:
        return name
    if name.startswith("no") and _is_bool(signature, name[2:]):
        return name[2:]
    near = difflib.get_close_matches(name, names, n=1)
    raise UserError(f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else " (see --help)"))


def _is_bool(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.annotation in (bool, "bool")


def parsers_of(command: Callable[..., object]) -> dict[str, Callable[[str], Any]]:
    """One parser per parameter, by its annotation."""
    hints = typing.get_type_hints(command)
    return {name: _parser(name, hints[name]) for name in inspect.signature(command).parameters}


def _parser(name: str, annotation: Any) -> Callable[[str], Any]:
    # Literal[...] | None is a typing.Union, all others are types of their own.
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = typing.get_args(annotation) if is_union else (annotation,)
    kind = next(k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is list:
        item = _parser(name, typing.get_args(kind)[0])
        return _items(name, item)
    if typing.get_origin(kind) is typing.Literal:
        return _one_of(name, typing.get_args(kind))
    if kind is bool:
        return lambda text: _one_of(name, ("True", "False"))(text.capitalize()) == "True"
    if kind in (int, float):
        return _number(name, kind)
    return functools.partial(_named, name) if len(kinds) > 1 else str


def _named(name: str, text: str) -> str:
    """A text that may be left out but not be empty: commands would do their default unasked, such as all traits."""
    if not text.strip():
        raise UserError(f"--{name} names nothing, got {text!r:.60}")
    return text


def _items(name: str, item: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        items = [item(part.strip()) for part in text.split(",") if part.strip()]
        if not items:  # an empty list would be read as "all" by some commands
            raise UserError(f"--{name} names nothing, got {text!r:.60}")
        return items

    return parse


def _one_of(name: str, choices: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise UserError(f"--{name} must be {' or '.join(choices)}, got {text!r}")
        return text

    return parse


def _number(name: str, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not abs(value) < 2**63:  # neither NaN nor infinity, nor what no counter holds
            raise UserError(f"--{name} must be a number of type {kind.__name__}, got {text!r:.60}")
        return value

    return parse
