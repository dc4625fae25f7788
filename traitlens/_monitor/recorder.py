"""Follows one text through the model's forward passes, and says in the end what was scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from traitlens._monitor.decoding import GenerateCall, caches_of
from traitlens._monitor.projector import Projector
from traitlens._monitor.scores import Scores
from traitlens.hooks import PassEnded


class Phase(Enum):
    """What a recorder is doing.

    IDLE: no pass is under way, and the text is not whole. PROMPT: a pass reads text that was given. STEP: a pass reads
    the token that ``generate`` sampled last. DONE: every column that was read is known to be prompt or response.
    """

    IDLE = "idle"
    PROMPT = "prompt"
    STEP = "step"
    DONE = "done"


_AT_REST = (Phase.IDLE, Phase.DONE)


@dataclass(frozen=True)
class Record:
    """What is known of a text that has ended well, on the CPU.

    Attributes:
        ids: token ids [batch, columns].
        is_prompt: bool [batch, columns], real tokens of the prompt.
        is_response: bool [batch, columns], real tokens of the response; of the whole text after a plain pass.
        scores: per layer float32 [batch, columns, n_vectors].
    """

    ids: Tensor
    is_prompt: Tensor
    is_response: Tensor
    scores: Mapping[int, Tensor]


class Recorder:
    """The scores of one ``generate`` call, of one reading, or of one text fed through plain forward passes.

    Args:
        projector: what makes scores of states.
        call: the ``generate`` call that makes the text, None for a text that is given.
        last_layer: the layer after which a reading needs nothing more, None to let passes run through.
    """

    def __init__(self, projector: Projector, call: GenerateCall | None = None, last_layer: int | None = None) -> None:
        self.phase = Phase.IDLE
        self.scores = Scores()
        self.arguments: Mapping[str, object] = {}  # of the last pass
        self._projector = projector
        self._call = call
        self._last_layer = last_layer
        self._fed: Tensor | None = None  # token ids [batch, seq] of the last pass, None where it was given embeddings
        self._columns_before = 0
        self._columns_known = 0
        self._rows_ended: set[int] = set()
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []  # ids, is_prompt, is_response of neighbouring columns
        self._record: Record | None = None

    @property
    def takes_plain_passes(self) -> bool:
        """Whether a plain pass may be of this text: neither ``generate`` nor a reading is making it."""
        return self._call is None and self._last_layer is None

    def begin_pass(self, args: tuple[object, ...], arguments: Mapping[str, object]) -> None:
        """A forward pass of the whole model begins with these positional and keyword arguments."""
        fed = arguments.get("input_ids", args[0] if args else None)
        self._fed = fed if isinstance(fed, Tensor) else None
        self._projector.begin_pass()
        self._record = None
        self.arguments, self._columns_before = arguments, self.scores.columns
        # Without a cache generate feeds the whole text again: the columns that are known are skipped.
        self._columns_known = self.scores.columns if self._call is not None and not caches_of(arguments) else 0
        is_step = self._call is not None and self.scores.columns >= self._call.columns_fed
        self.phase = Phase.STEP if is_step else Phase.PROMPT

    def take(self, layer: int, hidden: Tensor) -> None:
        """Score a layer's states [batch, seq, hidden].

        Raises:
            PassEnded: it was the last layer of a reading.
        """
        if self.phase in _AT_REST:  # a part of the model was called on its own
            return
        if self._projector.may_wait and hidden.size(1) == 1:
            self._projector.postpone(layer, hidden)
        else:
            self._projector.project(layer, hidden[:, self._columns_known :])
        if layer == self._last_layer:
            raise PassEnded

    def end_pass(self) -> bool:
        """The pass is over; a plain one leaves the text whole. False where it was known to be over.

        Raises:
            RuntimeError: ``generate`` fed several tokens, or none, in one step.
        """
        if self.phase in _AT_REST:  # the pass of a wrapped model has said so already
            return False
        self.scores.add(self._projector.end_pass())
        is_step, self.phase = self.phase is Phase.STEP, Phase.IDLE
        new = self.scores.columns - self._columns_before
        if is_step and new != 1:
            raise not_one_per_step(f"{new} tokens in one step")
        if self.takes_plain_passes:
            self._finish_plain_pass()
        return True

    def finish(self, ids: Tensor, is_prompt: Tensor, is_response: Tensor) -> None:
        """Say what the newest columns are, [batch, seq] each. The text is whole; plain passes may go on from it."""
        self._parts.append((ids, is_prompt, is_response))
        self._call = self._last_layer = None
        self.phase = Phase.DONE

    def _finish_plain_pass(self) -> None:
        batch, length = len(next(iter(self.scores.newest().values()))), self.scores.columns - self._columns_before
        mask = self.arguments.get("attention_mask")
        is_real = torch.ones(batch, length, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= length:
            is_real = mask[:, -length:].bool()
        ids = self._fed if self._fed is not None else torch.zeros(batch, length, dtype=torch.long)
        self.finish(ids, torch.zeros_like(is_real), is_real)

    def new_tokens(self) -> Iterator[tuple[int, int, dict[int, list[float]]]]:
        """Row, token and scores by layer of what ``generate``'s last pass read, for the rows that have not ended."""
        if self._call is None or self._fed is None or self.scores.columns <= self._call.columns_fed:
            return
        ends = {*self._call.end_ids, self._call.setting("pad_token_id")}  # padding is fed to rows that ended
        newest = {layer: scores.tolist() for layer, scores in self.scores.newest().items()}
        for row, token in enumerate(self._fed[:, -1].tolist()):
            if token in ends:
                self._rows_ended.add(row)
            if row not in self._rows_ended:
                yield row, token, {layer: scores[row] for layer, scores in newest.items()}

    def record(self) -> Record:
        """What was scored.

        Raises:
            RuntimeError: nothing was, or it did not end well.
        """
        if self.phase is not Phase.DONE:
            raise RuntimeError("nothing was monitored: call model.generate(...) or model(...) inside the with block")
        if self._record is None:
            parts = zip(*self._parts, strict=True)
            ids, is_prompt, is_response = (torch.cat([part.cpu() for part in column], dim=1) for column in parts)
            self._parts = [(ids, is_prompt, is_response)]
            self._record = Record(ids, is_prompt, is_response, self.scores.on_cpu())
        return self._record


def not_one_per_step(read: str) -> RuntimeError:
    """The error of a model that ``read`` something else than one token per step."""
    return RuntimeError(
        f"the model read {read}: this way of generating does not feed it one token per step, so scores have no tokens"
    )
