"""A file that is empty, cut, foreign or swapped: one line that names it, and the command in the line mends it."""

import contextlib
import json
import re
import shlex
import shutil

import pytest
from extraction.capture.files import batches_done

from tests.hardening.faulty_lab import arguments, files, finished_place, refused
from utils.errors import DamagedFileError, UserError
from utils.experiment import Experiment
from utils.formats.activation_files import activations_path, read_activations
from utils.formats.files import append_jsonl, read_jsonl, write_json
from utils.formats.journal import Journal
from utils.formats.response_files import read_responses, read_responses_metadata, write_responses
from utils.formats.vector_files import read_vector, sidecar_path, summary_path, vector_path
from utils.records import Response
from utils.vectors import load_vector

# Every file that a stage reads: its path below the trait, and the stages that meet it.
READ = {
    "trait_definition.json": (1,),
    "responses/pos.csv": (1, 2, 3),
    "responses/neutral.csv": (1, 2, 3),
    "responses/metadata.json": (1, 2),
    "activations/metadata.json": (3,),
    "activations/neg.safetensors": (3,),
    "activations/neutral_tokens.safetensors": (3,),
}
DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) * 2 // 3],
    "foreign": lambda data: b'["another", "file"]\n',
    "binary": lambda data: bytes(range(256)) * 20,
}


@pytest.fixture
def place():
    """The finished experiment, put back after the test."""
    nursery, lab, model = finished_place()
    root = lab.trait("alpha").root
    before = files(root)
    yield nursery, lab, model
    for name in files(root).keys() - before.keys():
        (root / name).unlink()
    for name, data in before.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_named_in_one_line(name, damage, place):
    nursery, lab, model = place
    path = lab.trait("alpha").root / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for stage in READ[name]:
        refused(nursery.run(stage, *arguments(stage, lab, model)), path.name)


@pytest.mark.parametrize("name", ["responses/pos.csv", "responses/metadata.json", "activations/neg.safetensors"])
def test_the_command_in_the_line_makes_the_file_again(name, place):
    nursery, lab, model = place
    root = lab.trait("alpha").root
    whole = files(root)
    (root / name).write_bytes(whole[name][:100])
    stage = 2 if name.startswith("responses/") else 3
    ended = nursery.run(stage, *arguments(stage, lab, model))
    refused(ended, name)
    remedy = shlex.split(re.search(r"Run: python extraction/(.*)", ended.last_line)[1])
    maker = int(remedy[0][0])
    assert maker == stage - 1
    more = [flag for flag in remedy[1:] if flag == "--overwrite"]
    ended = nursery.run(maker, *arguments(maker, lab, model, *more))
    assert ended.status == 0, ended.said
    assert files(root)[name] == whole[name]


def test_activations_of_the_other_side_are_not_taken_for_this_one(place):
    _, lab, _ = place
    trait = lab.trait("alpha")
    pos, neg = (activations_path(trait, side) for side in ("pos", "neg"))
    ours, theirs = pos.read_bytes(), neg.read_bytes()
    assert len(ours) == len(theirs)
    pos.write_bytes(theirs)
    neg.write_bytes(ours)
    with pytest.raises(UserError, match=r"neg\.safetensors: is not the file that metadata\.json beside it describes"):
        read_activations(trait)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_vector_side_car_or_summary_is_named_in_one_line(damage, place):
    _, lab, _ = place
    trait = lab.trait("alpha")
    vector = vector_path(trait, "probe", 3)
    for path in (vector, sidecar_path(vector)):
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        with pytest.raises(UserError, match=re.escape(path.name)):
            read_vector(trait, "probe", 3)
        path.write_bytes(whole)
    path = summary_path(trait)
    path.write_bytes(DAMAGES[damage](path.read_bytes()) if damage != "cut" else b"method,la")
    with pytest.raises(UserError, match=re.escape(path.name)):
        load_vector("exp", "alpha", experiments_dir=lab.experiments_dir)


def test_a_vector_that_is_not_its_side_cars_is_found_out(place):
    """Two files can be swapped, and a run can be killed between a new side-car and its vector."""
    _, lab, _ = place
    trait = lab.trait("alpha")
    shutil.copyfile(vector_path(trait, "probe", 3), vector_path(trait, "probe", 1))
    with pytest.raises(DamagedFileError, match=r"probe_layer1\.pt: is not the vector that the side-car .* describes"):
        read_vector(trait, "probe", 1)


def test_a_vector_under_another_name_is_found_out(place):
    _, lab, _ = place
    trait = lab.trait("alpha")
    for suffix in (".pt", "_metadata.json"):
        (trait.vectors_dir / f"probe_layer1{suffix}").write_bytes(
            (trait.vectors_dir / f"probe_layer3{suffix}").read_bytes()
        )
    with pytest.raises(UserError, match="describes another vector"):
        read_vector(trait, "probe", 1)


def test_journals_of_anything_else_count_as_no_work(place):
    nursery, lab, model = place
    trait = lab.trait("alpha")
    whole = files(trait.root)
    for name in ("generated.0", "scores.0"):
        (trait.root / "responses" / f"{name}.partial.jsonl").write_bytes(
            b'5\n"x"\n[1]\n{"polarity": "pos"}\n{"judge": 1}\n\0\0\0\n' + bytes(range(256))
        )
    for side in ("pos", "neg", "neutral"):
        trait.responses_path(side).unlink()
    ended = nursery.run(1, *arguments(1, lab, model, "--overwrite"))
    assert ended.status == 0, ended.said
    assert files(trait.root) == whole


