"""Gives an editable installation what the pipeline imports; the wheel holds the toolkit and needs no more than it."""

from __future__ import annotations

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PipelineDependencies(BuildHookInterface):
    """Adds the extra ``pipeline`` to the requirements of the editable installation."""

    def initialize(self, version: str, build_data: dict[str, list[str]]) -> None:
        """Called by hatchling before it builds: ``version`` is "editable" or "standard"."""
        if version == "editable":
            build_data["dependencies"].extend(self.metadata.core.optional_dependencies["pipeline"])
