"""Export and import as commands: what arrives is what left."""

import dataclasses
import json
import logging
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from extraction.exchange import exporting, importing
from extraction.exchange.settings import ExportSettings
from huggingface_hub import ModelCard

from tests.exchange.conftest import import_into, random_vector, sidecar
from tests.fit.conftest import write_trait
from tests.hardening.nursery import run_command
from traitlens import projection
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.exchange.gguf_vectors import read_control_vector, write_control_vector
from utils.formats.exchange.steering_vectors import read_steering_vector
from utils.formats.vector_files import (
    available_vectors,
    ranked_places,
    read_summary,
    read_vector,
    write_summary,
    write_vector,
)
from utils.formats.vector_metadata import SummaryRow, VectorMetadata
from utils.vectors import load_vector

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(folder):
    return folder.root.parent.parent


@pytest.fixture
def export(root):
    def export(output=None, names=("sycophantic",), **settings):
        where = {"output": output and str(output), "experiments_dir": root}
        return exporting.run(ExportSettings("smollm2_demo", traits=names, **settings, **where))

    return export


def test_the_best_vector_leaves_by_default_and_the_log_says_the_unit_and_the_place(export, root, caplog):
    with caplog.at_level(logging.INFO):
        (path,) = export(format="gguf")
    assert path == root / "smollm2_demo" / "exports" / "sycophantic_probe_layer18.gguf"
    assert list(read_control_vector(path).directions) == [18]
    assert "distance between the class means" in caplog.text
    assert f"--control-vector {path}" in caplog.text


def test_all_layers_leave_except_those_that_the_form_cannot_express_which_is_said(export, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        (gguf,) = export(tmp_path / "a.gguf", format="gguf", all_layers=True)
    assert list(read_control_vector(gguf).directions) == [10, 18, 30]
    assert "left out layer 1, which gguf cannot express" in caplog.text
    assert "effects add up" in caplog.text
    (repeng,) = export(tmp_path / "b.gguf", format="repeng", all_layers=True)
    assert list(read_control_vector(repeng).directions) == [1, 10, 18, 30]


def test_layers_of_which_the_form_can_express_none_are_an_error(export, root, tmp_path):
    trait = Experiment(root, "smollm2_demo").trait("evil")
    write_vector(trait, random_vector(1), sidecar(1, trait="evil"))
    write_summary(trait, [SummaryRow(method="probe", layer=1, best=True)])
    with pytest.raises(UserError, match="evil has probe vectors only at layers that gguf cannot express"):
        export(tmp_path / "a.gguf", names=("evil",), format="gguf", all_layers=True)
    assert not (tmp_path / "a.gguf").exists()


def test_flags_that_contradict_each_other_or_find_nothing_are_refused(export, root, tmp_path):
    with pytest.raises(UserError, match="--all_layers and --layers contradict each other"):
        export(all_layers=True, layers=[18])
    with pytest.raises(UserError, match="sycophantic has no vectors of that --method and those --layers"):
        export(layers=[29])
    write_vector(
        Experiment(root, "smollm2_demo").trait("evil"),
        random_vector(18),
        sidecar(18, trait="evil", model="other/model"),
    )
    write_summary(Experiment(root, "smollm2_demo").trait("evil"), [SummaryRow(method="probe", layer=18, best=True)])
    with pytest.raises(UserError, match="--output must be a folder for 2 traits"):
        export(tmp_path / "both.gguf", names=("sycophantic", "evil"))
    with pytest.raises(UserError, match=r"one repository holds the vectors of one model, found SmolLM2.*, other/model"):
        export(tmp_path / "hub", names=("sycophantic", "evil"), format="hub")


def test_a_layer_asked_for_by_name_that_cannot_be_expressed_is_an_error(export, tmp_path):
    with pytest.raises(UserError, match=r"cannot act on layer 1: .*our layer 2"):
        export(tmp_path / "a.gguf", format="gguf", layers=[1])
    assert not (tmp_path / "a.gguf").exists()


def test_chosen_layers_and_methods_leave_in_each_form(export, tmp_path):
    (path,) = export(tmp_path / "v.pt", format="steering_vectors", layers=[30, 10], method="mean_diff")
    assert sorted(read_steering_vector(path, 30)) == [10, 30]
    (path,) = export(tmp_path / "b.safetensors", format="bundle", layers=[10])
    assert {load_vector(path, method=m).layer for m in ("probe", "mean_diff")} == {10}


def test_a_bundle_without_an_output_is_named_after_its_trait(export, root):
    (path,) = export(format="bundle")
    assert path == root / "smollm2_demo" / "exports" / "sycophantic.safetensors"


def test_one_layer_that_is_left_of_all_adds_nothing_up(export, root, tmp_path, caplog):
    trait = Experiment(root, "smollm2_demo").trait("evil")
    for layer in (1, 18):
        write_vector(trait, random_vector(layer), sidecar(layer, trait="evil"))
    write_summary(trait, [SummaryRow(method="probe", layer=18, best=True), SummaryRow(method="probe", layer=1)])
    caplog.set_level(logging.INFO)
    (path,) = export(tmp_path / "a.gguf", names=("evil",), format="gguf", all_layers=True)
    assert list(read_control_vector(path).directions) == [18]
    assert "left out layer 1" in caplog.text
    assert "effects add up" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer": 12, "norm": 1.0}, "describes layer 12"),
        ({"trait": "evil"}, "holds vectors of 'evil', not of 'sycophantic'"),
        ({"norm": None}, "layer 10 lacks its norm .*Export it again"),
        ({"norm": "x"}, "'norm' is 'x', not a number.*Export it again"),
        ({"hidden_size": 5}, "has 576 values, not 5"),
    ],
)
def test_a_file_of_ours_whose_side_cars_do_not_describe_it_is_refused(
    folder, root, tmp_path, changes, said, monkeypatch
):
    vector = read_vector(folder, "probe", 10)
    described = {**vector.metadata.to_json(), "norm": 12.0, **changes}
    monkeypatch.setattr(VectorMetadata, "to_json", lambda _: described)
    write_control_vector(tmp_path / "v.gguf", [vector], unit="unit")
    with pytest.raises(UserError, match=said):
        import_into("smollm2_copy", "sycophantic", str(tmp_path / "v.gguf"), experiments_dir=root)
    assert not (root / "smollm2_copy").exists()


