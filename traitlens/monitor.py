"""Trait scores of every token while a model generates; only the scores are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from traitlens._monitor.decoding import GenerateCall, has_cache, next_step, past_length, refusing, whole_sequence
from traitlens._monitor.projector import Projector
from traitlens._monitor.run import Run
from traitlens.compute import fault_of_vector, normalize_vectors
from traitlens.hooks import HookManager, LayerHook

VectorAtLayer = tuple[Tensor, int]
OnToken = Callable[[int, int, dict[str, Any]], object]

_NOT_ONE_PER_STEP = (
    "the model read {}: this way of generating does not feed it one token per step, so scores have no tokens"
)


class _Stop(Exception):  # noqa: N818 - a signal, not an error: everything asked for has been computed
    """Ends a reading after the deepest monitored layer."""


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
        self._more_end_ids = set(end_ids)
        self._several = {trait: not isinstance(given[0], Tensor) for trait, given in vectors.items()}
        self._places: dict[str, list[tuple[int, int]]] = {}  # trait -> (layer, row of that layer's directions)
        self._projector = Projector(self._stacked(vectors))
        # peft's wrapper generates with the model inside, whose modules it changed in place
        base_model: Any = getattr(model, "get_base_model", None)
        self._runner: nn.Module = base_model() if callable(base_model) else model
        self._hooks = HookManager(model)
        self._run = Run()

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
        return self._scores_where(row, self._run.marks()[2][row])

    def prompt_scores(self, row: int | None = None) -> dict[str, Tensor]:
        """Scores of the prompt's tokens without padding, as ``scores`` gives them; empty after a plain forward pass."""
        row = self._row(row)
        return self._scores_where(row, self._run.marks()[1][row])

    def token_ids(self, row: int | None = None) -> list[int]:
        """Ids of the tokens that ``scores`` are of."""
        row = self._row(row)
        all_ids, _, is_response = self._run.marks()
        ids: list[int] = all_ids[row][is_response[row]].tolist()
        return ids

    def __len__(self) -> int:
        """Number of rows of the last run."""
        return len(self._run.marks()[0]) if self._run.is_complete else 0

    def memory_usage(self) -> int:
        """Bytes held by the scores: 4 for each vector and token."""
        return self._run.memory_usage()

    def read(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> None:
        """Score existing texts in one forward pass: token ids of prompts and of the responses that follow them.

        Nothing is generated; the pass ends at the deepest monitored layer.

        Raises:
            RuntimeError: called outside the ``with`` block.
        """
        if not len(self._hooks):
            raise RuntimeError("read() works inside the monitor's with block")
        texts = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
        length = max(map(len, texts))
        ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
        arguments = whole_sequence(self._runner, ids, mask)
        device = next(self._runner.parameters()).device
        self._run = Run(stop_after=max(self._projector.layers))
        try:
            with torch.no_grad():
                self._runner(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in arguments.items()})
        except _Stop:  # the normal end
            self._after_pass(self._runner, None, None)
        finally:
            self._run.stop_after = None
        prompt_lengths = torch.tensor([len(prompt) for prompt in prompts])[:, None]
        in_prompt = torch.arange(length)[None] < prompt_lengths
        self._run.mark(ids, in_prompt & mask.bool(), ~in_prompt & mask.bool())

    def __enter__(self) -> TraitMonitor:
        if len(self._hooks):
            raise RuntimeError("the monitor is active already: make a second one for nested use")
        try:
            for layer in self._projector.layers:
                self._hooks.add_layer_hook(layer, self._projecting_hook(layer))
        except ValueError:
            self._hooks.remove_all()
            raise
        modules = {id(m): m for m in (self.model, self._runner)}.values()
        handles = [m.register_forward_pre_hook(self._before_pass, with_kwargs=True, prepend=True) for m in modules]
        self._handles = handles + [m.register_forward_hook(self._after_pass) for m in modules]
        self._replaced: list[tuple[str, Any]] = []
        for name, replacement in (("generate", self._monitored), ("generate_batch", refusing)):
            if callable(original := getattr(self.model, name, None)):
                self._replaced.append((name, vars(self.model).get(name)))  # an outer monitor's, or None
                vars(self.model)[name] = replacement(original)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooks.remove_all()
        for handle in self._handles:
            handle.remove()
        for name, outer in self._replaced:
            del vars(self.model)[name]
            if outer is not None:
                vars(self.model)[name] = outer

    def _stacked(self, vectors: Mapping[str, VectorAtLayer | Sequence[VectorAtLayer]]) -> dict[int, Tensor]:
        """Unit directions of every layer as the rows of one matrix [n_vectors, hidden]."""
        rows: dict[int, list[Tensor]] = {}
        for trait, given in vectors.items():
            pairs: Any = given if self._several[trait] else [given]
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
        projector = self._projector

        def hook(module: nn.Module, inputs: tuple[Any, ...], hidden: Tensor) -> None:  # noqa: ARG001 - torch's signature
            run = self._run
            if not run.is_open:  # a part of the model was called on its own: nothing is known of its tokens
                return
            if projector.may_wait and hidden.size(1) == 1:
                projector.later(layer, hidden)
            else:
                run.add(layer, projector.now(layer, hidden[:, run.skip :]))
            if layer == run.stop_after:
                raise _Stop

        return hook

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        run = self._run
        is_plain = run.call is None and run.stop_after is None
        if is_plain and not (run.columns and past_length(kwargs)):
            self._run = run = Run()
        self._projector.clear()
        run.is_open, run.arguments, run.before = True, kwargs, run.columns
        run.fed = kwargs.get("input_ids", args[0] if args and isinstance(args[0], Tensor) else None)
        # Without a cache generate feeds the whole text again: the columns that are known are skipped.
        run.skip = run.columns if run.call is not None and not has_cache(kwargs) else 0

    def _after_pass(self, module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG002 - torch's signature
        run = self._run
        if not run.is_open:
            return
        run.is_open = False
        run.add_steps(self._projector.made())
        if run.call is not None:
            if run.before >= run.call.columns_fed and run.columns != run.before + 1:
                raise RuntimeError(_NOT_ONE_PER_STEP.format(f"{run.columns - run.before} tokens in one step"))
            self._stream()
        elif run.stop_after is None:
            run.mark_plain_pass()

    def _monitored(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def monitored(*args: Any, **kwargs: Any) -> Any:
            call = GenerateCall.of(self.model, generate, args, kwargs)
            if (reason := call.refusal()) is not None:
                raise ValueError(f"cannot monitor this generation: {reason}")
            if hasattr(call.defaults, "disable_compile"):  # a compiled step would keep the hooks of its first run
                kwargs["disable_compile"] = True
            self._run = run = Run(call=call, end_ids=call.end_ids() | self._more_end_ids)
            output = generate(*args, **kwargs)
            sequences = getattr(output, "sequences", output)
            if not isinstance(sequences, Tensor):
                raise TypeError(f"expected token ids from generate, got {type(output).__name__}")
            self._finish(run, call, sequences)
            return output

        return monitored

    def _finish(self, run: Run, call: GenerateCall, sequences: Tensor) -> None:
        """Read the last token, and note which columns are the prompt's and which each row's own response."""
        new = sequences[:, call.columns_in_result :].cpu()
        lengths = call.lengths(new, run.end_ids)
        expected = call.columns_fed + new.shape[1]
        mask = call.prompt_mask(len(sequences), run.arguments)
        if run.columns == expected - 1 and int(lengths.max()) == new.shape[1]:
            self._read_last(run, call, sequences, mask)
        if run.columns not in (expected, expected - 1):
            raise RuntimeError(
                _NOT_ONE_PER_STEP.format(f"{run.columns} tokens where prompt and response have {expected}")
            )
        columns = torch.arange(run.columns)[None] - call.columns_fed  # 0 at the first new token
        ids = torch.zeros(len(new), run.columns, dtype=torch.long)
        ids[:, call.columns_fed :] = new[:, : run.columns - call.columns_fed]
        in_prompt = torch.nn.functional.pad(mask.bool().cpu(), (0, run.columns - call.columns_fed))
        run.mark(ids, in_prompt, (columns >= 0) & (columns < lengths[:, None]))
        run.call = None

    def _read_last(self, run: Run, call: GenerateCall, sequences: Tensor, mask: Tensor) -> None:
        arguments = next_step(run.arguments, sequences[:, -1:], copy_cache=call.keeps_cache)
        if arguments is None:
            if call.prompt_ids is None or call.columns_fed != call.columns_in_result:
                raise RuntimeError("cannot read the last token: the cache has no room, and the prompt is not all ids")
            new = sequences.shape[1] - call.columns_in_result
            mask = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1).to(sequences.device)
            arguments = whole_sequence(self._runner, sequences, mask)
        with torch.no_grad():
            self._runner(**arguments)

    def _stream(self) -> None:
        """Hand the newest token's scores to ``on_token``, for the rows that have not ended."""
        run = self._run
        if self._on_token is None or run.call is None or run.columns <= run.call.columns_fed or run.fed is None:
            return
        ids, padding = run.fed[:, -1].tolist(), run.call.setting("pad_token_id")  # padding is fed to rows that ended
        newest = {layer: pieces[-1][:, -1].tolist() for layer, pieces in run.settled().items()}
        for row, token in enumerate(ids):
            if token in run.end_ids or token == padding:
                run.ended.add(row)
            if row not in run.ended:
                values = {t: [newest[layer][row][i] for layer, i in places] for t, places in self._places.items()}
                self._on_token(row, token, {t: v if self._several[t] else v[0] for t, v in values.items()})

    def _row(self, row: int | None) -> int:
        if not self._run.is_complete:
            raise RuntimeError("nothing was monitored: call model.generate(...) or model(...) inside the with block")
        if row is None and len(self) != 1:
            raise ValueError(f"the batch had {len(self)} rows: say which, as in scores(row=0)")
        return row or 0

    def _scores_where(self, row: int, selected: Tensor) -> dict[str, Tensor]:
        joined = self._run.joined()
        scores = {t: torch.stack([joined[lay][row, selected, i] for lay, i in p]) for t, p in self._places.items()}
        return {trait: s if self._several[trait] else s[0] for trait, s in scores.items()}
