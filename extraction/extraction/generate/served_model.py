"""Responses of a model behind an OpenAI-compatible server (vLLM, llama.cpp), the road past one machine for big ones."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from extraction.distributed import Process
from extraction.generate.plan import Ask, plan
from extraction.generate.settings import GenerationSettings
from traitlens.thinking import answer_of
from utils.chat.client import ChatError, ChatServer, Limits, UnreadableAnswerError
from utils.chat.http_client import mentions_roles
from utils.chat.openai import OpenAiClient
from utils.config import get_credential, server_host, without_keys
from utils.errors import UserError
from utils.models.generation import derived_seed
from utils.prompts import without_system_role
from utils.records import REFUSED, Polarity, Response, TraitDefinition

logger = logging.getLogger(__name__)

_SECONDS = 600.0  # until a request counts as failed, its whole answer included
_ENDINGS = ("stop", "length")
# So many refusals in a row mean that what is wrong is not in the texts.
_GIVE_UP_AFTER = 10


class ServedModel:
    """A model behind a server, asked by at most ``concurrency`` requests at once."""

    def __init__(self, base_url: str, model: str, concurrency: int = 16) -> None:
        server_host("--gen_base_url", base_url)
        self.source = self.known = {"model": model, "base_url": without_keys(base_url)}
        self._server = ChatServer(base_url, without_keys(base_url), get_credential("GEN_API_KEY") or "", "GEN_API_KEY")
        self.thoughts = 0  # how many responses began with one, which is not kept
        self._model = model
        self._concurrency = concurrency
        # Found out with the first answers.
        self._takes_system: bool | None = None
        self._refused_in_a_row = 0

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
        seed = derived_seed(settings.seed, trait, ask.polarity, ask.row) % 2**31
        needed, wished = _options(settings, seed)
        async with client.turn():
            try:
                response = await self._answer(client, ask, needed, wished, settings.sampling.max_new_tokens)
            except ChatError as error:
                if not error.is_about_the_row or self._refused_in_a_row + 1 >= _GIVE_UP_AFTER:
                    client.stop(error)
                    raise
                self._refused_in_a_row += 1
                return Response(ask.question, ask.instruction, "", "", finish_reason=f"{REFUSED}: {error}")
        self._refused_in_a_row = 0
        return response

    async def _answer(
        self,
        client: OpenAiClient,
        ask: Ask,
        needed: Mapping[str, object],
        wished: Mapping[str, object],
        limit: int,
    ) -> Response:
        """The answer; where a template has no system role (Gemma), the instruction stands before the question."""
        messages = [{"role": "user", "content": ask.question}]
        if ask.instruction:
            messages.insert(0, {"role": "system", "content": ask.instruction})
        if ask.instruction and self._takes_system is False:
            messages = without_system_role(messages)
        try:
            reply = await client.ask(messages, needed=needed, wished=wished, limit=limit)
        except ChatError as error:
            if not self._may_be_the_system_role(messages, error):
                raise
            messages = without_system_role(messages)
            try:
                reply = await client.ask(messages, needed=needed, wished=wished, limit=limit)
            except ChatError:
                raise error from None  # that role was not what it refused
            self._takes_system = False
            logger.info("%s takes no system message: instructions stand before the questions", self._model)
        else:
            if messages[0]["role"] == "system":
                self._takes_system = True
        if reply.text is None:
            raise UnreadableAnswerError
        prompt = "\n\n".join(message["content"] for message in messages)
        answer = answer_of(reply.text)
        if not (reply.is_finished or reply.is_cut or answer):
            return Response(ask.question, ask.instruction, prompt, answer, finish_reason=f"{REFUSED}: {reply.ending}")
        self.thoughts += bool(reply.thought) or answer != reply.text.strip()
        ending = reply.ending if reply.ending in _ENDINGS else ""
        return Response(ask.question, ask.instruction, prompt, answer, finish_reason=ending)

    def _may_be_the_system_role(self, messages: Sequence[Mapping[str, str]], error: ChatError) -> bool:
        """Whether a failed request may go well without a system message.

        Servers put a template's refusal in many words, some in none. So it is tried, until a system message went well.
        """
        if messages[0]["role"] != "system" or self._takes_system or error.is_about_the_row or error.no_quota:
            return False
        return mentions_roles(error.said) or error.status in (400, 422, 424, 500)


def _options(settings: GenerationSettings, seed: int) -> tuple[dict[str, object], dict[str, object]]:
    """What a request must say, and what may be left out where the server refuses it: a seed, and what is its default.

    Models that reason take no temperature but 1, which is then theirs anyway.
    """
    sampling = settings.sampling
    options: dict[str, object] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    needed = {name: value for name, value in options.items() if value != 1}
    wished: dict[str, object] = {**{name: value for name, value in options.items() if value == 1}, "seed": seed}
    if settings.enable_thinking is not None:
        needed["extra_body"] = {"chat_template_kwargs": {"enable_thinking": settings.enable_thinking}}
    return needed, wished