def test_a_bundle_keeps_the_ranking_of_the_summary(export, tmp_path):
    (path,) = export(tmp_path / "b.safetensors", format="bundle")
    assert (load_vector(path).method, load_vector(path).layer) == ("probe", 18)
    assert load_vector(path, method="mean_diff").layer == 18


def test_a_bundle_of_all_vectors_has_those_that_are_here_and_the_log_says_how_many_are_not(export, folder, caplog):
    rows = read_summary(folder)
    write_summary(folder, [rows[0], dataclasses.replace(rows[0], layer=29), *rows[1:]])
    with caplog.at_level(logging.INFO):
        (path,) = export(format="bundle")
    assert f"sycophantic: 1 of the {len(rows) + 1} vectors in summary.csv are not here" in caplog.text
    assert load_vector(path).layer == rows[0].layer
    with pytest.raises(UserError, match="no vector with"):
        load_vector(path, layer=29)


def test_the_first_commands_of_the_guide_work_one_after_the_other(tmp_path):
    trait = Experiment(tmp_path / "experiments", "my_exp").trait("refusal")
    path = write_vector(trait, random_vector(10), sidecar(10, trait="refusal"))
    write_summary(trait, [SummaryRow(method="probe", layer=10)])
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    for line in block.splitlines():
        done = run_command(*shlex.split(line)[1:], folder=tmp_path)
        assert done.returncode == 0, done.stderr
    arrived = Experiment(tmp_path / "experiments", "other_exp").trait("refusal").vectors_dir / path.name
    assert arrived.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("form", ["bundle", "gguf"])
def test_what_is_exported_and_imported_is_the_same_vector_with_the_same_metadata(export, folder, root, tmp_path, form):
    (path,) = export(tmp_path / f"v.{'safetensors' if form == 'bundle' else 'gguf'}", format=form, layers=[10])
    import_into("smollm2_copy", "sycophantic", str(path), experiments_dir=root)
    original = read_vector(folder, "probe", 10)
    copy = load_vector("smollm2_copy", "sycophantic", layer=10, method="probe", experiments_dir=root)
    assert torch.equal(copy.vector, original.vector)
    assert copy.metadata == original.metadata
    assert load_vector("smollm2_copy", "sycophantic", experiments_dir=root).layer == 10


