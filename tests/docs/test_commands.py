"""Documented command lines exist as they are printed, and every flag and message is documented."""

import re

import pytest

from . import messages, pages

COMMANDS = pages.command_files()
STAGES = [name for name in COMMANDS if re.match(r"extraction/\d_", name)]
# Flags of other people's tools that our pages show.
FOREIGN = {"help", "check", "no-deps", "port", "tensor-parallel-size", "nproc_per_node", "num_processes"}
FOREIGN |= {"revision", "repo-type", "local-dir", "include", "exclude"}  # hf upload and download


def known_flags(command):
    """All ways to write a command's flags."""
    flags = pages.flags_of(COMMANDS[command])
    return set(flags) | {f"no{name}" for name, is_bool in flags.items() if is_bool}


def test_there_are_three_stages_and_their_flags_are_found():
    assert len(STAGES) == 3
    assert {"experiment", "trait", "traits", "experiments_dir"} <= set.intersection(*map(known_flags, STAGES))


def test_command_lines_are_found_in_the_pages():
    shown = [
        (command, argument)
        for page in pages.PAGES
        for _, command, rest in pages.command_lines(page)
        for argument in rest
    ]
    assert {command for command, _ in shown} >= {
        *STAGES,
        "experiments/examples/run_dynamics.py",
        "-m extraction.report",
    }
    assert len(shown) > 60


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_flag_in_a_command_line_is_one_of_that_command(page):
    for place, command, arguments in pages.command_lines(page):
        for argument in arguments:
            if argument.startswith("--"):
                name = argument[2:].partition("=")[0].replace("-", "_")
                assert name in known_flags(command), f"{place}: {command} has no flag --{name}"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_flag_in_the_text_is_one_of_some_command(page):
    known = set().union(*map(known_flags, COMMANDS)) | FOREIGN
    for code in re.findall(r"`([^`\n]+)`", pages.prose(page)):
        for name in re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", code):
            assert name in known | {"name"}, f"{page.name}: no command has a flag --{name} (in `{code}`)"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_flag_of_a_command_is_documented(command):
    places = [pages.ROOT / "docs" / "pipeline_guide.md"] if command in STAGES else pages.PAGES
    text = "\n".join(page.read_text(encoding="utf-8") for page in places)
    documented = set(re.findall(r"(?<![\w-])--(\w+)", text))
    missing = sorted(set(pages.flags_of(COMMANDS[command])) - documented)
    assert not missing, f"{command}: no page documents --{', --'.join(missing)}"


@pytest.mark.parametrize("command", STAGES)
def test_every_flag_of_a_stage_is_in_the_table_of_that_stage(command):
    guide = (pages.ROOT / "docs" / "pipeline_guide.md").read_text(encoding="utf-8")
    number = re.search(r"/(\d)_", command)[1]
    section = re.search(rf"^## Stage {number}:.*?(?=^## )", guide, flags=re.DOTALL | re.MULTILINE)[0]
    rows = "\n".join(line.split("|")[1] for line in section.split("\n") if line.startswith("|"))
    listed = set(re.findall(r"--(\w+)", rows))
    assert listed == set(pages.flags_of(COMMANDS[command]))


def test_every_message_that_ends_a_command_has_a_remedy_in_the_docs():
    docs = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in pages.PAGES)
    undocumented = []
    n_messages = 0
    for folder in ("utils", "extraction", "experiments"):
        for path in sorted((pages.ROOT / folder).rglob("*.py")):
            for message in messages.messages_in(path):
                n_messages += 1
                parts = messages.telling_parts(message)
                if parts and not any(part in docs for part in parts):
                    undocumented.append(f"{path.relative_to(pages.ROOT)}: {message}")
    assert n_messages > 60
    assert not undocumented, "add to the troubleshooting of docs/pipeline_guide.md:\n" + "\n".join(undocumented)
