"""How responses are judged."""

from dataclasses import dataclass

from extraction.cli import check_range
from utils.records import DEFAULT_THRESHOLD


@dataclass(frozen=True)
class JudgeSettings:
    """How to judge, as the flags of stage 1 say it; ``threshold`` None means the default, which ``kept_from`` knows."""

    judge_model: str | None = None
    judge_base_url: str | None = None
    judge_concurrency: int = 20
    judge_samples: int = 1
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_range("judge_concurrency", self.judge_concurrency, 1)
        check_range("judge_samples", self.judge_samples, 1)
        check_range("threshold", self.threshold, 0, 100)

    @property
    def kept_from(self) -> float:
        """The score from which a response shows what it was asked for."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold
