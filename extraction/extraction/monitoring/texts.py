"""From texts to monitoring records: answers are generated, or existing ones read, with every token scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from extraction.monitoring.vectors import VectorsOfTrait
from extraction.monitoring.verdicts import verdicts_on
from traitlens import TraitMonitor, prompt_segments, response_segments
from traitlens.monitor import OnToken
from traitlens.thinking import find_thinking
from utils.formats.transcripts import Transcript
from utils.models.generation import Sampling, left_padded
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_conversation, message_spans, token_texts
from utils.records import LayerScores, MonitoringRecord

logger = logging.getLogger(__name__)


def monitor_texts(
    loaded: LoadedModel,
    chosen: Mapping[str, VectorsOfTrait],
    texts: Sequence[Transcript],
    sampling: Sampling,
    *,
    seed: int = 0,
    prompt_scores: bool = False,
    on_token: OnToken | None = None,
) -> list[MonitoringRecord]:
    """One record per text, without dynamics: responses that are known are read, the others are generated.

    All texts go through the model together; ``seed`` decides what is sampled.

    Args:
        loaded: the model.
        chosen: vectors by trait.
        texts: either all with a response or all without.
        sampling: how responses are generated.
        seed: of sampling; the caller's random state is left as it was.
        prompt_scores: also give the prompts' tokens, their scores and whose turn they are.
        on_token: called with row, token id and scores (a list per trait, the main vector's first) while generating.
    """
    tokenizer = loaded.tokenizer
    prompts = [
        encode_prompt(tokenizer, format_conversation(tokenizer, text.messages, thinks=_thinks(text))) for text in texts
    ]
    responses = [encode_response(tokenizer, text.response) for text in texts if text.response is not None]
    vectors = {trait: [(v.vector, v.layer) for v in c.all] for trait, c in chosen.items()}
    with TraitMonitor(loaded.model, vectors, end_ids=loaded.end_ids, on_token=on_token) as monitor:
        if responses:
            _warn_of_length(loaded, prompts, responses)
            monitor.read(prompts, responses)
        else:
            generate(loaded, prompts, sampling, seed)
    return [_record(loaded, chosen, text, prompts[row], monitor, row, prompt_scores) for row, text in enumerate(texts)]


def generate(loaded: LoadedModel, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> None:
    """Let the model answer prompts (token ids) together, for a monitor that is on; random states stay as they were."""
    input_ids, attention_mask = left_padded(prompts, loaded.tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        loaded.model.generate(
            input_ids=input_ids.to(loaded.device), attention_mask=attention_mask.to(loaded.device),
            eos_token_id=sorted(loaded.end_ids), pad_token_id=loaded.tokenizer.pad_token_id,
            **sampling.generate_arguments(),
        )  # fmt: skip


def _warn_of_length(loaded: LoadedModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> None:
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    if limit is not None and longest > limit:
        logger.warning(
            "a text has %d tokens but %s was made for %d: scores after that mean little", longest, loaded.name, limit
        )


def _record(
    loaded: LoadedModel,
    chosen: Mapping[str, VectorsOfTrait],
    text: Transcript,
    prompt_ids: Sequence[int],
    monitor: TraitMonitor,
    row: int,
    with_prompt: bool,
) -> MonitoringRecord:
    tokens = token_texts(loaded.tokenizer, monitor.token_ids(row))
    scores = {trait: s.tolist() for trait, s in monitor.scores(row).items()}
    prompt_tokens = token_texts(loaded.tokenizer, prompt_ids)
    segments = response_segments(tokens, text.turn, "".join(prompt_tokens))
    if with_prompt:
        shown = "".join(prompt_tokens)
        spans = message_spans(loaded.tokenizer, text.messages, shown, thinks=_thinks(text))
        segments = [*prompt_segments(prompt_tokens, text.messages, spans), *segments]
    elif all(segment.part is None for segment in segments):
        segments = []  # one speaker, one part: nothing to tell apart
    main = {trait: c.main for trait, c in chosen.items()}
    verdicts = verdicts_on({trait: s[0] for trait, s in scores.items()}, main)
    return MonitoringRecord(
        prompt=text.prompt,
        response="".join(tokens),
        tokens=tokens,
        trait_scores={trait: s[0] for trait, s in scores.items()},
        baselines={trait: v.baseline for trait, v in main.items() if v.baseline is not None},
        thresholds={trait: v.thresholds for trait, v in main.items() if v.thresholds},
        verdicts={trait: asdict(verdict) for trait, verdict in verdicts.items()},
        model=loaded.name,
        layer={trait: v.layer for trait, v in main.items()},
        method={trait: v.method for trait, v in main.items()},
        layer_scores={trait: _layer_scores(c, scores[trait]) for trait, c in chosen.items() if c.layers},
        prompt_tokens=prompt_tokens if with_prompt else [],
        prompt_trait_scores={t: s[0].tolist() for t, s in monitor.prompt_scores(row).items()} if with_prompt else {},
        segments=[asdict(segment) for segment in segments],
    )


def _thinks(text: Transcript) -> bool | None:
    """Where a text is read: a plain response where the model answers; all else as the model's template has it."""
    return False if text.response is not None and find_thinking(text.response) is None else None


def _layer_scores(chosen: VectorsOfTrait, scores: Sequence[list[float]]) -> LayerScores:
    return {
        "layers": [vector.layer for vector in chosen.layers],
        "baselines": [vector.baseline for vector in chosen.layers],
        "scores": list(scores[1:]),
    }
