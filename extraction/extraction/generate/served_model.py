"""Responses of a model behind an OpenAI-compatible server (vLLM, llama.cpp), the road past one machine for big ones."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

from extraction.distributed import Process
from extraction.generate.plan import Ask, plan
from extraction.generate.settings import GenerationSettings
from utils.chat.client import ChatError, ChatServer, Limits, UnreadableAnswerError
from utils.chat.openai import OpenAiClient
from utils.config import get_credential, server_host, without_keys
from utils.errors import UserError
from utils.models.generation import derived_seed
from utils.prompts import without_system_role
from utils.records import Polarity, Response, TraitDefinition

_SECONDS = 600.0  # until a request counts as failed, its whole answer included


class ServedModel:
    """A model behind a server, asked by at most ``concurrency`` requests at once."""

    def __init__(self, base_url: str, model: str, concurrency: int = 16) -> None:
        server_host("--gen_base_url", base_url)
        self.source = self.known = {"model": model, "base_url": without_keys(base_url)}
        self._server = ChatServer(base_url, without_keys(base_url), get_credential("GEN_API_KEY") or "", "GEN_API_KEY")
        self._model = model
        self._concurrency = concurrency

    def load(self) -> None:
        """The server has the model already."""

    def generate(
        self,
        definition: TraitDefinition,
        settings: GenerationSettings,
        process: Process,
        finished: Collection[tuple[Polarity, int]],
    ) -> Iterator[list[tuple[Ask, Response]]]:
        """This process's share of the responses that are not ``finished``, each as soon as it is there.

        Raises:
            UserError: the server refuses the request or cannot be reached.
        """
        asks = [a for a in process.mine(plan(definition, settings)) if (a.polarity, a.row) not in finished]
        client = OpenAiClient(self._model, self._server, Limits(self._concurrency, timeout=_SECONDS))
        work = [self._response(client, ask, settings, definition.trait) for ask in asks]
        try:
            with contextlib.closing(client), contextlib.closing(client.as_ready(work)) as ready:
                for place, response in ready:
                    yield [(asks[place], response)]
        except ChatError as error:
            raise UserError(
                f"{self._server.where} with --gen_model {self._model}: {error}. Finished responses are kept; run again"
            ) from error

    async def _response(self, client: OpenAiClient, ask: Ask, settings: GenerationSettings, trait: str) -> Response:
        sampling = settings.sampling
        options = {
            "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "seed": derived_seed(settings.seed, trait, ask.polarity, ask.row) % 2**31,
        }  # fmt: skip
        async with client.turn():
            try:
                return await _answer(client, ask, options)
            except ChatError as error:
                client.stop(error)
                raise


async def _answer(client: OpenAiClient, ask: Ask, options: Mapping[str, object]) -> Response:
    messages = [{"role": "user", "content": ask.question}]
    if ask.instruction:
        messages.insert(0, {"role": "system", "content": ask.instruction})
    try:
        reply = await client.ask(messages, needed=options)
    except ChatError as error:
        if not (ask.instruction and error.status == 400 and "system" in error.said.lower()):
            raise
        messages = without_system_role(messages)  # the served model's template refuses that role (Gemma 2)
        reply = await client.ask(messages, needed=options)
    if reply.text is None:
        raise UnreadableAnswerError
    prompt = "\n\n".join(message["content"] for message in messages)
    ending = reply.ending if reply.ending in ("stop", "length") else ""
    return Response(ask.question, ask.instruction, prompt, reply.text.strip(), finish_reason=ending)
