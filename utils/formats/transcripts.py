"""Prompts to answer and texts to read, out of files: plain lines, CSV, JSON and JSON lines, chats in OpenAI's form."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DamagedFileError, UserError
from utils.formats.files import parse_json, read_json, read_text
from utils.prompts import Message

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PROMPTS_REMEDY = "Give one prompt per line, or JSON: a list of prompts, or of objects with a prompt or messages"
_TEXTS_REMEDY = "Give a CSV, JSON or JSONL file of rows with prompt and response, or of chats with messages"


@dataclass(frozen=True)
class Transcript:
    """A conversation up to the assistant's turn, and that turn where it is known.

    Attributes:
        messages: ``{"role", "content"}`` each; roles are system, user and assistant.
        response: what the assistant said, None where it has yet to be generated.
    """

    messages: tuple[Message, ...]
    response: str | None = None

    @property
    def prompt(self) -> str:
        """What was asked: the user's message, or all messages with their roles where there are several."""
        if len(self.messages) == 1:
            return self.messages[0]["content"]
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.messages)

    @property
    def turn(self) -> int:
        """Number of the user message that is answered, from 1."""
        return sum(m["role"] == "user" for m in self.messages)


def asking(prompt: str) -> Transcript:
    """The transcript of one question."""
    return Transcript(({"role": "user", "content": prompt},))


def prompts_of(text: str) -> list[Transcript]:
    """The prompts in a command-line value: the text itself, or several as a JSON list of texts.

    >>> [t.prompt for t in prompts_of("Hi, you")], [t.prompt for t in prompts_of('["a", "b"]')]
    (['Hi, you'], ['a', 'b'])
    """
    if text.lstrip().startswith("["):
        try:
            values = parse_json(text)
        except ValueError:
            return [asking(text)]
        if isinstance(values, list) and values and all(isinstance(v, str) for v in values):
            return [asking(value) for value in values]
    return [asking(text)]


def read_prompts(path: Path) -> list[Transcript]:
    """The prompts of a file: one per line that is not empty, or JSON, JSONL or CSV by the file's ending.

    Raises:
        MissingInputError, DamagedFileError: no such file, or a row that holds no prompt.
    """
    if path.suffix.lower() in (".json", ".jsonl", ".csv"):
        found = [_prompt_of(path, place, row) for place, row in _rows(path, _PROMPTS_REMEDY)]
    else:
        found = [
            asking(line.strip()) for line in re.split(r"\r\n|\r|\n", read_text(path, _PROMPTS_REMEDY)) if line.strip()
        ]
    if not found:
        raise DamagedFileError(path, "holds no prompts", _PROMPTS_REMEDY)
    return found


def read_texts(path: Path) -> list[Transcript]:
    """The texts of a file with what came before them: rows of prompt and response, and every assistant turn of chats.

    Raises:
        MissingInputError, DamagedFileError: no such file, or a row that is neither.
    """
    found = [transcript for place, row in _rows(path, _TEXTS_REMEDY) for transcript in _texts_of(path, place, row)]
    if not found:
        raise DamagedFileError(path, "holds no responses", _TEXTS_REMEDY)
    return found


def _rows(path: Path, remedy: str) -> Iterator[tuple[str, object]]:
    """The rows of a file, each with a name for messages about it."""
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _csv_rows(path, remedy)
    elif kind == ".jsonl":
        for number, line in enumerate(read_text(path, remedy).split("\n"), start=1):
            if line.strip():
                try:
                    yield f"line {number}", parse_json(line)
                except ValueError as error:
                    raise DamagedFileError(path, f"line {number} is not JSON ({error})", remedy) from error
    elif kind == ".json":
        value = read_json(path, remedy)
        if isinstance(value, dict) and isinstance(value.get("prompts"), list):
            value = value["prompts"]
        items = value if isinstance(value, list) else [value]
        yield from ((f"entry {i}", item) for i, item in enumerate(items, start=1))
    else:
        raise UserError(f"{path}: cannot tell the format from the ending {kind!r}. {remedy}")


def _csv_rows(path: Path, remedy: str) -> Iterator[tuple[str, object]]:
    text = read_text(path, remedy)
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell may be as long as it likes
    try:
        # Strict, so that a file that was cut inside a text is not read as if the text were shorter.
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), start=1):
            if any(row.get(None) or ()):  # cells that no column is named for
                problem = f"row {number} has more cells than the header: put texts with commas in quotation marks"
                raise DamagedFileError(path, problem, remedy)
            yield f"row {number}", row
    except csv.Error as error:
        cut = ": it ends inside a text" if "end of data" in str(error) else ""
        raise DamagedFileError(path, f"not a CSV table ({error}){cut}", remedy) from error


def _prompt_of(path: Path, place: str, row: object) -> Transcript:
    if isinstance(row, str) and row.strip():
        return asking(row)
    messages = _messages_of(path, place, row, _PROMPTS_REMEDY)
    if messages[-1]["role"] != "user":
        raise DamagedFileError(path, f"{place}: the last message must be the user's", _PROMPTS_REMEDY)
    return Transcript(tuple(messages))


def _texts_of(path: Path, place: str, row: object) -> list[Transcript]:
    messages = _messages_of(path, place, row, _TEXTS_REMEDY)
    if isinstance(row, dict) and row.get("messages") is None:
        response = row.get("response")
        if not isinstance(response, str):
            raise DamagedFileError(path, f"{place} has no text under 'response'", _TEXTS_REMEDY)
        return [Transcript(tuple(messages), response)]
    return [
        Transcript(tuple(messages[:i]), message["content"])
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and message["content"]  # a bare tool call says nothing
    ]


def _messages_of(path: Path, place: str, row: object, remedy: str) -> list[Message]:
    """The messages of a row: its chat, or its question or prompt as the user's message."""
    if not isinstance(row, dict):
        raise DamagedFileError(path, f"{place} is {type(row).__name__}, not an object", remedy)
    given = next((row[key] for key in ("messages", "question", "prompt") if row.get(key) is not None), None)
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise DamagedFileError(path, f"{place} has neither a text under 'prompt' nor 'messages'", remedy)
    messages = [_message(path, place, message, remedy) for message in given]
    speakers = [m["role"] for m in messages if m["role"] != "system"]
    if not speakers or speakers[0] != "user":
        raise DamagedFileError(path, f"{place}: a chat must begin with the user (after a system message)", remedy)
    return messages


def _message(path: Path, place: str, message: object, remedy: str) -> Message:
    given = message if isinstance(message, dict) else {"role": type(message).__name__}
    found, content = given.get("role"), given.get("content")
    role = _ROLES.get(str(found))
    if role is None:
        raise DamagedFileError(path, f"{place}: a message's role must be {', '.join(_ROLES)}, found {found!r}", remedy)
    if isinstance(content, list):  # parts; those that are not text cannot be read
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(content):
            raise DamagedFileError(path, f"{place}: a message has parts that are not text", remedy)
        content = "".join(map(str, texts))
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise DamagedFileError(path, f"{place}: a message has no text under 'content'", remedy)
    return {"role": role, "content": content}
