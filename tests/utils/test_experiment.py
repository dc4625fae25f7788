import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.definition import parse_definition, read_definition
from utils.errors import DamagedFileError, DefinitionError, MissingInputError, UserError
from utils.experiment import Experiment
from utils.formats.files import append_jsonl, parse_json, read_jsonl, remove_leftovers, write_json
from utils.formats.response_files import read_responses, write_responses
from utils.records import Response

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = {
    "instruction": [{"pos": "Refuse.", "neg": "Answer."}],
    "questions": ["Why?", "How?"],
    "eval_prompt": "Score {answer} to {question}.",
}


@pytest.fixture
def folder(tmp_path):
    return Experiment(tmp_path, "exp").trait("refusal")


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", "-x", "a\x00b", "/abs", "a\\b", "x" * 300, "ends ", "ends."]
)
def test_a_name_that_could_leave_the_experiments_folder_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="cannot be the name of"):
        Experiment(tmp_path, name)
    with pytest.raises(UserError, match="cannot be the name of"):
        Experiment(tmp_path, "exp").trait(name)


@pytest.mark.parametrize("name", ["gemma_2b_it_nov12", "Höflichkeit", "a b", "礼貌", "2025_11_20", "v1.2+x"])
def test_ordinary_names_of_any_language_are_names(name, tmp_path):
    assert Experiment(tmp_path, name).trait(name).root == tmp_path / name / name


@pytest.mark.parametrize("place", ["experiments", "my labs/experiments"])
@pytest.mark.parametrize("traits", [(), ("evil",), ("evil", "a b")])
def test_the_command_that_makes_what_is_missing_is_for_the_same_folder_and_traits(place, traits):
    lab = Experiment(Path(place), "my exp")
    with pytest.raises(MissingInputError) as missing:
        lab.select(traits, "vectors/summary.csv", lab.command(3, traits))
    words = shlex.split(str(missing.value).partition("Run: ")[2])
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["python", "extraction/3_extract_vectors.py"]
    assert flags.pop("--experiment") == "my exp"
    assert flags.pop("--experiments_dir", "experiments") == place
    assert tuple(",".join(flags.values()).split(",") if flags else ()) == traits
    one = shlex.split(lab.trait("a b").command(1).removeprefix("Run: "))
    assert one[2:6] == ["--experiment", "my exp", "--trait", "a b"]
    assert one[6:] == ([] if place == "experiments" else ["--experiments_dir", place])


def test_the_command_that_begins_a_definition_begins_it(tmp_path):
    folder = Experiment(tmp_path / "my labs", "my exp").trait("a b")
    with pytest.raises(MissingInputError) as missing:
        read_definition(folder)
    subprocess.run(str(missing.value).partition("Begin one with: ")[2], shell=True, check=True, cwd=ROOT)
    assert folder.definition_path.is_file()


_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)


@given(texts=st.lists(st.tuples(_text, _text, _text), min_size=1, max_size=4), score=st.none() | st.floats(0, 100))
def test_responses_come_back_from_a_csv_as_they_were(tmp_path_factory, texts, score):
    folder = Experiment(tmp_path_factory.mktemp("e"), "exp").trait("refusal")
    rounded = None if score is None else round(score, 4)
    responses = [Response(q, i, f"{i}{q}", r, trait_score=rounded, judge_method="m") for q, i, r in texts]
    write_responses(folder, "pos", responses)
    assert read_responses(folder, "pos") == responses


@pytest.mark.parametrize(
    "text", ["NA", "null", "nan", 'say "hi", twice', "line\nbreak", "carriage\r\nreturn", " padded ", "x" * 10**6]
)
def test_awkward_cells_survive(folder, text):
    write_responses(folder, "neg", [Response(text, text, text, text)])
    assert read_responses(folder, "neg")[0].response == text


