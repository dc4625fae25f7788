"""Reading and writing files so that a crash never leaves half of one."""

import contextlib
import glob
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from utils.errors import DamagedFileError, MissingInputError, UserError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; moved onto it when the block ends well, deleted when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the system that name no file, as on a full disk, the name of the one that is written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data``, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends, atomically. A lone surrogate is no character and becomes "?"."""
    write_bytes(path, text.encode("utf-8", "replace"))


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, which the system frees however the process ends.

    Args:
        path: the lock file. It stays, unless the block deletes it.
        busy: what to say where another process holds it.
        wait: say so and wait, instead of raising.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise UserError(busy) from error
        logger.info("%s", busy)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_leftovers_of(path: Path) -> None:
    """Delete what killed processes left of ``replacing(path)``; no other process writes it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        leftover.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left of ``replacing`` below ``folder``, where no other process writes now."""
    for path in folder.rglob(".*.partial"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """The value in a JSON file.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is not UTF-8 JSON.
    """
    text = read_text(path, remedy)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DamagedFileError(path, f"not valid JSON ({error})", remedy) from error


# Escapes of which a lone one is half a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, all of whose numbers are finite and all of whose texts are whole characters.

    Raises:
        ValueError: it is something else; says where or what.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _SURROGATE.search(text if isinstance(text, str) else text.decode("utf-8", "replace")):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a character, a lone surrogate") from error
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def check_output(path: Path) -> None:
    """Raise UserError where ``--output`` names a folder: before the work is done that goes there."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: --output names a file")


def read_text(path: Path, remedy: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; raises as ``read_json`` does."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(path, remedy) from error
    except IsADirectoryError as error:
        raise DamagedFileError(path, "is a folder, not a file", remedy) from error
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, f"not UTF-8 text (byte {error.start})", remedy) from error


def append_jsonl(path: Path, values: Iterable[object]) -> None:
    """Append JSON lines and wait until they are on disk; a crash can tear the last line, which reading skips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("ab") as file:
        file.write(b"\n")  # so that a torn line does not swallow the next one; reading skips empty ones
        # Escaped, because a text out of JSON can hold a lone surrogate, which UTF-8 cannot write.
        file.write("".join(json.dumps(v, allow_nan=False) + "\n" for v in values).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path, keys: Collection[str] = ()) -> list[dict[str, Any]]:
    """The objects of a journal written by ``append_jsonl``. Empty without a file.

    Lines torn by a crash, and those that lack one of ``keys``, are left out: they are no finished work of this journal.
    """
    if not path.is_file():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):  # torn, or not text at all
            value = json.loads(line, parse_constant=_no_number, parse_float=_finite)
            if isinstance(value, dict) and all(key in value for key in keys):
                values.append(value)
    return values


def sha256_of_file(path: Path) -> str:
    """Fingerprint of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):  # hashlib.file_digest needs Python 3.11
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_texts(texts: Iterable[str]) -> str:
    """A fingerprint of a sequence of texts."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
