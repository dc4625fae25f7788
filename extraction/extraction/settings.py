"""Flags that several commands share. A command's settings are its flags, and their docstring is its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from utils.experiment import Experiment


@dataclass(frozen=True)
class TraitsSettings:
    """Which traits of which experiment a command works on."""

    experiment: str
    trait: str | None = None
    traits: list[str] | None = None
    experiments_dir: str = field(default="experiments", kw_only=True)

    @property
    def home(self) -> Experiment:
        """The experiment."""
        return Experiment(Path(self.experiments_dir), self.experiment)

    @property
    def names(self) -> list[str]:
        """The traits named by ``--trait`` and ``--traits`` together; empty means all that the experiment has."""
        return ([self.trait] if self.trait else []) + list(self.traits or [])


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """Where and how a model is loaded."""

    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
