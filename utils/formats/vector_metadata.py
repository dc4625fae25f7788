"""What is known of a vector: the side-car beside its tensor, and its row in the summary of a trait.

Everything but the vector's place and its model may be unknown. Vectors from elsewhere bring keys of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from utils.formats.files import parse_json
from utils.formats.json_records import Record, shown

_VECTOR_NAME = re.compile(r"(?P<method>\w{1,99})_layer(?P<layer>[0-9]{1,6})")


def vector_name(method: str, layer: int) -> str:
    """The name of a vector among those of its trait: of its files, and inside a bundle."""
    return f"{method}_layer{layer}"


def place_of(name: str) -> tuple[str, int] | None:
    """The method and the layer of a vector's name; None for what is no such name.

    >>> place_of("mean_diff_layer16"), place_of("../probe_layer16")
    (('mean_diff', 16), None)
    """
    match = _VECTOR_NAME.fullmatch(name)
    return (match["method"], int(match["layer"])) if match else None


@dataclass(frozen=True)
class IntervalRecord(Record):
    """A figure with its 95 % interval, and how many questions or other clusters that rests on."""

    value: float
    low: float
    high: float
    clusters: int | None = None


@dataclass(frozen=True)
class MetricsRecord(Record):
    """Held-out figures of one vector, as ``traitlens.validation.evaluation.Metrics`` describes them."""

    auroc: IntervalRecord | None = None
    accuracy: float | None = None
    cohens_d: float | None = None
    recall_at_1_fpr: float | None = None
    n_pos: int | None = None
    n_neg: int | None = None


@dataclass(frozen=True)
class NeutralRecord(Record):
    """Where neutral text lies on the vector: raw scores of single tokens."""

    mean: float | None = None
    std: float | None = None
    fpr_1: float | None = None
    fpr_5: float | None = None
    n_tokens: int | None = None

    @property
    def thresholds(self) -> dict[str, float]:
        """Scores that 1 % and 5 % of neutral tokens exceed ("fpr_1", "fpr_5"), as far as they are known."""
        return {key: score for key, score in (("fpr_1", self.fpr_1), ("fpr_5", self.fpr_5)) if score is not None}


@dataclass(frozen=True)
class AgainstNeutralRecord(Record):
    """How well positive responses are told from neutral text, as ``traitlens.validation.verdicts`` describes it."""

    auroc: IntervalRecord | None = None
    recall_5: float | None = None
    recall_1: float | None = None
    expressed_5: float | None = None
    expressed_1: float | None = None
    n_neutral: int | None = None


@dataclass(frozen=True)
class ReferenceRecord(Record):
    """Statistics of n responses of one kind that do not show the trait: the largest tenth, falling, and deciles."""

    n: int
    tail: tuple[float, ...]
    deciles: tuple[float, ...]


@dataclass(frozen=True)
class ThresholdsRecord(Record):
    """What a response of n tokens is held against.

    Its statistic, the mean centred score less ``centre`` over the square root of ``between + within / n``, is compared
    with those of each kind of text.

    Attributes:
        kinds: references by kind of text: everyday, neutral, negative.
        neutral: which of the kinds are neutral text.
    """

    centre: float
    between: float
    within: float
    kinds: Mapping[str, ReferenceRecord]
    neutral: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationRecord(Record):
    """Probability that a response shows the trait: ``sigmoid(slope * (score - baseline) + intercept)``."""

    slope: float | None = None
    intercept: float | None = None
    brier: float | None = None
    brier_skill: float | None = None


@dataclass(frozen=True)
class FitRecord(Record):
    """What a method says of its own fit.

    Attributes:
        train_acc: accuracy on the examples that it was fitted to (probe).
        component: number of the component taken (ICA).
        separation: how far apart that component holds the classes (ICA).
        converged: whether the solver finished (probe, ICA).
        loss: before the last step (gradient).
        n_steps: how many steps were taken (gradient).
    """

    train_acc: float | None = None
    component: int | None = None
    separation: float | None = None
    converged: bool | None = None
    loss: float | None = None
    n_steps: int | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> FitRecord:
        """As ``Record.from_json``; of a method's whole ``loss_history`` the last value and the length are kept."""
        rest = dict(value)
        history = rest.pop("loss_history", None)
        if isinstance(history, list) and history:
            rest |= {"loss": history[-1], "n_steps": len(history)}
        return super().from_json(rest)


