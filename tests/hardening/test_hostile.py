"""The corpus of hostile inputs: each ends as it is written beside it."""

import json

import pytest

from .hostile.generate import FOLDER, ended, read
from .readers import READERS

CORPUS = {
    reader: [json.loads(line) for line in (FOLDER / f"{reader}.jsonl").read_text(encoding="utf-8").splitlines()]
    for reader in READERS
}


def test_the_corpus_holds_five_hundred_inputs_of_all_readers_that_end_in_many_ways():
    assert sum(map(len, CORPUS.values())) >= 500
    assert len({(reader, read(e)) for reader, entries in CORPUS.items() for e in entries}) >= 500
    assert len({e["ends"] for entries in CORPUS.values() for e in entries}) >= 100


@pytest.mark.parametrize("reader", sorted(READERS))
def test_hostile_inputs_end_as_they_are_known_to(reader):
    assert CORPUS[reader]
    for entry in CORPUS[reader]:
        assert ended(reader, read(entry)) == entry["ends"], entry
