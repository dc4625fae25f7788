"""Mistakes that the user can mend: each is one line that says what was found and what to do."""

from pathlib import Path


class UserError(Exception):
    """A foreseeable mistake. Commands print its message as one line and end with status 1."""


class MissingInputError(UserError):
    """Something that an earlier step makes is not there."""

    def __init__(self, path: Path, remedy: str) -> None:
        super().__init__(f"{path} not found. {remedy}")


class DamagedFileError(UserError):
    """A file is not what its name says: truncated, foreign or edited."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. {remedy}")


class DefinitionError(UserError):
    """A trait definition lacks something or has it in the wrong form."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}. See docs/creating_traits.md")
