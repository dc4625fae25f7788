"""From an experiment's vectors and texts to monitoring records: answers are generated, or existing ones read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from traitlens import TraitMonitor, prompt_segments, response_segments
from traitlens.monitor import OnToken
from utils.errors import UserError
from utils.experiment import SUMMARY, Experiment
from utils.formats.transcripts import Transcript
from utils.formats.vector_files import available_vectors, read_vector
from utils.models.compatibility import check_sizes, load_model_for, same_model
from utils.models.generation import Sampling, left_padded
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_conversation, token_texts
from utils.records import MonitoringRecord, TraitVector
from utils.vectors import load_vector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A trait's vector, and the vectors of its method at every layer where those are scored too."""

    main: TraitVector
    layers: tuple[TraitVector, ...] = ()

    @property
    def all(self) -> tuple[TraitVector, ...]:
        """The main vector, then the others in order of layer."""
        return (self.main, *self.layers)


def choose_vectors(
    lab: Experiment,
    traits: Sequence[str] = (),
    layer: int | None = None,
    method: str | None = None,
    all_layers: bool = False,
) -> dict[str, Chosen]:
    """The vectors to score with, by trait: of the traits named, or of all that have vectors.

    Args:
        lab: the experiment.
        traits: names; none means all.
        layer: by default the documented one of the model, or the best.
        method: by default the best at the layer.
        all_layers: also take the method's vectors at all other layers.

    Raises:
        UserError: no such vectors, or vectors of different models.
    """
    chosen = {}
    for folder in lab.select(traits, SUMMARY, lab.command(3, traits)):
        main = load_vector(lab.name, folder.trait, layer=layer, method=method, experiments_dir=lab.experiments_dir)
        places = [place for place in available_vectors(folder) if place[0] == main.method] if all_layers else []
        chosen[folder.trait] = Chosen(main, tuple(read_vector(folder, *place) for place in places))
    first = next(_vectors(chosen))
    for vector in _vectors(chosen):
        if not same_model(vector.model, first.model):
            names = f"{first.trait} is of {first.model}, {vector.trait} of {vector.model}"
            raise UserError(f"the vectors are of different models ({names}): name --traits of one")
    return chosen


def _vectors(chosen: Mapping[str, Chosen]) -> Iterator[TraitVector]:
    return (vector for c in chosen.values() for vector in c.all)


def describe_vectors(chosen: Mapping[str, Chosen]) -> dict[str, Any]:
    """What results depend on of the vectors, as JSON values."""
    return {
        trait: [[v.model, v.method, v.layer, v.baseline, *map(float, (v.vector.sum(), v.vector.norm()))] for v in c.all]
        for trait, c in chosen.items()
    }


def load_model_of(
    chosen: Mapping[str, Chosen],
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model that the vectors are of, loaded from ``model`` where that is given.

    Raises:
        UserError: ``model`` is another model, or has other sizes than the vectors.
    """
    first = next(_vectors(chosen))
    if model is not None and not same_model(first.model, model):
        raise UserError(f"the vectors are of {first.model}, not of {model}: extract vectors of {model} first")
    loaded = load_model_for(first, model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    for vector in _vectors(chosen):
        check_sizes(vector, loaded)
    return loaded


def monitor_texts(
    loaded: LoadedModel,
    chosen: Mapping[str, Chosen],
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
    prompts = [encode_prompt(loaded.tokenizer, format_conversation(loaded.tokenizer, t.messages)) for t in texts]
    vectors = {trait: [(v.vector, v.layer) for v in c.all] for trait, c in chosen.items()}
    with TraitMonitor(loaded.model, vectors, end_ids=loaded.end_ids, on_token=on_token) as monitor:
        responses = [encode_response(loaded.tokenizer, t.response) for t in texts if t.response is not None]
        if responses:
            _warn_of_length(loaded, [[*p, *r] for p, r in zip(prompts, responses, strict=True)])
            monitor.read(prompts, responses)
        else:
            _generate(loaded, prompts, sampling, seed)
        shared: dict[str, Any] = {"monitor": monitor, "with_prompt": prompt_scores}
        return [_record(loaded, chosen, t, prompts[row], row=row, **shared) for row, t in enumerate(texts)]


def _generate(loaded: LoadedModel, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> None:
    input_ids, attention_mask = left_padded(prompts, loaded.tokenizer.pad_token_id)
    with torch.random.fork_rng(devices=[loaded.device] if loaded.device.type == "cuda" else []), torch.inference_mode():
        torch.manual_seed(seed)
        loaded.model.generate(
            input_ids=input_ids.to(loaded.device), attention_mask=attention_mask.to(loaded.device),
            eos_token_id=sorted(loaded.end_ids), pad_token_id=loaded.tokenizer.pad_token_id,
            **sampling.generate_arguments(),
        )  # fmt: skip


def _warn_of_length(loaded: LoadedModel, sequences: Sequence[Sequence[int]]) -> None:
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, sequences))
    if limit is not None and longest > limit:
        logger.warning(
            "a text has %d tokens but %s was made for %d: scores after that mean little", longest, loaded.name, limit
        )


def _record(
    loaded: LoadedModel,
    chosen: Mapping[str, Chosen],
    text: Transcript,
    prompt_ids: Sequence[int],
    *,
    monitor: TraitMonitor,
    row: int,
    with_prompt: bool,
) -> MonitoringRecord:
    tokens = token_texts(loaded.tokenizer, monitor.token_ids(row))
    scores = {trait: s.tolist() for trait, s in monitor.scores(row).items()}
    prompt_tokens = token_texts(loaded.tokenizer, prompt_ids)
    segments = response_segments(tokens, text.turn, "".join(prompt_tokens))
    if with_prompt:
        segments = [*prompt_segments(prompt_tokens, text.messages), *segments]
    elif all(segment.part is None for segment in segments):
        segments = []  # one speaker, one part: nothing to tell apart
    in_prompt = {trait: s[0].tolist() for trait, s in monitor.prompt_scores(row).items()} if with_prompt else {}
    return MonitoringRecord(
        prompt=text.prompt,
        response="".join(tokens),
        tokens=tokens,
        trait_scores={trait: s[0] for trait, s in scores.items()},
        baselines={trait: c.main.baseline for trait, c in chosen.items() if c.main.baseline is not None},
        thresholds={trait: c.main.thresholds for trait, c in chosen.items() if c.main.thresholds},
        model=loaded.name,
        layer={trait: c.main.layer for trait, c in chosen.items()},
        method={trait: c.main.method for trait, c in chosen.items()},
        layer_scores={trait: _layer_scores(c, scores[trait]) for trait, c in chosen.items() if c.layers},
        prompt_tokens=prompt_tokens if with_prompt else [],
        prompt_trait_scores=in_prompt,
        segments=[asdict(segment) for segment in segments],
    )


def _layer_scores(chosen: Chosen, scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    return {
        "layers": [vector.layer for vector in chosen.layers],
        "baselines": [vector.baseline for vector in chosen.layers],
        "scores": list(scores[1:]),
    }