def test_a_unit_vector_of_ours_regains_its_length_when_it_comes_back(export, root, tmp_path, folder):
    write_vector(folder, random_vector(12, 12.0), sidecar(12, norm=12.0))
    write_summary(folder, [*read_summary(folder), SummaryRow(method="probe", layer=12)])
    (path,) = export(tmp_path / "v.gguf", format="gguf", unit="unit", layers=[12], method="probe")
    (vector,) = import_into("smollm2_copy", "sycophantic", str(path), experiments_dir=root)
    torch.testing.assert_close(vector.vector, random_vector(12, 12.0))


def test_an_imported_foreign_vector_gives_the_scores_of_projecting_by_hand(root, tmp_path, embedded):
    from extraction.monitoring.texts import monitor_texts
    from extraction.monitoring.vectors import choose_vectors

    from utils.formats.transcripts import Transcript
    from utils.models.generation import Sampling

    direction = random_vector(14, 3.0)
    torch.save({"layer_activations": {13: direction}, "layer_type": "decoder_block"}, tmp_path / "foreign.pt")
    import_into("smollm2_foreign", "agreeing", str(tmp_path / "foreign.pt"), experiments_dir=root)
    chosen = choose_vectors(Experiment(root, "smollm2_foreign"))
    text = Transcript(({"role": "user", "content": "Am I right?"},), "Yes, you are.")
    (record,) = monitor_texts(embedded, chosen, [text], Sampling())
    assert record.layer == {"agreeing": 14}
    assert record.baselines == {}

    prompt = embedded.tokenizer.apply_chat_template(
        [{"role": "system", "content": ""}, {"role": "user", "content": "Am I right?"}], tokenize=False,
        add_generation_prompt=True,
    )  # fmt: skip
    prompt_ids, ids = (embedded.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, "Yes, you are."))
    with torch.inference_mode():
        states = embedded.model(torch.tensor([prompt_ids + ids]), output_hidden_states=True).hidden_states[14]
    by_hand = projection(states[0, len(prompt_ids) :], direction)
    torch.testing.assert_close(torch.tensor(record.trait_scores["agreeing"]), by_hand, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["NA", "007", "1e5", "None"])
def test_a_method_whose_name_a_table_would_take_for_a_number_or_nothing_is_found_again(root, tmp_path, method):
    torch.save({3: torch.ones(576)}, tmp_path / "foreign.pt")
    for _ in range(2):
        import_into(
            "smollm2_foreign",
            "agreeing",
            str(tmp_path / "foreign.pt"),
            method=method,
            overwrite=True,
            experiments_dir=root,
        )
    assert load_vector("smollm2_foreign", "agreeing", experiments_dir=root).method == method
    assert len(read_summary(Experiment(root, "smollm2_foreign").trait("agreeing"))) == 1


def test_a_foreign_vector_without_activations_has_no_zero_and_the_log_says_so(root, tmp_path, caplog):
    torch.save({3: torch.ones(576)}, tmp_path / "foreign.pt")
    with caplog.at_level(logging.WARNING):
        (vector,) = import_into("smollm2_foreign", "agreeing", str(tmp_path / "foreign.pt"), experiments_dir=root)
    assert (vector.baseline, vector.thresholds, vector.layer) == (None, {}, 4)
    assert "scores have no zero" in caplog.text


@pytest.mark.parametrize(("sign", "own"), [(1, True), (-1, True), (1, False)])
def test_a_foreign_vector_is_measured_on_the_activations_at_hand_if_they_are_of_its_model(tmp_path, caplog, sign, own):
    lab = Experiment(tmp_path / "experiments", "exp")
    write_trait(lab, "agreeing", signal_layer=2, strength=6.0, model="tiny" if own else "another")
    config = transformers.LlamaConfig(hidden_size=24, num_hidden_layers=4, num_attention_heads=4, intermediate_size=8)
    config.save_pretrained(tmp_path / "tiny")
    direction = torch.zeros(24)
    direction[0] = sign * 2.0
    torch.save({1: direction}, tmp_path / "foreign.pt")  # block 1 leaves layer 2
    (vector,) = import_into(
        "exp",
        "agreeing",
        str(tmp_path / "foreign.pt"),
        model=str(tmp_path / "tiny"),
        experiments_dir=lab.experiments_dir,
    )
    if not own:
        assert vector.metadata.metrics is None
        assert "its activations are of another, not of" in caplog.text
        return
    figure = vector.metadata.metrics.auroc.value
    assert (figure > 0.95) if sign == 1 else (figure < 0.05)
    assert ("is its sign reversed?" in caplog.text) == (sign == -1)
    assert abs(vector.baseline) < 1
    assert vector.thresholds["fpr_5"] == pytest.approx(1.64, abs=0.6)  # the neutral tokens are standard normal


