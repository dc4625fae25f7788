"""A trait's definition: instruction pairs, questions and what a judge is asked."""

from __future__ import annotations

from pathlib import Path

from utils.errors import DefinitionError
from utils.experiment import TraitFolder
from utils.formats.files import read_json
from utils.records import InstructionPair, TraitDefinition
from utils.remedies import definition_remedy


def read_definition(folder: TraitFolder) -> TraitDefinition:
    """The trait's definition.

    Raises:
        MissingInputError: there is none; says how to begin one.
        DefinitionError: a key is missing or has the wrong form.
    """
    value = read_json(folder.definition_path, definition_remedy(folder.definition_path))
    return parse_definition(value, folder.definition_path, folder.trait)


def definition_behind(folder: TraitFolder, experiment_name: str | None) -> TraitDefinition:
    """The trait's definition, or where it has none that of the experiment that its responses came from.

    Raises:
        MissingInputError, DefinitionError: there is none, or it is not one.
    """
    if experiment_name and not folder.definition_path.is_file():
        folder = folder.in_experiment(experiment_name)
    return read_definition(folder)


def parse_definition(value: object, path: Path, trait: str) -> TraitDefinition:
    """A definition from its JSON value; other keys than the documented ones are comments.

    Raises:
        DefinitionError: names the key at fault and what was found.
    """
    if not isinstance(value, dict):
        raise DefinitionError(path, f"expected a JSON object, found {type(value).__name__}")
    for key in ("instruction", "questions", "eval_prompt"):
        if key not in value:
            raise DefinitionError(path, f"key {key!r} is missing; found {', '.join(map(str, value)) or 'nothing'}")
    problem = (
        _problem_of_pairs(value["instruction"])
        or _problem_of_questions(value["questions"])
        or _problem_of_eval_prompt(value["eval_prompt"])
    )
    if problem:
        raise DefinitionError(path, problem)
    instruction = tuple(InstructionPair(pair["pos"], pair["neg"]) for pair in value["instruction"])
    return TraitDefinition(trait, instruction, tuple(value["questions"]), value["eval_prompt"])


def _problem_of_pairs(pairs: object) -> str | None:
    if not isinstance(pairs, list) or not pairs:
        return "'instruction' must be a list of pos/neg pairs with at least one"
    for i, pair in enumerate(pairs):
        for side in ("pos", "neg"):
            if not isinstance(pair, dict) or not _is_text(pair.get(side)):
                return f"'instruction'[{i}] needs a non-empty text under {side!r}"
    return None


def _problem_of_questions(questions: object) -> str | None:
    if not isinstance(questions, list) or not questions or not all(_is_text(q) for q in questions):
        return "'questions' must be a list of non-empty texts with at least one"
    if len(set(questions)) < len(questions):
        double = next(q for i, q in enumerate(questions) if q in questions[:i])
        return f"'questions' holds the same question twice: {double[:60]!r}"
    return None


def _problem_of_eval_prompt(eval_prompt: object) -> str | None:
    if not isinstance(eval_prompt, str):
        return "'eval_prompt' must be a text"
    missing = [p for p in ("{question}", "{answer}") if p not in eval_prompt]
    return f"'eval_prompt' lacks {missing[0]}, so a judge would never see it" if missing else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
