"""What a judge's scores are worth: how far they agree with what was intended, and what to do where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean

from utils.errors import DamagedFileError
from utils.experiment import TraitFolder
from utils.formats.response_files import read_responses_metadata
from utils.records import Polarity, Response

LOW_AUROC = 0.6
LOW_CONTRAST = 20.0


@dataclass(frozen=True)
class EarlierJudge:
    """What a judge found whose scores another one's have replaced."""

    name: str | None = None
    auroc: float | None = None
    contrast: float | None = None
    mean_pos: float | None = None
    mean_neg: float | None = None


@dataclass(frozen=True)
class JudgeReport:
    """What the responses' metadata hold under "judge"; figures that need both sides are None without them.

    Attributes:
        name: of the judge; None where nobody judged, and then all else is empty.
        eval_prompt_sha256: fingerprint of the prompt.
        methods: how many scores were made in which way.
        scored, unscored: responses of each side with and without a score.
        auroc: the chance that a positive response scores above a negative one.
        contrast: mean score of the positive responses minus that of the negative ones.
        mean_pos, mean_neg, mean_neutral: mean scores.
        threshold: the score from which a response shows what it was asked for.
        kept: responses of both sides that do.
        reasons: the most frequent ones why there is no score.
        tokens: sent and received.
        earlier: the judges before this one.
        warnings: what a user should know before going on.
    """

    name: str | None = None
    eval_prompt_sha256: str = ""
    methods: dict[str, int] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, int] = field(default_factory=dict)
    auroc: float | None = None
    contrast: float | None = None
    mean_pos: float | None = None
    mean_neg: float | None = None
    mean_neutral: float | None = None
    threshold: float | None = None
    kept: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    earlier: list[EarlierJudge] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, value: object) -> JudgeReport:
        """The report that ``to_json`` wrote; what an older version did not write is empty.

        Raises:
            TypeError: it is none.
        """
        known = _known_fields(cls, value)
        earlier = known.get("earlier", [])
        if not isinstance(earlier, list):
            raise TypeError(f"'earlier' is not a list but {earlier!r:.60}")
        before = [EarlierJudge(**_known_fields(EarlierJudge, judge)) for judge in earlier]  # type: ignore[arg-type]
        return cls(**{**known, "earlier": before})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return {"name": None} if self.name is None else asdict(self)

    def before(self, name: str) -> list[EarlierJudge]:
        """The judges whose scores the judge ``name`` replaces."""
        earlier = [judge for judge in self.earlier if judge.name != name]
        if self.name in (None, name):
            return earlier
        return [*earlier, EarlierJudge(self.name, self.auroc, self.contrast, self.mean_pos, self.mean_neg)]


def read_report(folder: TraitFolder) -> JudgeReport:
    """The report on the judge of a trait's responses; empty where nothing is recorded.

    Raises:
        DamagedFileError: something else stands in its place.
    """
    recorded = read_responses_metadata(folder).get("judge") or {}
    try:
        return JudgeReport.from_json(recorded)
    except TypeError as error:
        raise DamagedFileError(folder.responses_metadata_path, str(error), folder.command(1)) from error


def _known_fields(kind: type, value: object) -> dict[str, object]:
    """The entries of a JSON object that are fields of the dataclass ``kind``."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str | None):
        raise TypeError(f"not a judge with a name but {value!r:.60}")
    names = {f.name for f in fields(kind)}
    return {key: entry for key, entry in value.items() if key in names}


def auroc_of(pos: Sequence[float], neg: Sequence[float]) -> float | None:
    """The chance that a positive example scores above a negative one, ties counting half; None where a side is empty.

    >>> auroc_of([80.0, 50.0], [50.0, 10.0])
    0.875
    """
    import torch

    from traitlens.validation.evaluation import auroc

    if not pos or not neg:
        return None
    labels = torch.tensor([True] * len(pos) + [False] * len(neg))
    return auroc(torch.tensor([*pos, *neg], dtype=torch.float64), labels)


def report_on(
    sides: Mapping[Polarity, Sequence[Response]],
    threshold: float,
    *,
    name: str,
    eval_prompt_sha256: str,
    reasons: Sequence[str],
    tokens: int,
    earlier: list[EarlierJudge],
) -> JudgeReport:
    """The report on scored responses of all sides; arguments as in ``JudgeReport``, ``reasons`` one by one."""
    scores = {side: [r.trait_score for r in sides[side] if r.trait_score is not None] for side in sides}
    means = {side: fmean(values) if values else None for side, values in scores.items()}
    pos, neg = means["pos"], means["neg"]
    methods = Counter(r.judge_method for responses in sides.values() for r in responses if r.trait_score is not None)
    auroc = auroc_of(scores["pos"], scores["neg"])
    contrast = None if pos is None or neg is None else pos - neg
    return JudgeReport(
        name=name,
        eval_prompt_sha256=eval_prompt_sha256,
        methods=dict(methods),
        scored={side: len(scores[side]) for side in sides},
        unscored={side: len(sides[side]) - len(scores[side]) for side in sides},
        auroc=auroc,
        contrast=contrast,
        mean_pos=pos,
        mean_neg=neg,
        mean_neutral=means["neutral"],
        threshold=threshold,
        kept={side: sum(r.shows(side, threshold) is True for r in sides[side]) for side in ("pos", "neg")},
        reasons=dict(Counter(reasons).most_common(5)),
        tokens=tokens,
        earlier=earlier,
        warnings=_warnings(auroc, contrast, [side for side in ("pos", "neg") if not scores[side]]),
    )


def _warnings(auroc: float | None, contrast: float | None, empty: Sequence[str]) -> list[str]:
    warnings = []
    if auroc is None:
        warnings.append(f"no {' and no '.join(empty)} response has a score, so the judge cannot be checked")
    elif auroc < LOW_AUROC:
        warnings.append(
            f"this judge cannot tell the sides apart (AUROC {auroc:.2f}): use another --judge_model with --judge_only, "
            "or keep all scored responses with --threshold 0"
        )
    if contrast is not None and contrast < LOW_CONTRAST:
        warnings.append(
            f"contrast is low ({contrast:.1f}): strengthen the trait's instructions, keep clearer responses only "
            "(for example --threshold 60), or try another extraction method (probe often does better than mean_diff)"
        )
    return warnings
