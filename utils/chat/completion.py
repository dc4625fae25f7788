"""What a chat completion holds, read with suspicion: a server may answer 200 with anything."""

from __future__ import annotations

from typing import Any

from utils.judges.endpoint import UnreadableAnswerError
from utils.judges.reading import Step


def first_choice(completion: Any) -> Any:
    """The first answer in a chat completion, None where there is none."""
    choices = getattr(completion, "choices", None)  # a server may answer 200 with a page or an error object
    return choices[0] if isinstance(choices, list) and choices else None


def text_of(completion: Any) -> str:
    """The text of a completion, empty where it has none."""
    content = getattr(getattr(first_choice(completion), "message", None), "content", None)
    return content if isinstance(content, str) else ""


def is_finished(completion: Any) -> bool:
    """Whether the model ended its answer by itself."""
    return getattr(first_choice(completion), "finish_reason", None) != "length"


def was_reasoning(completion: Any) -> bool:
    """Whether a cut completion shows nothing but reasoning."""
    text = text_of(completion)
    return not text.strip() or text.lstrip().startswith("<think")


def steps_of(completion: Any) -> list[Step]:
    """The generated tokens with the likeliest at each place; empty where the server gives none."""
    content = getattr(getattr(first_choice(completion), "logprobs", None), "content", None)
    try:
        steps = [
            Step(item.token, tuple((str(t.token), float(t.logprob)) for t in item.top_logprobs or []))
            for item in content or []
        ]
    except (
        AttributeError,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # the SDK does not check the types of what it parsed
        raise UnreadableAnswerError from error
    if not all(isinstance(step.token, str) for step in steps):
        raise UnreadableAnswerError
    return steps


def count_of(usage: Any, name: str) -> int:
    """A number of tokens that a server states, 0 where it states none."""
    count = getattr(usage, name, None)
    return count if isinstance(count, int) else 0


def score_schema(high: int) -> dict[str, Any]:
    """The response format that asks for ``{"score": N}`` from 0 to ``high`` and nothing else."""
    score = {"type": "integer", "minimum": 0, "maximum": high}
    schema = {"type": "object", "properties": {"score": score}, "required": ["score"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "score", "strict": True, "schema": schema}}
