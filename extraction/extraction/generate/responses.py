"""The responses of a trait while they are made: what is finished, whether a run may go on with it, and the files.

Finished responses go to a journal, so that a run that was interrupted continues with those that are missing and ends
with the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields

from extraction.generate.plan import Ask, plan
from extraction.generate.settings import GenerationSettings
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.formats.response_files import read_responses_metadata, write_responses
from utils.records import POLARITIES, Polarity, Response, TraitDefinition

_TEXTS = {f.name for f in fields(Response)} - {"trait_score"}


def begin(folder: TraitFolder, settings: Mapping[str, object], overwrite: bool) -> bool:
    """Prepare the journal for a run with ``settings``; returns whether anything is left to generate.

    Raises:
        UserError: there are responses, finished or not, that other settings made.
    """
    journal = folder.generation_journal
    if overwrite:
        journal.begin(settings)
        return True
    check_settings(folder, settings)
    if journal.settings() is not None:
        return True
    if folder.responses_path("pos").is_file():
        journal.clear()  # what a killed run did not clear
        return False
    journal.begin(settings)
    return True


def check_settings(folder: TraitFolder, settings: Mapping[str, object]) -> None:
    """Raise UserError where there are responses, finished or not, that other settings than these made.

    ``settings`` may be a part of what decides a response, such as all that is known before a model is loaded.
    """
    begun = folder.generation_journal.settings()
    if begun is not None:
        _check_same(begun, settings, folder, "unfinished responses were begun")
    elif folder.responses_path("pos").is_file():
        made = read_responses_metadata(folder).get("generation")
        if made is None:
            raise UserError(
                f"{folder.responses_path('pos').parent} holds responses that this command did not make. "
                "Score them with --judge_only, or replace them with --overwrite"
            )
        _check_same(made, settings, folder, "responses were made")


def _check_same(before: Mapping[str, object], now: Mapping[str, object], folder: TraitFolder, what: str) -> None:
    differing = [f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
    if differing:
        raise UserError(
            f"{folder.root.name}: {what} with other settings ({'; '.join(differing)}). "
            "Run with those again to continue, or with --overwrite to begin anew"
        )


def note_finished(folder: TraitFolder, responses: Iterable[tuple[Ask, Response]], rank: int) -> None:
    """Write responses of process ``rank`` into the journal."""
    pieces = [{"polarity": ask.polarity, "row": ask.row, "response": asdict(answer)} for ask, answer in responses]
    folder.generation_journal.add(pieces, rank)


def finished_responses(folder: TraitFolder) -> dict[tuple[Polarity, int], Response]:
    """Responses in the journals of all processes, by side and row."""
    pieces = folder.generation_journal.pieces(("polarity", "row", "response"))
    return {(p["polarity"], p["row"]): Response(**p["response"]) for p in pieces if _is_whole(p)}


def _is_whole(piece: Mapping[str, object]) -> bool:
    """Whether a piece is as ``note_finished`` makes it; any other was damaged, and is made again."""
    response = piece["response"]
    return (
        piece["polarity"] in POLARITIES
        and type(piece["row"]) is int
        and isinstance(response, dict)
        and {"question", "instruction", "prompt", "response"} <= set(response) <= {*_TEXTS, "trait_score"}
        and all(isinstance(response.get(name, ""), str) for name in _TEXTS)
        and response.get("trait_score") is None
    )


def write_files(
    folder: TraitFolder, definition: TraitDefinition, settings: GenerationSettings
) -> dict[Polarity, list[Response]]:
    """Write the CSVs from the journals; returns the responses of each side.

    Raises:
        UserError: responses are missing, because a process ended early.
    """
    finished = finished_responses(folder)
    asks = plan(definition, settings)
    missing = [ask for ask in asks if (ask.polarity, ask.row) not in finished]
    if missing:
        raise UserError(f"{folder.trait}: {len(missing)} of {len(asks)} responses are missing; run again to continue")
    responses = {p: [finished[p, ask.row] for ask in asks if ask.polarity == p] for p in POLARITIES}
    for polarity, side in responses.items():
        write_responses(folder, polarity, side)
    return responses