def test_an_import_does_not_replace_vectors_unless_told_to(root, tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({3: torch.ones(576)}, path)
    import_into("smollm2_foreign", "agreeing", str(path), experiments_dir=root)
    torch.save({3: torch.full((576,), 2.0)}, path)
    with pytest.raises(UserError, match=r"imported_layer4\.pt is there already .*--overwrite"):
        import_into("smollm2_foreign", "agreeing", str(path), experiments_dir=root)
    import_into("smollm2_foreign", "agreeing", str(path), overwrite=True, experiments_dir=root)
    assert float(load_vector("smollm2_foreign", "agreeing", experiments_dir=root).vector[0]) == 2


def test_an_import_that_was_interrupted_goes_on_with_the_same_command(root, tmp_path, monkeypatch):
    path = tmp_path / "foreign.pt"
    torch.save({3: torch.ones(576), 4: torch.full((576,), 2.0)}, path)
    real, calls = importing.write_vector, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_vector", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_into("smollm2_cut", "agreeing", str(path), experiments_dir=root)
    import_into("smollm2_cut", "agreeing", str(path), experiments_dir=root)
    assert ranked_places(Experiment(root, "smollm2_cut").trait("agreeing")) == [("imported", 4), ("imported", 5)]


def test_an_import_into_measured_vectors_leaves_their_choice_as_it_was(folder, root, tmp_path):
    torch.save({3: torch.ones(576)}, tmp_path / "foreign.pt")
    import_into("smollm2_demo", "sycophantic", str(tmp_path / "foreign.pt"), method="theirs", experiments_dir=root)
    assert ("theirs", 4) in available_vectors(folder)
    assert len(read_summary(folder)) == 9
    assert (load_vector("smollm2_demo", "sycophantic", experiments_dir=root).method) == "probe"
    assert load_vector("smollm2_demo", "sycophantic", method="theirs", experiments_dir=root).layer == 4


@pytest.mark.parametrize(
    ("value", "name", "changes", "message"),
    [
        ({3: torch.ones(64)}, "v.pt", {}, "64 values at layer 4, but SmolLM2-135M-Instruct has hidden size 576"),
        ({3: torch.ones(576)}, "v.bin", {}, "cannot tell the form"),
        ({3: torch.ones(576)}, "v.pt", {"method": "a/b"}, "--method"),
        ({3: torch.ones(576)}, "v.pt", {"model": "/no/such/model"}, "cannot read the configuration"),
    ],
)
def test_an_import_that_does_not_fit_is_refused_and_writes_nothing(root, tmp_path, value, name, changes, message):
    torch.save(value, tmp_path / name)
    with pytest.raises(UserError, match=message):
        import_into("smollm2_foreign", "agreeing", str(tmp_path / name), experiments_dir=root, **changes)
    assert not (root / "smollm2_foreign").exists()


def test_vectors_of_another_model_or_trait_are_refused_naming_both(export, root, tmp_path):
    (bundle,) = export(tmp_path / "b.safetensors", format="bundle")
    (gguf,) = export(tmp_path / "v.gguf", format="gguf")
    for path in (bundle, gguf):
        with pytest.raises(UserError, match="SmolLM2-135M-Instruct, not of gpt2"):
            import_into("copy", "sycophantic", str(path), model="gpt2", experiments_dir=root)
        with pytest.raises(UserError, match=r"'sycophantic'.*not.*'evil'"):
            import_into("copy", "evil", str(path), experiments_dir=root)


@pytest.fixture
def hub_folder(folder, root, export, tmp_path):
    evil = Experiment(root, "smollm2_demo").trait("evil")
    choice = {
        "method": "probe",
        "layer": 18,
        "auroc": {"value": 0.81, "low": 0.75, "high": 0.86},
        "warnings": ["words do it"],
    }
    write_vector(evil, random_vector(18), sidecar(18, trait="evil", choice=choice, held_out="5 groups of questions"))
    write_summary(evil, [SummaryRow(method="probe", layer=18)])
    (folder.vectors_dir / "card.html").write_text("<p>card</p>")
    return export(tmp_path / "hub", names=(), format="hub", license_name="apache-2.0")[0]


def test_the_hub_folder_is_bundles_cards_and_a_model_card(hub_folder):
    names = {"README.md", "evil.safetensors", "sycophantic.safetensors", "sycophantic.html"}
    assert {p.name for p in hub_folder.iterdir()} == names
    assert load_vector(hub_folder / "evil.safetensors").trait == "evil"


def test_the_model_card_says_what_how_how_well_and_what_to_beware_of(hub_folder):
    card = ModelCard.load(hub_folder / "README.md")
    card_data = card.data.to_dict()
    assert card_data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card_data["license"] == "apache-2.0"
    row = next(line for line in card.text.splitlines() if line.startswith("| evil"))
    assert "0.96 (0.92-0.99) | 0.81 (0.75-0.86) | length 0.56, bag of words 0.79 | 64 + 64" in row
    for said in ("Warning: the evil vector", "**evil**: words do it.", "held out: 5 groups of questions", "## Limits"):
        assert said in card.text
    assert "hf://ORG/REPO@COMMIT/" in card.text


def test_the_model_card_says_whose_responses_were_read(folder, root, export, tmp_path):
    def card():
        (hub,) = export(tmp_path / "hub", format="hub")
        return (hub / "README.md").read_text()

    assert "their origin is not recorded" in card()
    for method, layer in available_vectors(folder):
        write_vector(folder, random_vector(layer), sidecar(layer, method, responses_from="corpus"))
    assert "those of 'corpus'" in card()
    other = Experiment(root, "corpus").trait("sycophantic")
    (other.root / "responses").mkdir(parents=True)
    (other.root / "responses" / "metadata.json").write_text(
        json.dumps({"model": "org/wrote-them", "judge": {"name": "me"}})
    )
    assert "generated by org/wrote-them, scored by me" in card()


def test_words_of_others_are_no_markup_in_the_model_card(folder, root, export, tmp_path):
    hostile = "x](http://a.example)\n\x1b\u202e\n# Head\n<img src=x> | `y` **z** {{ 7 * 7 }}"
    controls = {hostile: {"auroc": 0.5}}
    for method, layer in available_vectors(folder):
        write_vector(
            folder, random_vector(layer), sidecar(layer, method, model=hostile, context=hostile, controls=controls)
        )
    (hub,) = export(tmp_path / "hub", format="hub")
    card = ModelCard.load(hub / "README.md").text
    escaped = r"x\](http://a.example) CONTROL # Head \<img src=x\> \| \`y\` \*\*z\*\* {{ 7 * 7 }}".replace(
        "7 * 7", r"7 \* 7"
    ).replace("CONTROL", "\ufffd\ufffd")
    assert card.count(escaped) >= 4
    assert "x](" not in card
    assert "<img" not in card.replace(r"\<img", "")


def test_a_folder_without_evil_needs_no_warning_of_it(export, tmp_path):
    (root,) = export(tmp_path / "hub", format="hub")
    assert "evil" not in (root / "README.md").read_text()


def test_files_meant_for_others_can_be_read_by_others(hub_folder, export, tmp_path):
    (pt,) = export(tmp_path / "v.pt", format="steering_vectors")
    plain = tmp_path / "plain"
    plain.write_text("")
    for path in [*hub_folder.iterdir(), pt]:
        assert path.stat().st_mode == plain.stat().st_mode, path.name


@pytest.mark.parametrize("module", ["extraction.export", "extraction.import_vectors", "extraction.steer"])
def test_help_answers_at_once(module):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", module, "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--experiment" in done.stdout + done.stderr
    assert time.monotonic() - started < 5  # under a second on a quiet machine


def test_a_mistake_is_one_line_and_status_1(tmp_path):
    command = [sys.executable, "-m", "extraction.export", "--experiment", "none", "--experiments_dir", str(tmp_path)]
    done = subprocess.run([*command, "--format", "gguf"], check=False, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "3_extract_vectors.py --experiment none" in done.stderr
    assert json.dumps(done.stdout) == '""'


@pytest.mark.parametrize("name", ["vector.npy", "vectors.npz"])
def test_a_file_of_numpy_is_refused_with_the_form_to_save(root, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"is a file of NumPy\. Save vectors by the number of their block"):
        import_into("smollm2_foreign", "agreeing", str(tmp_path / name), experiments_dir=root)
