"""Stage 1 through an OpenAI-compatible server (vLLM, llama.cpp), the road past one machine for big models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from extraction.distributed import Process
from extraction.generate.responses import JOURNAL, Ask, GenerationSettings, finished_rows, plan
from utils.chat.completion import first_choice, text_of
from utils.chat.http_client import bounded_client
from utils.config import get_credential, keys_in, server_host, without_keys
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.formats.files import append_jsonl
from utils.judges.endpoint import UNREADABLE, UnreadableAnswerError, error_text
from utils.models.generation import Sampling, derived_seed
from utils.records import Response, TraitDefinition

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_SECONDS = 600.0  # until a request counts as failed, its whole answer included


@dataclass(frozen=True)
class Server:
    """A model behind an OpenAI-compatible address, asked by at most ``concurrency`` requests at once."""

    base_url: str
    model: str
    concurrency: int = 16

    def __post_init__(self) -> None:
        server_host("--gen_base_url", self.base_url)

    def source(self) -> dict[str, Any]:
        """Where responses come from, as far as it decides their text."""
        return {"model": self.model, "base_url": without_keys(self.base_url)}


def generate_through_server(
    folder: TraitFolder,
    definition: TraitDefinition,
    server: Server,
    settings: GenerationSettings,
    process: Process,
    progress: Callable[[int], object],
) -> None:
    """Generate this process's share of the missing responses into the journal, each as soon as it is there.

    Raises:
        UserError: the server refuses the request or cannot be reached; what was finished is kept.
    """
    done = finished_rows(folder)
    asks = list(process.mine(plan(definition, settings)))
    missing = [ask for ask in asks if (ask.polarity, ask.row) not in done]
    progress(len(asks) - len(missing))
    asyncio.run(_ask_all(folder, missing, server, settings, process, progress))


async def _ask_all(
    folder: TraitFolder,
    asks: list[Ask],
    server: Server,
    settings: GenerationSettings,
    process: Process,
    progress: Callable[[int], object],
) -> None:
    from openai import APIError, AsyncOpenAI, DefaultAsyncHttpxClient

    journal = folder.journal_path(f"{JOURNAL}.{process.rank}")
    queue = iter(asks)

    async with AsyncOpenAI(
        base_url=server.base_url,
        api_key=get_credential("GEN_API_KEY") or "none",
        max_retries=5,
        timeout=_SECONDS,
        http_client=bounded_client(DefaultAsyncHttpxClient, _SECONDS),
    ) as client:

        async def worker() -> None:
            for ask in queue:
                seed = derived_seed(settings.seed, folder.trait, ask.polarity, ask.row) % 2**31
                response = await _ask(client, server.model, ask, settings.sampling, seed)
                append_jsonl(journal, [{"polarity": ask.polarity, "row": ask.row, "response": asdict(response)}])
                progress(1)

        tasks = [asyncio.create_task(worker()) for _ in range(min(server.concurrency, len(asks)))]
        try:
            await asyncio.gather(*tasks)
        except (APIError, *UNREADABLE) as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            said = "its answer was not a chat completion in JSON"
            if isinstance(error, APIError):
                said = f"{getattr(error, 'status_code', 'no answer')}: {error_text(error, *keys_in(server.base_url))}"
            where = f"{without_keys(server.base_url)} with --gen_model {server.model}"
            raise UserError(f"{where}: {said}. Finished responses are kept; run again") from error


async def _ask(client: AsyncOpenAI, model: str, ask: Ask, sampling: Sampling, seed: int) -> Response:
    from openai import BadRequestError

    arguments: dict[str, Any] = {
        "model": model, "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature,
        "top_p": sampling.top_p, "seed": seed,
    }  # fmt: skip
    messages = [{"role": "user", "content": ask.question}]
    if ask.instruction:
        messages.insert(0, {"role": "system", "content": ask.instruction})
    try:
        completion = await client.chat.completions.create(messages=messages, **arguments)  # type: ignore[arg-type]
    except BadRequestError as error:
        if "system" not in str(error).lower() or not ask.instruction:
            raise
        # The served model's template has no system role (Gemma 2): as in utils.prompts, before the question.
        messages = [{"role": "user", "content": f"{ask.instruction}\n\n{ask.question}"}]
        completion = await client.chat.completions.create(messages=messages, **arguments)  # type: ignore[arg-type]
    choice = first_choice(completion)
    if choice is None or getattr(choice, "message", None) is None:
        raise UnreadableAnswerError
    prompt = "\n\n".join(m["content"] for m in messages)
    said = getattr(choice, "finish_reason", None)
    reason = str(said) if said in ("stop", "length") else ""
    text = text_of(completion).strip()
    return Response(ask.question, ask.instruction, prompt, text, finish_reason=reason)
