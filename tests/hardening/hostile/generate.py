"""Writes the corpus beside it: hostile inputs of every reader with what became of each.

    python -m tests.hardening.hostile.generate

Candidates are many and drawn with a fixed seed; of those that end alike only a few are kept, so that the corpus holds as
many different ends as were found. Read the difference before committing a new one: an end that changed is a decision.
"""

import base64
import json
import random
import re
import tempfile
import warnings
from pathlib import Path

from tests.hardening.inputs import (
    BINARY_SEEDS,
    JSON_SEEDS,
    JSONL_SEEDS,
    TEXT_SEEDS,
    dumped,
    lines,
    places_of,
    seed,
    spoiled,
)
from tests.hardening.readers import READERS, outcome

FOLDER = Path(__file__).parent
PER_READER = 16
VALUES = [
    None, True, 0, -1, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "\x00", "\ud800", "a/b", "../../x",
    "9" * 400, "NaN", "<script>", "=1+1", "é" * 99, "{question}", [], [[]], [None], {}, {"": {}}, {"messages": []}, "pos", "user",
]  # fmt: skip
PIECES = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"'", b",,,,,", b"{", b"]" * 20, b"[" * 5000, b"9" * 5000,
    b"NaN", b"Infinity", b"1e999", b"\\ud800", b"../../../etc/passwd", b"/etc/passwd", b"CON", b"nul.txt", b"a" * 300, b"..",
    b"<script>alert(1)</script>", b"=cmd|' /C calc'!A0", b"\xc3\x28", "\u202egpj".encode(), "１２".encode(), b"-inf", b"\t",
    b"--", b"--name=../x", b"--count=1e9", b"--count=nan", b"--share=inf", b"--layers=1,x", b"--unknown=1", b"hf://", b"@", b"/",
    b"Score: 1000", b'{"score": 1e400}', b"yes no", b"-5", b"<think>", b"COM1", b"sub/dir", b"~", b"$HOME", b"name\n", b".",
]  # fmt: skip


def candidates(reader, rng):
    """Spoiled inputs of a reader, the same ones each time."""
    whole = seed(reader)
    yield from (b"", b"\x00" * 16, whole)
    value = JSON_SEEDS.get(reader, JSONL_SEEDS.get(reader))
    if value is not None:
        places = list(places_of(value))
        for _ in range(30 if reader.endswith("_reply") else 90):
            bad = spoiled(
                value, rng.choice(places), rng.choice(VALUES), rng.choice(["replace", "replace", "remove", "double"])
            )
            yield lines(*bad) if reader in JSONL_SEEDS and isinstance(bad, list) else dumped(bad)
    for piece in PIECES[: 12 if reader.endswith("_reply") else None]:
        at = rng.randrange(len(whole) + 1)
        yield piece
        yield whole[:at] + piece + whole[at:]
        if reader in TEXT_SEEDS or reader in JSON_SEEDS:
            yield whole + piece
    if reader in BINARY_SEEDS:
        for _ in range(60):
            at, width = rng.randrange(len(whole)), rng.choice([1, 4, 8])
            yield whole[:at] + rng.choice([b"\x00", b"\xff", b"\x80"]) * width + whole[at + width :]
            yield whole[:at]


def ended(reader, data):
    """What became of an input: "read", or the beginning of the message, free of places and of other programs' words."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = outcome(reader, Path(folder), data).replace(folder, "FOLDER")
    return re.sub(r"127\.0\.0\.1:[0-9]+", "SERVER", message).split(" (")[0][:120]


def written(data):
    """Bytes as JSON: as text where they are text."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def read(entry):
    """The bytes of an entry."""
    return entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])


def main():
    for reader in READERS:
        by_end, known = {}, set()
        for data in candidates(reader, random.Random(reader)):
            if data not in known and len(data) < 20_000:
                known.add(data)
                by_end.setdefault(ended(reader, data), []).append(data)
        kept = []
        while len(kept) < PER_READER and any(by_end.values()):
            kept += [(end, group.pop(0)) for end, group in by_end.items() if group][: PER_READER - len(kept)]
        entries = [json.dumps({"ends": end, **written(data)}) for end, data in kept]
        (FOLDER / f"{reader}.jsonl").write_text("\n".join(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
