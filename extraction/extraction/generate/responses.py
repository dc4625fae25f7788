"""Stage 1: ask the trait's questions under its instructions and keep the answers.

Every trait has one plan: each question under each instruction of each side, and once without any for neutral text. The
plan is cut into batches of prompts of similar length, each with a seed of its own. Finished batches go to a journal,
so that a run that was interrupted continues with the batches that are missing and ends with the same files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from extraction.distributed import Process
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.formats.files import append_jsonl, read_jsonl, sha256_of_texts
from utils.formats.response_files import read_responses_metadata, write_responses
from utils.models.generation import Generated, Sampling, derived_seed, generate_batch, halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, format_prompt, template_hash
from utils.records import POLARITIES, Polarity, Response, TraitDefinition

logger = logging.getLogger(__name__)

JOURNAL = "generated"


@dataclass(frozen=True)
class Ask:
    """One planned response: its side, its row in that side's file, and what is asked."""

    polarity: Polarity
    row: int
    question: str
    instruction: str


@dataclass(frozen=True)
class GenerationSettings:
    """What decides the text of the responses, besides the model and the definition."""

    sampling: Sampling
    batch_size: int = 64
    seed: int = 0
    n_questions: int | None = None
    n_instructions: int | None = None


def plan(definition: TraitDefinition, settings: GenerationSettings) -> list[Ask]:
    """All responses to make, side by side in the order of the files: by instruction, then by question."""
    questions = definition.questions[: settings.n_questions]
    pairs = definition.instruction[: settings.n_instructions]
    instructions: dict[Polarity, list[str]] = {
        "pos": [p.pos for p in pairs], "neg": [p.neg for p in pairs], "neutral": [""]
    }  # fmt: skip
    return [
        Ask(polarity, row, question, instruction)
        for polarity in POLARITIES
        for row, (instruction, question) in enumerate((i, q) for i in instructions[polarity] for q in questions)
    ]


