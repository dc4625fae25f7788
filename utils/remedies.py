"""The command lines that error messages name, as a shell takes them: names and folders may hold spaces."""

import shlex
from collections.abc import Sequence
from pathlib import Path

_SCRIPTS = {1: "1_generate_responses.py", 2: "2_extract_activations.py", 3: "3_extract_vectors.py"}
_TEMPLATE = "extraction/extraction/templates/trait_definition_template.json"
_EXPERIMENTS_DIR = Path("experiments")  # the commands' own default


def stage_command(stage: int, experiments_dir: Path, experiment: str, traits: Sequence[str]) -> str:
    """The command line that makes the files of a stage, for all traits where none is named.

    >>> stage_command(3, Path("experiments"), "my_exp", ["refusal"])
    'Run: python extraction/3_extract_vectors.py --experiment my_exp --trait refusal'
    """
    words = ["python", f"extraction/{_SCRIPTS[stage]}", "--experiment", experiment]
    if traits:
        words += ["--trait" if len(traits) == 1 else "--traits", ",".join(traits)]
    if experiments_dir != _EXPERIMENTS_DIR:  # else it would make the files of another experiment
        words += ["--experiments_dir", str(experiments_dir)]
    return f"Run: {shlex.join(words)}"


def definition_remedy(definition: Path) -> str:
    """What to do where a trait has no definition yet."""
    folder = shlex.quote(str(definition.parent))
    return f"Begin one with: mkdir -p {folder} && cp {_TEMPLATE} {shlex.quote(str(definition))}"
