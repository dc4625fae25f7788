"""The one way in which interrupted work continues: what was finished is on disk, with the settings that made it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.formats.files import append_jsonl, read_jsonl


@dataclass(frozen=True)
class Journal:
    """Finished pieces of a run, and the settings that decide them; nothing is left of either when the run is whole.

    ``NAME.settings.partial.jsonl`` holds the settings, ``NAME.RANK.partial.jsonl`` a line for each finished piece, one
    file for each process. Settings come first and go first, so pieces without settings belong to no run.

    Attributes:
        folder: where the files are.
        name: what they are called.
    """

    folder: Path
    name: str

    @property
    def settings_path(self) -> Path:
        """The file that is there from the beginning of a run to its end."""
        return self.folder / f"{self.name}.settings.partial.jsonl"

    def settings(self) -> dict[str, Any] | None:
        """What the unfinished run was begun with, as JSON values; None where there is none."""
        begun = read_jsonl(self.settings_path)
        return begun[0] if begun else None

    def begin(self, settings: Mapping[str, object]) -> None:
        """Forget what there is, and begin a run with ``settings``."""
        self.clear()
        append_jsonl(self.settings_path, [settings])

    def is_of(self, settings: Mapping[str, object]) -> bool:
        """Whether an unfinished run was begun with just these settings."""
        asked: dict[str, Any] = json.loads(json.dumps(settings))  # tuples are lists when they are read back
        return self.settings() == asked

    def add(self, pieces: Iterable[Mapping[str, object]], rank: int = 0) -> None:
        """Note finished pieces of process ``rank``; they are on disk on return."""
        append_jsonl(self.folder / f"{self.name}.{rank}.partial.jsonl", pieces)

    def pieces(self, keys: Collection[str] = ()) -> list[dict[str, Any]]:
        """What all processes have finished; lines torn by a crash, or without one of ``keys``, are left out."""
        return [piece for path in self._paths() for piece in read_jsonl(path, keys)]

    def clear(self) -> None:
        """Remove the journal, its settings first."""
        self.settings_path.unlink(missing_ok=True)
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"{self.name}.*.partial.jsonl") if path != self.settings_path)