def fingerprint(definition: TraitDefinition, settings: GenerationSettings, source: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share for one to continue the other, as JSON values."""
    texts = [t for pair in definition.instruction for t in (pair.pos, pair.neg)] + list(definition.questions)
    return {**source, **asdict(settings), "definition_sha256": sha256_of_texts(texts)}


def source_of(loaded: LoadedModel) -> dict[str, Any]:
    """Where responses come from: the model as far as it decides their text."""
    return {
        "model": loaded.name,
        "revision": loaded.revision,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "template_hash": template_hash(loaded.tokenizer),
    }


def generate_responses(
    folder: TraitFolder,
    definition: TraitDefinition,
    loaded: LoadedModel,
    settings: GenerationSettings,
    process: Process,
    progress: Callable[[int], object],
) -> None:
    """Generate this process's share of the missing responses into the journal.

    Args:
        folder: the trait's files.
        definition: what to ask.
        loaded: the model that answers.
        settings: sampling, batches and seed.
        process: this process among those of the launch.
        progress: called with the number of responses made, batch by batch.
    """
    asks = plan(definition, settings)
    prompts = [format_prompt(loaded.tokenizer, ask.question, ask.instruction) for ask in asks]
    ids = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts]
    batches = _batches([len(i) for i in ids], settings.batch_size)
    journal = folder.journal_path(f"{JOURNAL}.{process.rank}")
    done = finished_rows(folder)
    for number, batch in process.mine(enumerate(batches)):
        if all((asks[i].polarity, asks[i].row) in done for i in batch):
            progress(len(batch))
            continue
        seed = derived_seed(settings.seed, definition.trait, number)
        answers = halving_on_out_of_memory(
            lambda part, seed=seed: generate_batch(  # type: ignore[misc]
                loaded, [ids[i] for i in part], settings.sampling, derived_seed(seed, part[0])
            ),
            batch,
        )
        append_jsonl(journal, [_entry(asks[i], prompts[i], a, loaded) for i, a in zip(batch, answers, strict=True)])
        progress(len(batch))


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first: memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _entry(ask: Ask, prompt: str, answer: Generated, loaded: LoadedModel) -> dict[str, Any]:
    # Special tokens inside an answer are dropped: another tokeniser run over the CSV's text could not restore them.
    text = loaded.tokenizer.decode(answer.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return {
        "polarity": ask.polarity,
        "row": ask.row,
        "response": asdict(
            Response(ask.question, ask.instruction, prompt, text.strip(), finish_reason=answer.finish_reason)
        ),
    }


def begin_journal(folder: TraitFolder, settings: dict[str, Any], overwrite: bool) -> bool:
    """Prepare the journal for a run with ``settings``; returns whether anything is left to generate.

    Raises:
        UserError: there are responses, finished or not, that other settings made.
    """
    if overwrite:
        clear_journal(folder)
    else:
        check_settings(folder, settings)
    if read_jsonl(folder.generation_header_path):
        return True
    finished = not overwrite and folder.responses_path("pos").is_file()
    clear_journal(folder)  # rows that no header vouches for, or what a killed run did not clear
    if not finished:
        append_jsonl(folder.generation_header_path, [settings])
    return not finished


def check_settings(folder: TraitFolder, settings: dict[str, Any]) -> None:
    """Raise UserError where there are responses, finished or not, that other settings than these made.

    ``settings`` may be a part of what decides a response, such as all that is known before a model is loaded.
    """
    begun = read_jsonl(folder.generation_header_path)
    if begun:
        _check_same(begun[0], settings, folder, "unfinished responses were begun")
    elif folder.responses_path("pos").is_file():
        made = read_responses_metadata(folder).get("generation")
        if made is None:
            raise UserError(
                f"{folder.responses_path('pos').parent} holds responses that this command did not make. "
                "Score them with --judge_only, or replace them with --overwrite"
            )
        _check_same(made, settings, folder, "responses were made")


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: TraitFolder, what: str) -> None:
    differing = [f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in now if before.get(key) != now.get(key)]
    if differing:
        raise UserError(
            f"{folder.root.name}: {what} with other settings ({'; '.join(differing)}). "
            "Run with those again to continue, or with --overwrite to begin anew"
        )


def finished_rows(folder: TraitFolder) -> dict[tuple[Polarity, int], Response]:
    """Responses in the journals of all processes, by side and row."""
    keys = ("polarity", "row", "response")
    entries = [entry for path in folder.journal_paths(f"{JOURNAL}.") for entry in read_jsonl(path, keys)]
    return {(e["polarity"], e["row"]): Response(**e["response"]) for e in entries if _is_whole(e)}


def _is_whole(entry: dict[str, Any]) -> bool:
    """Whether a journal's entry is as ``_entry`` makes it; any other was damaged, and is made again."""
    response = entry["response"]
    texts = {"question", "instruction", "prompt", "response", "judge_method", "finish_reason"}
    return (
        entry["polarity"] in POLARITIES
        and type(entry["row"]) is int
        and isinstance(response, dict)
        and {"question", "instruction", "prompt", "response"} <= set(response) <= {*texts, "trait_score"}
        and all(isinstance(value, str) for key, value in response.items() if key in texts)
        and response.get("trait_score") is None
    )


def write_generated(folder: TraitFolder, definition: TraitDefinition, settings: GenerationSettings) -> dict[str, int]:
    """Write the CSVs from the journals; returns counts per side.

    Raises:
        UserError: responses are missing, because a process ended early.
    """
    done = finished_rows(folder)
    asks = plan(definition, settings)
    missing = [ask for ask in asks if (ask.polarity, ask.row) not in done]
    if missing:
        raise UserError(f"{folder.trait}: {len(missing)} of {len(asks)} responses are missing; run again to continue")
    counts: dict[str, int] = {}
    for polarity in POLARITIES:
        responses = [done[polarity, ask.row] for ask in asks if ask.polarity == polarity]
        write_responses(folder, polarity, responses)
        counts[polarity] = len(responses)
    return counts


def clear_journal(folder: TraitFolder) -> None:
    """Forget what the journals hold; the header goes first, so that rows without it are known to be stale."""
    folder.generation_header_path.unlink(missing_ok=True)
    for path in folder.journal_paths(f"{JOURNAL}."):
        path.unlink(missing_ok=True)
