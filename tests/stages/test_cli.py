import dataclasses
import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from extraction.cli import for_each_trait, run_command

from utils.config import get_credential
from utils.errors import UserError
from utils.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]


def _run(arguments):
    """What the command was called with, and the exit status."""
    seen = {}

    def command(
        experiment: str,
        traits: list[str] | None = None,
        layers: list[int] | None = None,
        context: Literal["question", "full"] = "question",
        store: Literal["float16", "float32"] | None = None,
        device: str | None = None,
        top_p: float = 1.0,
        overwrite: bool = False,
    ) -> None:
        seen.update(locals())

    with pytest.raises(SystemExit) as ended:
        run_command(command, arguments)
    seen.pop("seen", None)
    return seen, ended.value.code


@pytest.mark.parametrize("text", ["2025_11_20", "a # b", "1e3", "None", "[1]", "ünï cödé", "-x", "'q'", "a=b", ""])
def test_a_text_arrives_as_typed(text):
    seen, code = _run([f"--experiment={text}"])
    assert (seen["experiment"], code) == (text, 0)


def test_lists_are_split_at_commas_and_numbers_parsed():
    seen, _ = _run(["--experiment", "e", "--traits", "a, b,", "--layers", "16,3", "--top-p", "0.5", "--overwrite"])
    assert (seen["traits"], seen["layers"], seen["top_p"], seen["overwrite"]) == (["a", "b"], [16, 3], 0.5, True)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Do it.

    Args:
        experiment: its name.
        layers: their numbers.
    """

    experiment: str
    layers: list[int] | None = None
    overwrite: bool = dataclasses.field(default=False, kw_only=True)


def test_the_fields_of_a_commands_settings_are_its_flags_and_their_docstring_its_help(capsys):
    seen = []

    def command(settings: _Settings) -> None:
        seen.append(settings)

    for arguments in (["--experiment", "2025_11_20", "--layers", "16,3", "--overwrite"], ["--experiment", "e"]):
        with pytest.raises(SystemExit) as ended:
            run_command(command, arguments)
        assert ended.value.code == 0
    assert seen == [_Settings("2025_11_20", [16, 3], overwrite=True), _Settings("e")]
    with pytest.raises(SystemExit):
        run_command(command, ["--help"])
    told = capsys.readouterr().out
    assert all(words in told for words in ("Do it.", "--experiment=EXPERIMENT (required)", "their numbers."))
    with pytest.raises(SystemExit):
        run_command(command, ["--settings", "e"])
    assert "unknown flag --settings" in capsys.readouterr().err


def test_a_flag_can_be_switched_off():
    assert _run(["--experiment", "e", "--nooverwrite"])[0]["overwrite"] is False
    assert _run(["--experiment", "e", "--overwrite=false"])[0]["overwrite"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "e", "--trait", "x"], "unknown flag --trait; did you mean --traits?"),
        (["--experiment", "e", "--frobnicate"], "unknown flag --frobnicate"),
        (["--experiment", "e", "stray"], "unexpected argument 'stray'"),
        (["--experiment", "e", "--experiment", "f"], "--experiment is given twice"),
        (["--experiment", "--overwrite"], "--experiment needs a value"),
        (["--traits", "a"], "--experiment is required"),
        (["--experiment", "e", "--layers", "sixteen"], "--layers must be a number of type int, got 'sixteen'"),
        (["--experiment", "e", "--layers", ","], "--layers names nothing, got ','"),
        (["--experiment", "e", "--traits="], "--traits names nothing, got ''"),
        (["--experiment", "e", "--context", "half"], "--context must be question or full, got 'half'"),
        (["--experiment", "e", "--store", "int8"], "--store must be float16 or float32, got 'int8'"),
        (["--experiment", "e", "--device="], "--device names nothing, got ''"),
        (["--experiment", "e", "--overwrite=maybe"], "--overwrite must be True or False"),
    ],
)
def test_a_wrong_flag_is_one_line_and_nothing_runs(arguments, said, capsys):
    seen, code = _run(arguments)
    error = capsys.readouterr().err
    assert code == 1
    assert seen == {}
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_users_mistake_inside_the_command_is_one_line_without_traceback(capsys):
    def command() -> None:
        raise UserError("the file\nis gone")

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: the file is gone\n"


def _ended_by(error):
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    return ended.value.code


def test_a_full_disk_or_a_missing_package_is_one_line_with_the_remedy(capsys):
    assert _ended_by(OSError(errno.ENOSPC, "No space left on device", "a.csv")) == 1
    assert capsys.readouterr().err.startswith("error: a.csv: No space left on device. ")
    assert _ended_by(ModuleNotFoundError("no", name="accelerate")) == 1
    assert capsys.readouterr().err == "error: the package 'accelerate' is missing. Run: pip install -e .\n"


@pytest.mark.parametrize("asked", [["--help"], ["--n=100000"]], ids=["help", "output"])
def test_output_that_is_not_read_to_its_end_gives_no_traceback(asked):
    program = (
        "import sys\nfrom extraction.cli import run_command\n"
        "def command(n: int):\n    for _ in range(n): sys.stdout.write('many words\\n')\n"
        "run_command(command)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    wanted = (0, "") if asked == ["--help"] else (1, "error: the reader of the output has ended. Run the same command")
    assert process.wait() == wanted[0], error
    assert error.startswith(wanted[1])
    assert error.count("\n") == wanted[0]


def test_a_warning_of_the_hub_is_one_line():
    program = (
        "import logging\nfrom extraction.cli import run_command\n"
        "def command():\n"
        "    from huggingface_hub.utils import logging as hub\n"
        "    hub.get_logger('huggingface_hub.test').warning('retrying')\n"
        "run_command(command)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.count("retrying") == 1


def test_an_error_of_the_system_that_no_user_can_mend_keeps_its_traceback():
    with pytest.raises(OSError, match="I/O error"):
        _ended_by(OSError(errno.EIO, "I/O error"))


def test_an_interrupted_command_ends_as_shells_expect():
    assert _ended_by(KeyboardInterrupt()) == 130


def test_every_command_finds_the_keys_of_the_env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "")  # so that what the command sets is taken back
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / ".env").write_text("HF_TOKEN=hf_from_the_file\n")
    seen = []

    def command() -> None:
        seen.append(get_credential("HF_TOKEN"))

    with pytest.raises(SystemExit):
        run_command(command, [])
    assert seen == ["hf_from_the_file"]


def test_a_launch_that_would_make_every_process_do_all_the_work_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    ran = []

    def command() -> None:
        ran.append(1)

    with pytest.raises(SystemExit) as ended:
        run_command(command, [])
    assert (ended.value.code, ran) == (1, [])
    assert "one process's work, and this launch has 4" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run_command(command, [], splits=True)
    assert (ended.value.code, ran) == (0, [1])


def test_other_traits_go_on_after_one_failed_and_the_failure_is_named(tmp_path):
    done, folders = [], [Experiment(tmp_path, "e").trait(name) for name in ("a", "b", "c")]

    def work(folder):
        if folder.trait == "b":
            raise UserError("broken")
        done.append(folder.trait)

    with pytest.raises(UserError, match="1 of 3 traits failed: b"):
        for_each_trait(folders, work)
    assert done == ["a", "c"]
    with pytest.raises(UserError, match=r"^broken$"):
        for_each_trait(folders, work, stop_at_first=True)
    assert done == ["a", "c", "a"]
    with pytest.raises(UserError, match=r"^broken$"):
        for_each_trait(folders[1:2], work)


@pytest.mark.alone
@pytest.mark.parametrize("script", sorted((ROOT / "extraction").glob("[0-9]_*.py")), ids=lambda p: p.name)
def test_help_answers_in_under_a_second_and_names_every_flag(script):
    began = time.perf_counter()
    result = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    assert result.returncode == 0
    assert "--experiments_dir" in result.stdout
    assert "--experiment=EXPERIMENT (required)" in result.stdout
    assert "POSITIONAL" not in result.stdout  # a value without its flag is refused
    assert result.stderr == ""
    probe = (
        "import sys, runpy\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\nassert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)
    assert took < 3  # under a second on an idle machine; the imports above are what decides it


@pytest.mark.parametrize("library", ["huggingface_hub", "transformers"])
def test_words_that_a_library_writes_itself_do_not_command_the_terminal(library):
    # The Hub's client passes a server's warnings on, through a handler of its own.
    code = f"""
import logging
from extraction.cli import run_command
def command() -> None:
    import {library}
    logging.getLogger("{library}.x").warning("the server said %s", "\x1b[2J \u0645\u0631\u062d\u0628\u0627")
run_command(command, [])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    said = ended.stderr.decode()
    assert "the server said \ufffd[2J \u0645\u0631\u062d\u0628\u0627" in said
    assert "\x1b" not in said


def test_words_of_servers_and_files_do_not_command_the_terminal():
    code = """
import logging
from extraction.cli import run_command
from utils.errors import UserError
def command() -> None:
    logging.getLogger("x").warning("the server said \\x1b]0;title\\x07 \\x9b2J %s", "\\u202eevil\\r")
    raise UserError("found \\x1b[31m in \\u2066\u0645\u0631\u062d\u0628\u0627 \U0001f600")
run_command(command, [])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 1
    line, error = ended.stderr.decode().rstrip("\n").split("\n")
    assert line == "the server said \ufffd]0;title\ufffd \ufffd2J \ufffdevil\ufffd"
    assert error == "error: found \ufffd[31m in \ufffd\u0645\u0631\u062d\u0628\u0627 \U0001f600"
