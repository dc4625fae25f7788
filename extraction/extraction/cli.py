"""How a typed function becomes a command: raw strings, unknown flags refused before any work, mistakes in one line."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import inspect
import logging
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from extraction.distributed import Process, refuse_several_processes
from utils.config import load_credentials
from utils.errors import UserError

logger = logging.getLogger("traitlens")

_NO_ROOM = "Free space there and run the same command again: it continues"
_NO_ACCESS = "Allow it, or name another place (--experiments_dir, --output, TRAITLENS_CACHE for the embedded model)"
_IN_THE_WAY = "Something of another kind has its name: move that away"
_SYSTEM_REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: _NO_ACCESS,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ELOOP: "Its links lead in a circle: mend them",
    errno.ENAMETOOLONG: "Shorten the names",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or ask for less at once",
}


def run_command(command: Callable[..., object], argv: Sequence[str] | None = None, *, splits: bool = False) -> NoReturn:
    """Run ``command`` with the flags in ``argv`` through fire, and end the process.

    Flags are parsed by the annotations of the function's parameters: ``str`` as typed on the command line (fire alone
    would turn ``2025_11_20`` into a number and ``a # b`` into ``a``), ``list[str]`` and ``list[int]`` split at commas.
    A launch of several processes is refused unless the command ``splits`` its work among them.
    Exit status 0 when it went well, 1 with one line on standard error for a foreseeable mistake, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        import fire
    except ModuleNotFoundError as error:
        _fail(f"the package {error.name!r} is missing. Run: pip install -e .")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "urllib3", "filelock", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line would come twice
    try:
        parsers, script = _parsers(command), Path(sys.argv[0]).name
        if {"--help", "-h"} & set(arguments):
            _show(_help(command, script))
            sys.exit(0)
        flags = _normalised(arguments, inspect.signature(command))
        fire.Fire(
            fire.decorators.SetParseFns(**parsers)(_prepared(command, script, splits)), command=flags, name=script
        )
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        _let_go_of_stdout()
        _fail("the reader of the output has ended. Run the same command again: it continues")
    except ModuleNotFoundError as error:
        _fail(f"the package {error.name!r} is missing. Run: pip install -e .")
    except OSError as error:
        if error.errno not in _SYSTEM_REMEDIES:
            raise
        place = error.filename2 or error.filename or "writing a file"  # of a move, where to
        _fail(f"{place}: {error.strerror}. {_SYSTEM_REMEDIES[error.errno]}")
    except KeyboardInterrupt:
        logger.info("interrupted; run the same command again to continue")
        sys.exit(130)
    sys.exit(0)


def _help(command: Callable[..., object], script: str) -> str:
    """The help of a command, in which every value has its flag, as the command wants it."""
    from fire import helptext, trace

    @functools.wraps(command)
    def flags_only(**_: Any) -> None: ...

    signature = inspect.signature(command)
    flags = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    flags_only.__signature__ = signature.replace(parameters=flags)  # type: ignore[attr-defined]
    return str(helptext.HelpText(flags_only, trace.FireTrace(flags_only, name=script)))


def _show(text: str) -> None:
    """Write to standard output, of which ``head`` may want less than all."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    """Send what is still to be written nowhere: Python would complain of the closed pipe as it ends."""
    with contextlib.suppress(OSError, ValueError):  # in place of a terminal there may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> NoReturn:
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(1)


def _prepared(command: Callable[..., object], script: str, splits: bool) -> Callable[..., None]:
    """``command`` with the keys of ``.env`` at hand, and without its return value, which fire would print."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        if not splits:
            refuse_several_processes(script)
        load_credentials()
        command(*args, **kwargs)

    return call


def _normalised(arguments: Sequence[str], signature: inspect.Signature) -> list[str]:
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


def _parsers(command: Callable[..., object]) -> dict[str, Callable[[str], Any]]:
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


def trait_names(trait: str | None, traits: list[str] | None) -> list[str]:
    """The traits named by ``--trait`` and ``--traits`` together; empty means all that the experiment has."""
    return ([trait] if trait else []) + (traits or [])


def for_each_trait(names: Sequence[str], work: Callable[[int], object], *, stop_at_first: bool = False) -> None:
    """Call ``work(i)`` for every trait, going on after a failure unless ``stop_at_first``.

    Raises:
        UserError: some trait failed; each failure was logged, and the message names the traits.
    """
    failures: list[tuple[str, UserError]] = []
    for i, name in enumerate(names):
        try:
            work(i)
        except UserError as error:
            if stop_at_first:
                raise
            failures.append((name, error))
            if len(names) > 1:
                logger.error("%s: %s", name, error)  # noqa: TRY400 - the user's mistake, not ours: no traceback
    if len(failures) == 1 and len(names) == 1:
        raise failures[0][1]
    if failures:
        raise UserError(f"{len(failures)} of {len(names)} traits failed: {', '.join(name for name, _ in failures)}")


def check_range(name: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Raise UserError unless ``value`` is None or within ``low..high``."""
    if value is not None and not low <= value <= high:
        wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"--{name} must be {wanted}, got {value:g}")


@contextlib.contextmanager
def progress_bar(title: str, total: int, process: Process) -> Iterator[Callable[[int], object]]:
    """A function that advances a bar on the terminal; silent in other processes and where there is no terminal."""
    from tqdm import tqdm

    silent = not process.is_main or not sys.stderr.isatty()
    with tqdm(total=total, desc=title, disable=silent, unit="response") as bar:
        yield lambda n: bar.update(n * process.count)
