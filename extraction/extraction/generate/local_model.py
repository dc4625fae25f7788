"""Responses of a model in this process, in batches of prompts of similar length, each with a seed of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence

from extraction.distributed import Process
from extraction.generate.plan import Ask, plan
from extraction.generate.settings import GenerationSettings
from traitlens.thinking import answer_of, find_thinking
from utils.models.generation import Generated, Sampling, derived_seed, generate_batch, halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_prompt, template_hash
from utils.records import Polarity, Response, TraitDefinition


class LocalModel:
    """A model that is loaded when it is first needed.

    Args:
        name: the embedded model's name, a Hub id or a folder.
        load: loads a model by its name.
    """

    def __init__(self, name: str, load: Callable[[str], LoadedModel]) -> None:
        self.known = {"model": name}
        self.thoughts = 0  # how many responses began with one, which is not kept
        self._load = load
        self._loaded: LoadedModel | None = None

    def load(self) -> LoadedModel:
        """The model."""
        if self._loaded is None:
            self._loaded = self._load(self.known["model"])
        return self._loaded

    @property
    def source(self) -> dict[str, str | None]:
        """Where responses come from: the model as far as it decides their text."""
        loaded = self.load()
        return {
            "model": loaded.name,
            "revision": loaded.revision,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "template_hash": template_hash(loaded.tokenizer),
        }

    def generate(
        self,
        definition: TraitDefinition,
        settings: GenerationSettings,
        process: Process,
        finished: Collection[tuple[Polarity, int]],
    ) -> Iterator[list[tuple[Ask, Response]]]:
        """This process's share of the batches that are not ``finished``, batch by batch."""
        asks, loaded = plan(definition, settings), self.load()
        prompts = [
            format_prompt(loaded.tokenizer, ask.question, ask.instruction, thinks=settings.enable_thinking)
            for ask in asks
        ]
        ids = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts]
        for number, batch in process.mine(enumerate(_batches([len(i) for i in ids], settings.batch_size))):
            if all((asks[i].polarity, asks[i].row) in finished for i in batch):
                continue
            seed = derived_seed(settings.seed, definition.trait, number)
            answer = functools.partial(_answers, loaded, ids, settings.sampling, seed)
            made = halving_on_out_of_memory(answer, batch)
            yield [
                (asks[i], self._response(asks[i], prompts[i], loaded, one)) for i, one in zip(batch, made, strict=True)
            ]

    def _response(self, ask: Ask, prompt: str, loaded: LoadedModel, made: Generated) -> Response:
        response = _response(ask, prompt, loaded, made)
        self.thoughts += find_thinking(_whole_text(loaded, made), prompt) is not None
        return response


def _answers(
    loaded: LoadedModel, ids: Sequence[list[int]], sampling: Sampling, seed: int, batch: Sequence[int]
) -> list[Generated]:
    return generate_batch(loaded, [ids[i] for i in batch], sampling, derived_seed(seed, batch[0]))


def _response(ask: Ask, prompt: str, loaded: LoadedModel, made: Generated) -> Response:
    # What marks a thought may be special tokens; all others inside an answer are dropped, as another tokeniser run over
    # the CSV's text could not restore them.
    decode = functools.partial(loaded.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole, ids = _whole_text(loaded, made), made.ids
    if find_thinking(whole, prompt) is not None:
        ids = encode_response(loaded.tokenizer, answer_of(whole, prompt))
    return Response(ask.question, ask.instruction, prompt, decode(ids).strip(), finish_reason=made.finish_reason)


def _whole_text(loaded: LoadedModel, made: Generated) -> str:
    """A response with all marks in it."""
    return str(loaded.tokenizer.decode(made.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first: memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
