"""Reading and writing files so that a crash never leaves half of one."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import DamagedFileError, MissingInputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; moved onto it when the block ends well, deleted when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with Unix line ends, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
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
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        raise DamagedFileError(path, problem, remedy) from error
    except RecursionError as error:
        raise DamagedFileError(path, "JSON nested too deeply", remedy) from error


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


def append_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Append JSON lines and wait until they are on disk; a crash can tear the last line, which reading skips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if file.tell() > 0 and not _ends_with_newline(path):
            file.write(b"\n")  # so that a torn line does not swallow the next one
        file.write("".join(json.dumps(v, ensure_ascii=False, allow_nan=False) + "\n" for v in values).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_jsonl(path: Path) -> list[Any]:
    """The values of a journal written by ``append_jsonl``; lines torn by a crash are left out. Empty without a file."""
    if not path.is_file():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):  # a torn line was never finished work
            values.append(json.loads(line))
    return values


def sha256_of_texts(texts: Iterable[str]) -> str:
    """A fingerprint of a sequence of texts."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
