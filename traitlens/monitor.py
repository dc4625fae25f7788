"""Trait scores of every token while a model generates; only the scores are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from traitlens._monitor.decoding import GenerateCall, next_step, past_length, refusing, whole_sequence
from traitlens._monitor.projector import Projector
from traitlens._monitor.recorder import Phase, Recorder, not_one_per_step
from traitlens.compute import fault_of_vector, normalize_vectors
from traitlens.hooks import HookInputs, HookManager, LayerHook, PassEnded

VectorAtLayer: TypeAlias = tuple[Tensor, int]
OnToken: TypeAlias = Callable[[int, int, dict[str, float | list[float]]], object]


class TraitMonitor:
    """Projects the states of chosen layers on trait vectors while the model runs, and keeps the scores alone.

    Inside the ``with`` block every ``model.generate(...)`` and every plain ``model(...)`` is monitored; ``scores``
    speaks of the last one. A score belongs to the token that it is listed with: it is read from the state *at* that
    token. ``generate`` never feeds back the last token that it sampled, so the monitor makes that one step itself, with
    generate's own cache. A plain pass that goes on from a cache adds to the text, any other begins a new one.

    Args:
        model: any decoder-only model; ``generate`` is needed only to generate.
        vectors: per trait a pair (vector [hidden], layer), or a sequence of such pairs for several layers.
        end_ids: tokens that end a text besides those of the generation config; a text's scores stop before them.
        on_token: called as ``on_token(row, token_id, scores)`` for every new token as soon as its state is known, with
            scores as numbers (lists of numbers for several layers). Costs one transfer per token.

    Raises:
        ValueError: a vector is not a finite, non-zero [hidden], or the model has no such layer.

    Example::

        with TraitMonitor(model, {"refusal": (vector, 16)}) as monitor:
            model.generate(**inputs)
        monitor.scores()["refusal"]  # [n_tokens]
    """

    def __init__(
        self,
        model: nn.Module,
        vectors: Mapping[str, VectorAtLayer | Sequence[VectorAtLayer]],
        *,
        end_ids: Collection[int] = (),
        on_token: OnToken | None = None,
    ) -> None:
        self.model = model
        self._on_token = on_token
        self._more_end_ids = frozenset(end_ids)
        self._several = {trait: not isinstance(given[0], Tensor) for trait, given in vectors.items()}
        self._places: dict[str, list[tuple[int, int]]] = {}  # trait -> (layer, row of that layer's directions)
        self._projector = Projector(self._stacked(vectors))
        # peft's wrapper generates with the model inside, whose modules it changed in place
        get_base_model = getattr(model, "get_base_model", None)
        self._runner: nn.Module = get_base_model() if callable(get_base_model) else model
        self._recorder = Recorder(self._projector)
        self._watching: ExitStack | None = None  # what the end of the with block undoes

    def scores(self, row: int | None = None) -> dict[str, Tensor]:
        """Scores of the new tokens (of all real tokens after a plain forward pass), float32 on the CPU.

        Args:
            row: which text of the batch; may be left out where there is one.

        Returns:
            Per trait [n_tokens], or [n_layers, n_tokens] for a trait that was given several pairs, in their order.

        Raises:
            RuntimeError: nothing has run in the ``with`` block, or it did not end well.
            ValueError: there are several rows and none was named.
        """
        row = self._row(row)
        return self._scores_where(row, self._recorder.record().is_response[row])

    def prompt_scores(self, row: int | None = None) -> dict[str, Tensor]:
        """Scores of the prompt's tokens without padding, as ``scores`` gives them; empty after a plain forward pass."""
        row = self._row(row)
        return self._scores_where(row, self._recorder.record().is_prompt[row])

    def token_ids(self, row: int | None = None) -> list[int]:
        """Ids of the tokens that ``scores`` are of."""
        row, record = self._row(row), self._recorder.record()
        ids: list[int] = record.ids[row][record.is_response[row]].tolist()
        return ids

    def __len__(self) -> int:
        """Number of rows of the last run."""
        return len(self._recorder.record().ids) if self._recorder.phase is Phase.DONE else 0

    def memory_usage(self) -> int:
        """Bytes held by the scores: 4 for each vector and token."""
        return self._recorder.scores.memory_usage()

    def read(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> None:
        """Score existing texts in one forward pass: token ids of prompts and of the responses that follow them.

        Nothing is generated; the pass ends at the deepest monitored layer.

        Raises:
            RuntimeError: called outside the ``with`` block.
        """
        if self._watching is None:
            raise RuntimeError("read() works inside the monitor's with block")
        texts = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        length = max(map(len, texts))
        ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
        is_real = torch.arange(length)[None] < torch.tensor([len(text) for text in texts])[:, None]
        is_prompt = torch.arange(length)[None] < torch.tensor([len(prompt) for prompt in prompts])[:, None]
        device = next(self._runner.parameters()).device
        arguments = whole_sequence(self._runner, ids.to(device), is_real.long().to(device))
        with self._recording(Recorder(self._projector, last_layer=max(self._projector.layers))) as recorder:
            with torch.no_grad(), suppress(PassEnded):  # the normal end
                self._runner(**arguments)
            recorder.end_pass()
            recorder.finish(ids, is_prompt, is_real & ~is_prompt)

    def __enter__(self) -> TraitMonitor:
        if self._watching is not None:
            raise RuntimeError("the monitor is active already: make a second one for nested use")
        with ExitStack() as stack:
            hooks = stack.enter_context(HookManager(self.model))
            for layer in self._projector.layers:
                hooks.add_layer_hook(layer, self._projecting_hook(layer))
            for module in {id(m): m for m in (self.model, self._runner)}.values():
                before = module.register_forward_pre_hook(self._before_pass, with_kwargs=True, prepend=True)
                stack.callback(before.remove)
                stack.callback(module.register_forward_hook(self._after_pass).remove)
            for name, replacement in (("generate", self._monitored), ("generate_batch", refusing)):
                if callable(original := getattr(self.model, name, None)):
                    stack.enter_context(_replaced(self.model, name, replacement(original)))
            self._watching = stack.pop_all()  # nothing failed: all of it stays until __exit__
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.close()
        self._watching = None

    def _stacked(self, vectors: Mapping[str, VectorAtLayer | Sequence[VectorAtLayer]]) -> dict[int, Tensor]:
        """Unit directions of every layer as the rows of one matrix [n_vectors, hidden]."""
        rows: dict[int, list[Tensor]] = {}
        for trait, given in vectors.items():
            pairs = cast("Sequence[VectorAtLayer]", given if self._several[trait] else [given])
            for vector, layer in pairs:
                if (found := fault_of_vector(vector)) is not None:
                    raise ValueError(f"vector of {trait!r} at layer {layer}: wanted finite [hidden], found {found}")
                at_layer = rows.setdefault(int(layer), [])
                if at_layer and len(at_layer[0]) != len(vector):
                    raise ValueError(f"vectors at layer {layer} have hidden sizes {len(at_layer[0])} and {len(vector)}")
                self._places.setdefault(trait, []).append((int(layer), len(at_layer)))
                at_layer.append(vector.detach().cpu().float())
        if not rows:
            raise ValueError("no vectors to monitor")
        return {layer: normalize_vectors(torch.stack(at_layer)) for layer, at_layer in rows.items()}

    def _projecting_hook(self, layer: int) -> LayerHook:
        def hook(module: nn.Module, inputs: HookInputs, hidden: Tensor) -> None:  # noqa: ARG001 - torch's signature
            self._recorder.take(layer, hidden)

        return hook

    def _before_pass(self, module: nn.Module, args: HookInputs, kwargs: dict[str, object]) -> None:  # noqa: ARG002
        is_plain, has_begun = self._recorder.takes_plain_passes, self._recorder.scores.columns > 0
        if is_plain and not (has_begun and past_length(kwargs)):
            self._recorder = Recorder(self._projector)
        self._recorder.begin_pass(args, kwargs)

    def _after_pass(self, module: nn.Module, inputs: HookInputs, output: object) -> None:  # noqa: ARG002
        if self._recorder.end_pass() and self._on_token is not None:
            for row, token, scores in self._recorder.new_tokens():
                values = {t: [scores[layer][i] for layer, i in places] for t, places in self._places.items()}
                self._on_token(row, token, {t: v if self._several[t] else v[0] for t, v in values.items()})

    def _monitored(self, generate: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(generate)
        def monitored(*args: object, **kwargs: object) -> object:
            call = GenerateCall.of(self.model, generate, args, kwargs, self._more_end_ids)
            if (reason := call.refusal()) is not None:
                raise ValueError(f"cannot monitor this generation: {reason}")
            if hasattr(call.defaults, "disable_compile"):  # a compiled step would keep the hooks of its first run
                kwargs["disable_compile"] = True
            with self._recording(Recorder(self._projector, call)) as recorder:
                output = generate(*args, **kwargs)
                sequences = getattr(output, "sequences", output)
                if not isinstance(sequences, Tensor):
                    raise TypeError(f"expected token ids from generate, got {type(output).__name__}")
                self._finish(recorder, call, sequences)
            return output

        return monitored

    @contextmanager
    def _recording(self, recorder: Recorder) -> Iterator[Recorder]:
        """Let ``recorder`` follow the passes made here; after a failure the next pass begins another text."""
        self._recorder = recorder
        try:
            yield recorder
        finally:
            if recorder.phase is not Phase.DONE:
                self._recorder = Recorder(self._projector)

    def _finish(self, recorder: Recorder, call: GenerateCall, sequences: Tensor) -> None:
        """Read the last token, and note which columns are the prompt's and which each row's own response."""
        new = sequences[:, call.columns_in_result :].cpu()
        lengths = call.lengths(new)
        expected = call.columns_fed + new.shape[1]
        mask = call.prompt_mask(len(sequences), recorder.arguments)
        if recorder.scores.columns == expected - 1 and int(lengths.max()) == new.shape[1]:
            self._read_last(recorder, call, sequences, mask)
        read = recorder.scores.columns
        if read not in (expected, expected - 1):
            raise not_one_per_step(f"{read} tokens where prompt and response have {expected}")
        columns = torch.arange(read)[None] - call.columns_fed  # 0 at the first new token
        ids = torch.zeros(len(new), read, dtype=torch.long)
        ids[:, call.columns_fed :] = new[:, : read - call.columns_fed]
        is_prompt = torch.nn.functional.pad(mask.bool().cpu(), (0, read - call.columns_fed))
        recorder.finish(ids, is_prompt, (columns >= 0) & (columns < lengths[:, None]))

    def _read_last(self, recorder: Recorder, call: GenerateCall, sequences: Tensor, mask: Tensor) -> None:
        arguments = next_step(recorder.arguments, sequences[:, -1:], copy_cache=call.keeps_cache)
        if arguments is None:
            if call.prompt_ids is None or call.columns_fed != call.columns_in_result:
                raise RuntimeError("cannot read the last token: the cache has no room, and the prompt is not all ids")
            new = sequences.shape[1] - call.columns_in_result
            mask = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1).to(sequences.device)
            arguments = whole_sequence(self._runner, sequences, mask)
        with torch.no_grad():
            self._runner(**arguments)

    def _row(self, row: int | None) -> int:
        rows = len(self._recorder.record().ids)
        if row is None and rows != 1:
            raise ValueError(f"the batch had {rows} rows: say which, as in scores(row=0)")
        return row or 0

    def _scores_where(self, row: int, selected: Tensor) -> dict[str, Tensor]:
        at = self._recorder.record().scores
        scores = {t: torch.stack([at[lay][row, selected, i] for lay, i in p]) for t, p in self._places.items()}
        return {trait: s if self._several[trait] else s[0] for trait, s in scores.items()}


@contextmanager
def _replaced(model: nn.Module, name: str, replacement: Callable[..., object]) -> Iterator[None]:
    outer = vars(model).get(name)  # an outer monitor's, or None
    vars(model)[name] = replacement
    try:
        yield
    finally:
        del vars(model)[name]
        if outer is not None:
            vars(model)[name] = outer
