"""The documentation pages, and the commands and code blocks in them."""

import ast
import dataclasses
import re
import runpy
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "traitlens" / "README.md",
                *(ROOT / "experiments").glob("*/README.md")])  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a language on a page, in order."""
    found, fence = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), start=1):
        mark = re.match(r"\s*```(\w*)\s*$", line)
        if mark and fence is None:
            fence = (number, mark[1], [])
        elif mark:
            found.append(Block(page, fence[0], fence[1], "\n".join(fence[2])))
            fence = None
        elif fence is not None:
            fence[2].append(line)
    assert fence is None, f"{page}: a code block is never closed"
    return [block for block in found if block.language == language]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^\s*```.*?^\s*```\s*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def command_files() -> dict[str, Path]:
    """Every command of the project, by what a command line calls it: a script's path, or ``-m`` and a module."""
    found = {}
    for path in [*(ROOT / "extraction").rglob("*.py"), *(ROOT / "experiments" / "examples").glob("*.py")]:
        if "run_command(" in path.read_text(encoding="utf-8") and path.name != "cli.py":
            inside = path.parent == ROOT / "extraction" / "extraction"
            found[f"-m extraction.{path.stem}" if inside else str(path.relative_to(ROOT))] = path
    return found


def flags_of(path: Path) -> dict[str, bool]:
    """Flags of the function that a file hands to ``run_command``, and whether each is a yes-or-no flag.

    They are its parameters, or the fields of the settings that it takes.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    handed = [
        node.args[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command" and node.args
        if isinstance(node.args[0], ast.Name)
    ]
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    flags: dict[str, bool] = {}
    for name in handed:
        arguments = functions[name].args
        kinds = {a.arg: ast.unparse(a.annotation or ast.Constant(None)) for a in arguments.args + arguments.kwonlyargs}
        if list(kinds) == ["settings"]:
            fields = dataclasses.fields(runpy.run_path(str(path))[kinds["settings"]])
            kinds = {field.name: getattr(field.type, "__name__", field.type) for field in fields}
        flags |= {name: kind == "bool" for name, kind in kinds.items()}
    return flags


def command_lines(page: Path) -> list[tuple[str, str, list[str]]]:
    """Place, command and arguments of every call of our commands in the shell blocks of a page."""
    commands, found = command_files(), []
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").split("\n"):
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                name = f"-m {words[i + 1]}" if word == "-m" and i + 1 < len(words) else word
                rest = words[i + 1 + (word == "-m") :]
                is_ours = name.startswith("-m extraction") or word.endswith(".py")
                if is_ours and words[0] in ("python", "torchrun", "accelerate"):
                    assert name in commands, f"{block}: there is no command {name}"
                    found.append((str(block), name, rest))
                    break
    return found
