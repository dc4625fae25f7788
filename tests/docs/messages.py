"""The messages that commands can end with, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

ERRORS = {"UserError", "MissingInputError", "DamagedFileError", "DefinitionError", "JudgeError"}
GAP = "…"  # stands for what a message fills in


def messages_in(path: Path) -> Iterator[str]:
    """The message of every error for users raised in a file, with a gap for each value that is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        call = node.exc
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name not in ERRORS or not call.args:
            continue
        place = {"DamagedFileError": 1, "DefinitionError": 1, "MissingInputError": 0}.get(name, 0)
        text = _text(call.args[place]) if place < len(call.args) else GAP
        yield {
            "DamagedFileError": f"{GAP}: {text}",
            "DefinitionError": f"{GAP}: {text}. See docs/creating_traits.md",
            "MissingInputError": f"{GAP} not found. {GAP}",
        }.get(name, text)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return GAP


def telling_parts(message: str) -> list[str]:
    """The pieces of a message between its gaps that are long enough to find it again."""
    own = message.replace("See docs/creating_traits.md", "")
    parts = (part.strip(" .,;:()'\"`") for part in own.split(GAP))
    return [part for part in parts if len(part) >= 8]
