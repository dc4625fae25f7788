"""Who has installed the packages that the project needs, but not the project, is told so in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "extraction").glob("[0-9]_*.py")), *sorted((ROOT / "experiments" / "examples").glob("*.py"))]


def _ended(*command, cwd=ROOT):
    """The command, run by an interpreter that reads no .pth file: packages are there, editable projects are not."""
    environment = {**os.environ, "PYTHONPATH": str(Path(torch.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-S", *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("asked", [[], ["--help"]], ids=["work", "help"])
def test_a_script_names_the_command_that_installs_the_project(script, asked):
    said = _ended(script, *asked)
    assert said.startswith("error: ")
    assert said.endswith("run: pip install -e .\n")


def test_a_command_of_the_package_does_so_too():
    assert _ended("-m", "extraction.check_model", cwd=ROOT / "extraction").endswith("run: pip install -e .\n")
    # From the project's folder Python finds no module that could say more.
    assert _ended("-m", "extraction.check_model").endswith("No module named extraction.check_model\n")