def test_an_empty_score_is_unknown_and_not_zero(folder):
    write_responses(folder, "pos", [Response("q", "", "q", "a"), Response("q", "", "q", "b", trait_score=0.0)])
    assert [r.trait_score for r in read_responses(folder, "pos")] == [None, 0.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a CSV table"),
        (b"a,b\n1,2\n", "lacks the column question, instruction, prompt, response, trait_score"),
        (b"question,instruction,prompt,response,trait_score\nq,,q,a,high\n", "row 1: trait_score 'high'"),
        (b"question,instruction,prompt,response,trait_score\nq,,q,a,101\n", "row 1: trait_score '101'"),
        (b"question,instruction,prompt,response,trait_score\nq,,q,a,nan\n", "row 1: trait_score 'nan'"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_damaged_csv_is_named_with_the_command_that_makes_it_again(folder, content, said):
    path = folder.responses_path("pos")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as error:
        read_responses(folder, "pos")
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "python extraction/1_generate_responses.py --experiment exp --trait refusal" in str(error.value)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_table_with_another_separator_is_refused_by_its_name(folder, separator):
    path = folder.responses_path("pos")
    path.parent.mkdir(parents=True)
    rows = [["question", "instruction", "prompt", "response", "trait_score"], ["q", "i, j", "p", "Yes, of course", "8"]]
    path.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows))
    with pytest.raises(DamagedFileError, match=r"are separated by .*, not by commas") as error:
        read_responses(folder, "pos")
    assert repr(separator) in str(error.value)


def test_a_csv_with_windows_line_ends_and_a_byte_order_mark_is_read(folder):
    path = folder.responses_path("pos")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xef\xbb\xbfquestion,instruction,prompt,response,trait_score\r\nq,,q,a,70\r\n")
    assert read_responses(folder, "pos") == [Response("q", "", "q", "a", trait_score=70.0)]


def test_a_missing_definition_says_how_to_begin_one(folder):
    with pytest.raises(
        MissingInputError, match=r"trait_definition\.json not found\. .*mkdir -p .*cp extraction/extraction/templates"
    ):
        read_definition(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eval_prompt": "Score {question}."}, "lacks {answer}"),
        ({"eval_prompt": "Score {answer}."}, "lacks {question}"),
        ({"eval_prompt": 3}, "'eval_prompt' must be a text"),
        ({"questions": []}, "'questions' must be a list"),
        ({"questions": ["a", ""]}, "'questions' must be a list"),
        ({"questions": ["a", "a"]}, "same question twice: 'a'"),
        ({"instruction": []}, "'instruction' must be a list"),
        ({"instruction": [{"pos": "x"}]}, "'instruction'[0] needs a non-empty text under 'neg'"),
        ({"instruction": ["x"]}, "'instruction'[0] needs"),
    ],
)
def test_a_bad_definition_names_the_key_and_what_is_wrong(change, said):
    with pytest.raises(DefinitionError) as error:
        parse_definition({**DEFINITION, **change}, Path("d.json"), "refusal")
    assert said in str(error.value)


@pytest.mark.parametrize("key", ["instruction", "questions", "eval_prompt"])
def test_a_missing_key_of_a_definition_is_named(key):
    with pytest.raises(DefinitionError, match=f"'{key}' is missing"):
        parse_definition({k: v for k, v in DEFINITION.items() if k != key}, Path("d.json"), "refusal")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    max_leaves=8,
)


@given(value=json_values | st.fixed_dictionaries(dict.fromkeys(DEFINITION, json_values)))
def test_any_json_is_a_definition_or_a_definition_error(value):
    try:
        definition = parse_definition(value, Path("d.json"), "refusal")
    except DefinitionError:
        return
    assert definition.questions


def test_a_definition_that_is_not_json_names_line_and_column(folder):
    folder.root.mkdir(parents=True)
    folder.definition_path.write_text('{"a": 1,}')
    with pytest.raises(DamagedFileError, match="not valid JSON \\(line 1, column 9"):
        read_definition(folder)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    for name in (".a.csv.123.partial", "a.csv", "b.partial"):
        (folder / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "b.partial"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("1e999", "the number 1e999 is too large"), ("NaN", "NaN is not a number"), ('"\\ud800"', "half a character"),
     ("[" * 10_000, "nested too deeply"), ("[1,]", "line 1, column 4")],
)  # fmt: skip
def test_json_that_holds_what_json_cannot_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_a_line_torn_by_a_crash_is_left_out_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "journal.jsonl"
    append_jsonl(path, [{"row": 1}])
    with path.open("ab") as file:
        file.write(b'{"row": 2, "text": "hal')
    append_jsonl(path, [{"row": 3}])
    assert read_jsonl(path) == [{"row": 1}, {"row": 3}]


def test_a_second_run_on_the_same_trait_is_refused(folder):
    code = f"""
from pathlib import Path
from utils.experiment import Experiment
from utils.errors import UserError
try:
    with Experiment(Path({str(folder.root.parent.parent)!r}), "exp").trait("refusal").locked():
        print("got it")
except UserError as error:
    print(error)
"""
    with folder.locked():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "another run is working on" in said
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "got it\n"