def test_a_journal_left_beside_finished_responses_goes(place):
    """A run can be killed between writing the files and clearing its journal."""
    nursery, lab, model = place
    trait = lab.trait("alpha")
    whole = files(trait.root)
    trait.generation_journal.add([{"polarity": "pos", "row": 0, "response": {}}])
    (trait.root / "responses" / ".pos.csv.123.partial").write_text("half")
    ended = nursery.run(1, *arguments(1, lab, model))
    assert ended.status == 0, ended.said
    assert files(trait.root) == whole


@pytest.mark.parametrize(
    "harm", ["a file is gone", "a file was cut", "a foreign file", "another program's header", "an unknown precision"]
)
def test_an_unfinished_capture_that_is_not_whole_is_begun_again(harm, place):
    nursery, lab, model = place
    trait = lab.trait("alpha")
    whole = files(trait.root)
    unfinished = trait.unfinished_activations_dir
    trait.activations_dir.replace(unfinished)
    (unfinished / "metadata.json").replace(unfinished / "old.json")
    journal = Journal(unfinished, "batches")
    header = {"dtype": "float16"}
    if harm != "another program's header":
        path = unfinished / "neg.safetensors"
        data = path.read_bytes()
        if harm == "a file is gone":
            path.unlink()
        elif harm != "an unknown precision":
            path.write_bytes(data[:-100] if harm == "a file was cut" else bytes(len(data)))
        about_files = ("versions", "dtype", "files_sha256")
        described = json.loads((unfinished / "old.json").read_text(encoding="utf-8"))
        captured = {key: value for key, value in described.items() if key not in about_files}
        header |= captured
    if harm == "an unknown precision":
        header["dtype"] = ["float8"]
    journal.begin(header)
    journal.add({"batch": number} for number in range(20))
    ended = nursery.run(2, *arguments(2, lab, model))
    assert ended.status == 0, ended.said
    assert files(trait.root) == whole


def test_a_batch_that_is_no_number_was_not_written(tmp_path):
    folder = Experiment(tmp_path, "e").trait("t")
    journal = Journal(folder.unfinished_activations_dir, "batches")
    journal.add([{"batch": 3}, {"batch": [1]}, {"batch": True}, {"batch": None}, {"other": 2}])
    assert batches_done(folder) == {3}


def test_a_row_that_was_cut_is_not_filled_up_with_nothing(tmp_path):
    trait = Experiment(tmp_path, "e").trait("t")
    rows = [Response(f"Why {i}?", "Refuse.", "p", "No.", 50.0) for i in range(3)]
    write_responses(trait, "pos", rows)
    path = trait.responses_path("pos")
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    read = []
    for end in range(last + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        with contextlib.suppress(DamagedFileError):
            read.append(read_responses(trait, "pos"))
    assert read in ([], [rows])  # at most the cut before the last quotation mark's newline is whole


def test_responses_that_a_killed_run_has_half_replaced_are_not_taken_for_whole(place):
    """The metadata and the positive side are of the new run, the negative side of the old, and neutral is not there."""
    nursery, lab, model = place
    trait = lab.trait("alpha")
    whole = files(trait.root)
    generation = read_responses_metadata(trait)["generation"]
    trait.generation_journal.begin(generation)
    trait.responses_path("neutral").unlink()
    for stage, *more in ((2, "--overwrite"), (1, "--judge_only")):
        ended = nursery.run(stage, *arguments(stage, lab, model, *more))
        refused(ended, "the run that was writing these responses did not finish. Run: python extraction/1_generate")
    ended = nursery.run(1, *arguments(1, lab, model))
    assert ended.status == 0, ended.said
    assert files(trait.root) == whole


def test_a_journal_left_beside_finished_activations_goes(place):
    """A run can be killed between moving the finished folder and clearing its journals."""
    nursery, lab, model = place
    trait = lab.trait("alpha")
    whole = files(trait.root)
    Journal(trait.activations_dir, "batches").add([{"batch": 0}])
    ended = nursery.run(2, *arguments(2, lab, model))
    assert ended.status == 0, ended.said
    assert files(trait.root) == whole


@pytest.mark.parametrize("long_rows", [[0], [1], [0, 1]])
def test_a_row_with_a_cell_too_many_does_not_shift_the_others(long_rows, tmp_path):
    trait = Experiment(tmp_path, "e").trait("t")
    rows = ["Why?,Refuse.,p,No.,60", "How?,Refuse.,p,No.,60"]
    for i in long_rows:
        rows[i] = rows[i].replace("No.", "No, never.")  # a comma outside of quotation marks
    write_responses(trait, "pos", [])
    text = "\n".join(["question,instruction,prompt,response,trait_score", *rows])
    trait.responses_path("pos").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DamagedFileError, match=f"row {long_rows[0] + 1} has 6 cells where the header has 5"):
        read_responses(trait, "pos")


def test_texts_with_half_a_character_are_written_and_read(tmp_path):
    """JSON can carry a lone surrogate, which UTF-8 cannot."""
    journal = tmp_path / "j.jsonl"
    append_jsonl(journal, [{"text": "a\ud83d\u2028b"}])
    assert read_jsonl(journal) == [{"text": "a\ud83d\u2028b"}]
    write_json(tmp_path / "v.json", {"text": "a\ud83db"})
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == {"text": "a?b"}
