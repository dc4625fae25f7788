"""How a typed function becomes a command: raw strings, unknown flags refused before any work, mistakes in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from extraction.distributed import Process, refuse_several_processes
from extraction.flags import normalised, value_of
from utils.config import load_credentials
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.terminal import without_controls

logger = logging.getLogger("traitlens")

_SYSTEM_REMEDIES = {
    "Free space there and run the same command again: it continues": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Allow it, or name another place (--experiments_dir, --output, TRAITLENS_CACHE for the embedded model)": (
        errno.EACCES, errno.EPERM, errno.EROFS,
    ),
    "Something of another kind has its name: move that away": (errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    "Its links lead in a circle: mend them": (errno.ELOOP,),
    "Shorten the names": (errno.ENAMETOOLONG,),
    "Raise the limit of open files (ulimit -n), or ask for less at once": (errno.EMFILE,),
}  # fmt: skip
_CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "urllib3", "filelock", "asyncio")


def run_command(command: Callable[..., None], argv: Sequence[str] | None = None, *, splits: bool = False) -> NoReturn:
    """Run ``command`` with the flags in ``argv`` through fire, and end the process.

    Flags are parsed by the annotations of the function's parameters: ``str`` as typed on the command line (fire alone
    would turn ``2025_11_20`` into a number and ``a # b`` into ``a``), ``list[str]`` and ``list[int]`` split at commas.
    Where the function takes a dataclass of settings, its fields are the flags and its docstring is the help.
    A launch of several processes is refused unless the command ``splits`` its work among them.
    Exit status 0 when it went well, 1 with one line on standard error for a foreseeable mistake, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    asks_for_help = bool({"--help", "-h"} & set(arguments))
    _set_up_logging()
    try:
        _run(command, arguments, asks_for_help, splits)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        _let_go_of_stdout()
        if not asks_for_help:  # of which "head" may want less than all
            _fail("the reader of the output has ended. Run the same command again: it continues")
    except ModuleNotFoundError as error:
        _fail(f"the package {error.name!r} is missing. Run: pip install -e .")
    except OSError as error:
        remedy = next((remedy for remedy, numbers in _SYSTEM_REMEDIES.items() if error.errno in numbers), None)
        if remedy is None:
            raise
        place = error.filename2 or error.filename or "writing a file"  # of a move, where to
        _fail(f"{place}: {error.strerror}. {remedy}")
    except KeyboardInterrupt:
        logger.info("interrupted; run the same command again to continue")
        sys.exit(130)
    sys.exit(0)


def _run(command: Callable[..., None], arguments: Sequence[str], asks_for_help: bool, splits: bool) -> None:
    import fire

    command = _of_flags(command)
    script, signature = Path(sys.argv[0]).name, inspect.signature(command, eval_str=True)
    # Without positional parameters fire's help shows each with its flag, as the command wants it.
    described = inspect.getdoc(command) or ""
    in_order = sorted(signature.parameters.values(), key=lambda p: described.find(f"\n    {p.name}: "))
    flags_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in in_order]
    command.__signature__ = signature.replace(parameters=flags_only)  # type: ignore[attr-defined]
    if asks_for_help:
        sys.stdout.write(fire.helptext.HelpText(command, fire.trace.FireTrace(command, name=script)) + "\n")
        return
    flags = normalised(arguments, signature.parameters)
    if not splits:
        refuse_several_processes(script)
    load_credentials()
    parsers = {name: functools.partial(value_of, name, p.annotation) for name, p in signature.parameters.items()}
    fire.Fire(fire.decorators.SetParseFns(**parsers)(command), command=flags, name=script)


def _of_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command as a function of its flags, where it is one of settings."""
    settings = next(iter(inspect.get_annotations(command, eval_str=True).values()), None)
    if not (isinstance(settings, type) and dataclasses.is_dataclass(settings)):
        return command

    def of_flags(**flags: object) -> None:
        command(settings(**flags))

    of_flags.__doc__ = settings.__doc__
    of_flags.__signature__ = inspect.signature(settings, eval_str=True)  # type: ignore[attr-defined]
    return of_flags


def _set_up_logging() -> None:
    """Lines on standard error, in which words of servers, files and models cannot command the terminal."""
    logging.setLogRecordFactory(_Record)  # for the handlers of libraries too
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own: each line would come twice


class _Record(logging.LogRecord):
    """A record whose words cannot command the terminal."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The message, in which what would command the terminal is replaced."""
        return without_controls(super().getMessage())


def _let_go_of_stdout() -> None:
    """Send what is still to be written nowhere: Python would complain of the closed pipe as it ends."""
    with contextlib.suppress(OSError, ValueError):  # in place of a terminal there may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> NoReturn:
    sys.stderr.write("error: " + without_controls(" ".join(message.split())) + "\n")
    sys.exit(1)


def for_each_trait(
    folders: Sequence[TraitFolder], work: Callable[[TraitFolder], object], *, stop_at_first: bool = False
) -> None:
    """Call ``work`` for every trait's folder, going on after a failure unless ``stop_at_first``.

    Raises:
        UserError: some trait failed; each failure was logged, and the message names the traits.
    """
    failed: list[str] = []
    for folder in folders:
        try:
            work(folder)
        except UserError as error:
            if stop_at_first or len(folders) == 1:
                raise
            failed.append(folder.trait)
            logger.error("%s: %s", folder.trait, error)  # noqa: TRY400 - the user's mistake, not ours: no traceback
    if failed:
        raise UserError(f"{len(failed)} of {len(folders)} traits failed: {', '.join(failed)}")


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