@dataclass(frozen=True)
class CountsRecord(Record):
    """How many responses of a side were read, used, dropped by the threshold, and unscored."""

    read: int | None = None
    used: int | None = None
    dropped: int | None = None
    unscored: int | None = None


@dataclass(frozen=True)
class ControlRecord(Record):
    """What else reads the examples: a feature with its AUROC, or chance, tried many times, with mean and top twentieth.

    Attributes:
        advantage: how much better the chosen vector is.
    """

    auroc: float | None = None
    advantage: IntervalRecord | None = None
    mean: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ChoiceRecord(Record):
    """Which vector of the trait was chosen, and how well choosing this way reads what took no part in the choice.

    Attributes:
        auroc: of the nested choice.
        chosen_without_each_cell: what is chosen with less data; many different ones mean an unstable choice.
        warnings: reasons not to trust the choice.
    """

    method: str | None
    layer: int | None
    auroc: IntervalRecord | None
    chosen_without_each_cell: tuple[str, ...] | None = None
    warnings: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ImportRecord(Record):
    """Where a vector of another program came from."""

    file: str | None
    form: str | None
    model_hint: str | None


@dataclass(frozen=True, kw_only=True)
class VectorMetadata(Record):
    """The side-car of a vector: where it acts, its scale, how it was made and how far to trust it.

    Attributes:
        best: whether it was chosen among the vectors of its run.
        hook_point: "path" of the module and its "side", "input" or "output".
        norm: the distance of the class means along it, of the examples that it was fitted to.
        baseline: projection of the midpoint between the class means.
        revision: Hub commit of the model.
        texts_sha256: fingerprint of the responses' texts, per side.
        threshold: score that a positive example needed; None where nothing was judged.
        held_out: what was held out together, in words.
        source: address at the Hub, pinned to a commit.
    """

    method: str
    layer: int
    best: bool | None = None
    hook_point: Mapping[str, str] | None = None
    norm: float | None = None
    baseline: float | None
    neutral: NeutralRecord | None
    metrics: MetricsRecord | None
    calibration: CalibrationRecord | None
    against_neutral: AgainstNeutralRecord | None = None
    response_thresholds: ThresholdsRecord | None = None
    fit: FitRecord | None = None
    hyper_parameters: Mapping[str, object] | None = None
    trait: str
    experiment: str | None = None
    model: str
    revision: str | None
    n_layers: int | None = None
    hidden_size: int
    layer_convention: str | None = None
    context: str | None = None
    pooling: str | None = None
    template_hash: str | None = None
    responses_from: str | None = None
    texts_sha256: Mapping[str, str] | None = None
    counts: Mapping[str, CountsRecord] | None = None
    threshold: float | None
    held_out: str | None = None
    seed: int | None = None
    controls: Mapping[str, ControlRecord | None] | None = None
    choice: ChoiceRecord | None = None
    imported: ImportRecord | None = None
    versions: Mapping[str, str | None] | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        # The place becomes part of a file's name.
        if place_of(self.name) != (self.method, self.layer):
            raise ValueError(f"{shown(self.method)} at layer {shown(self.layer)} is not a method and a layer")

    @property
    def name(self) -> str:
        """Of the vector among those of its trait."""
        return vector_name(self.method, self.layer)

    @property
    def own_choice(self) -> ChoiceRecord | None:
        """How this vector was chosen; None for one that was not the choice."""
        choice = self.choice
        return choice if choice and (choice.method, choice.layer) == (self.method, self.layer) else None


