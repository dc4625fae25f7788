"""Responses as the model reads them: which of them, their tokens, and batches under a token budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from traitlens.thinking import find_thinking
from utils.errors import UserError
from utils.experiment import EVERYDAY, TraitFolder
from utils.formats.response_files import read_responses
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_prompt
from utils.records import POLARITIES, Context, Polarity, Response

logger = logging.getLogger(__name__)

# Tokens of a window: what a reader of smoothed scores looks at.
WINDOW = 8
_MOST_WINDOWS = 600

NumberedResponses = list[tuple[int, Response]]


@dataclass(frozen=True)
class Example:
    """One response as the model reads it: where its mean goes, its tokens, and where the response begins.

    Attributes:
        row: row in the polarity's tensor.
        kept_tokens: positions within the response whose states are kept on their own (neutral responses).
        first_kept: row of the first of them in the neutral tokens' tensor.
        windows: where within the response windows of tokens begin whose means are kept.
        first_window: row of the first of them in the windows' tensor.
    """

    polarity: Polarity
    row: int
    ids: list[int]
    response_start: int
    kept_tokens: tuple[int, ...] = ()
    first_kept: int = 0
    windows: tuple[int, ...] = ()
    first_window: int = 0


def responses_to_read(
    source: TraitFolder, polarity: Polarity, threshold: float | None, loaded: LoadedModel
) -> NumberedResponses:
    """One side's responses with their numbers in the file, without the empty and, at a ``threshold``, the unconfirmed.

    Raises:
        UserError: none is left, of a side that vectors need.
    """
    if source.trait == EVERYDAY and polarity != "neutral":
        return []
    responses = read_responses(source, polarity)
    rows = [(i, r) for i, r in enumerate(responses) if encode_response(loaded.tokenizer, r.response)]
    if empty := len(responses) - len(rows):
        logger.warning(
            "%s: %d of %d %s responses are empty and left out", source.trait, empty, len(responses), polarity
        )
    if threshold is not None:
        before = len(rows)
        rows = [(i, r) for i, r in rows if r.shows(polarity, threshold)]
        logger.info(
            "%s: %d of %d %s responses pass the threshold %g", source.trait, len(rows), before, polarity, threshold
        )
    if not rows and polarity != "neutral":
        raise UserError(
            f"{source.responses_path(polarity)}: none of {len(responses)} responses can be read"
            + ("" if threshold is None else f" at --threshold {threshold:g}; lower it or judge again")
        )
    return rows


def encoded(kept: Mapping[Polarity, NumberedResponses], loaded: LoadedModel, context: Context) -> list[Example]:
    """The responses as tokens behind their prompts, in the order of the files.

    Raises:
        UserError: a prompt leaves no room for its response.
    """
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    examples: list[Example] = []
    cut = 0
    for polarity in POLARITIES:
        for row, (_, response) in enumerate(kept[polarity]):
            instruction = response.instruction if context == "full" else ""
            # A response that holds its thought is read where the model thinks; a plain one where it answers.
            thinks = None if find_thinking(response.response) else False
            text = format_prompt(loaded.tokenizer, response.question, instruction, thinks=thinks)
            prompt = encode_prompt(loaded.tokenizer, text)
            ids = prompt + encode_response(loaded.tokenizer, response.response)
            if len(prompt) >= limit:
                raise UserError(
                    f"a prompt has {len(prompt)} tokens, but {loaded.name} reads {limit}: {response.question[:60]!r}"
                )
            cut += len(ids) > limit
            examples.append(Example(polarity, row, ids[:limit], len(prompt)))
    if cut:
        logger.warning("%d responses are longer than the %d positions of %s and cut there", cut, limit, loaded.name)
    return examples


def choose_neutral_tokens(examples: Sequence[Example], wanted: int) -> list[Example]:
    """The examples with the tokens to keep of the neutral ones, spread evenly over all of their response tokens."""
    places = [
        (i, position)
        for i, e in enumerate(examples)
        if e.polarity == "neutral"
        for position in range(len(e.ids) - e.response_start)
    ]
    chosen = list(examples)
    for i, (first, positions) in _spread(places, wanted).items():
        chosen[i] = replace(chosen[i], kept_tokens=positions, first_kept=first)
    return chosen


def choose_windows(examples: Sequence[Example]) -> list[Example]:
    """The examples with the windows to keep: up to three a response, evenly spread, ``_MOST_WINDOWS`` in all at most.

    A response of fewer than two windows moves too little to keep one.
    """
    places = []
    for i, example in enumerate(examples):
        room = len(example.ids) - example.response_start - WINDOW
        count = min(3, room // WINDOW + 1) if room >= WINDOW else 0
        places += [(i, room * k // (count - 1)) for k in range(count)]
    chosen = list(examples)
    for i, (first, positions) in _spread(places, _MOST_WINDOWS).items():
        chosen[i] = replace(chosen[i], windows=positions, first_window=first)
    return chosen


def _spread(places: Sequence[tuple[int, int]], wanted: int) -> dict[int, tuple[int, tuple[int, ...]]]:
    """At most ``wanted`` places (number of an example, position in it), by example: the rank of its first, positions.

    Places of an example stand together.
    """
    kept: dict[int, tuple[int, tuple[int, ...]]] = {}
    for rank, (i, position) in enumerate(places[k] for k in spread_evenly(len(places), wanted)):
        first, positions = kept.get(i, (rank, ()))
        kept[i] = first, (*positions, position)
    return kept


def token_budget_batches(examples: Sequence[Example], batch_tokens: int, batch_size: int) -> list[list[Example]]:
    """Batches of at most ``batch_size`` responses and ``batch_tokens`` padded tokens, the longest first.

    Sorted by length, so that little of a batch is padding. A response longer than the budget is a batch of its own.

    >>> examples = [Example("pos", row, [7] * length, 1) for row, length in enumerate([3, 9, 4, 2])]
    >>> [[e.row for e in batch] for batch in token_budget_batches(examples, batch_tokens=9, batch_size=2)]
    [[1], [2, 0], [3]]
    """
    batches: list[list[Example]] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):  # the order of the files among equals
        batch = batches[-1] if batches else None
        if batch and len(batch) < batch_size and len(batch[0].ids) * (len(batch) + 1) <= batch_tokens:
            batch.append(example)
        else:
            batches.append([example])
    return batches


def spread_evenly(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices, evenly spread over ``range(total)``.

    >>> spread_evenly(10, 4), spread_evenly(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    if total <= wanted:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]