@dataclass(frozen=True, kw_only=True)
class SummaryRow(Record):
    """One vector's row in the summary of its trait; the fields are the columns."""

    method: str
    layer: int
    best: bool | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    auroc_nested: float | None = None
    auroc_neutral: float | None = None
    auroc_neutral_low: float | None = None
    auroc_neutral_high: float | None = None
    recall_5_neutral: float | None = None
    recall_1_neutral: float | None = None
    expressed_5: float | None = None
    expressed_1: float | None = None
    accuracy: float | None = None
    cohens_d: float | None = None
    recall_at_1_fpr: float | None = None
    brier: float | None = None
    brier_skill: float | None = None
    norm: float | None = None
    baseline: float | None = None
    neutral_mean: float | None = None
    neutral_std: float | None = None
    fpr_1: float | None = None
    fpr_5: float | None = None
    train_acc: float | None = None
    converged: bool | None = None
    best_control: str | None = None
    best_control_auroc: float | None = None
    n_pos: int | None = None
    n_neg: int | None = None

    def __post_init__(self) -> None:
        if place_of(vector_name(self.method, self.layer)) != (self.method, self.layer):
            raise ValueError("names no method and layer")

    @classmethod
    def of(cls, metadata: VectorMetadata, *, best: bool) -> SummaryRow:
        """The row of a vector; ``best`` is for the one that the nested figure is of."""
        metrics, neutral = metadata.metrics or MetricsRecord(), metadata.neutral or NeutralRecord()
        fit, calibration = metadata.fit or FitRecord(), metadata.calibration or CalibrationRecord()
        against = metadata.against_neutral or AgainstNeutralRecord()
        nested = metadata.choice.auroc if best and metadata.choice else None
        controls = {name: c.auroc for name, c in (metadata.controls or {}).items() if c and c.auroc is not None}
        strongest = max(controls, key=controls.__getitem__, default=None)
        return cls(
            method=metadata.method,
            layer=metadata.layer,
            best=best,
            auroc=metrics.auroc.value if metrics.auroc else None,
            auroc_low=metrics.auroc.low if metrics.auroc else None,
            auroc_high=metrics.auroc.high if metrics.auroc else None,
            auroc_nested=nested.value if nested else None,
            auroc_neutral=against.auroc.value if against.auroc else None,
            auroc_neutral_low=against.auroc.low if against.auroc else None,
            auroc_neutral_high=against.auroc.high if against.auroc else None,
            recall_5_neutral=against.recall_5,
            recall_1_neutral=against.recall_1,
            expressed_5=against.expressed_5,
            expressed_1=against.expressed_1,
            accuracy=metrics.accuracy,
            cohens_d=metrics.cohens_d,
            recall_at_1_fpr=metrics.recall_at_1_fpr,
            brier=calibration.brier,
            brier_skill=calibration.brier_skill,
            norm=metadata.norm,
            baseline=metadata.baseline,
            neutral_mean=neutral.mean,
            neutral_std=neutral.std,
            fpr_1=neutral.fpr_1,
            fpr_5=neutral.fpr_5,
            train_acc=fit.train_acc,
            converged=fit.converged,
            best_control=strongest,
            best_control_auroc=controls[strongest] if strongest else None,
            n_pos=metrics.n_pos,
            n_neg=metrics.n_neg,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> SummaryRow:
        """The row that cells of a CSV hold; an empty one is unknown.

        Raises:
            ValueError: a cell has another form than its column; names it.
        """
        figures = {f.name for f in fields(cls)} - {"method", "best_control"}
        return cls.from_json({key: _value(key, cell) if key in figures else cell or None for key, cell in row.items()})

    def to_row(self) -> dict[str, object]:
        """What goes into the columns; None is an empty cell."""
        return {**{f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}, **self.extra}


def _value(column: str, cell: str) -> object:
    """What a cell means: nothing, true, false, a number, or else its text."""
    if cell in ("", "True", "False"):
        return cell == "True" if cell else None
    if column in ("n_pos", "n_neg"):
        cell = cell.removesuffix(".0")  # where a column had gaps, earlier versions wrote counts with a point
    try:
        return parse_json(cell)
    except ValueError:
        return cell
