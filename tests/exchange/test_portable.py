import json
import logging
import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from tests.exchange.conftest import changed, random_vector, sidecar
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.exchange.bundle import read_bundle, write_bundle
from utils.formats.files import read_json, write_json
from utils.formats.vector_files import read_vector, sidecar_path, write_vector
from utils.hub import parse_hub_address
from utils.models import LoadedModel, compatibility, same_model
from utils.models.compatibility import check_model, load_model_for
from utils.vectors import load_vector

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def bundle(folder, tmp_path):
    path = tmp_path / "sycophantic.safetensors"
    ranking = [("probe", 18), ("probe", 10), ("mean_diff", 18), ("mean_diff", 10), ("probe", 1), ("mean_diff", 1)]
    write_bundle(path, [read_vector(folder, *place) for place in ranking])
    return path


@pytest.fixture
def hub(bundle, tmp_path, monkeypatch):
    """A local Hub cache as the client lays it out, with the network switched off."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--traits"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text("f" * 40)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_bytes(bundle.read_bytes())
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "sycophantic.safetensors").symlink_to("../../blobs/abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_bundle_carries_every_vector_and_its_metadata_unchanged(bundle, folder):
    vectors = read_bundle(bundle).vectors
    assert [(v.method, v.layer) for v in vectors][:2] == [("probe", 18), ("probe", 10)]
    assert len(vectors) == 6
    for vector in vectors:
        original = read_vector(folder, vector.method, vector.layer)
        assert torch.equal(vector.vector, original.vector)
        assert replace(vector, vector=None) == replace(original, vector=None)


def test_the_header_says_in_plain_json_what_model_layers_and_scale_mean(bundle):
    data = bundle.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    shared, own = json.loads(header["shared"]), json.loads(header["vectors"])
    assert shared["model"] == "SmolLM2-135M-Instruct"
    assert {"layer_convention", "pooling", "context", "template_hash", "revision", "metrics"} <= set(shared)
    assert own["probe_layer10"] == {"method": "probe", "layer": 10, "baseline": 10 / 7}


@pytest.mark.parametrize(
    ("given", "loaded", "revision"),
    [(None, "org/tiny", COMMIT), ("org/tiny", "org/tiny", COMMIT), ("/models/tiny", "/models/tiny", None)],
)
def test_a_vectors_model_is_loaded_at_the_revision_that_it_was_made_with(given, loaded, revision, folder, monkeypatch):
    asked = []

    def load(name, **options):
        asked.append((name, options["revision"]))
        raise UserError("no network")

    monkeypatch.setattr(compatibility, "load_model", load)
    vector = changed(read_vector(folder, "probe", 10), model="org/tiny", revision=COMMIT)
    with pytest.raises(UserError, match="no network"):
        load_model_for([vector], given)
    assert asked == [(loaded, revision)]


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("google/gemma-2-2b-it", "google/gemma-2-2b-it", True), ("google/gemma-2-2b-it", "someone/gemma-2-2b-it", False),
        ("google/gemma-2-2b-it", "/models/gemma-2-2b-it/", True), ("google/gemma-2-2b-it", "./gemma-2-2b-it", True),
        ("google/gemma-2-2b-it", "gemma-2-2b-it", True), ("gpt2", "gpt2-xl", False),
    ],
)  # fmt: skip
def test_two_owners_models_of_one_name_are_two_models(name, other, same):
    assert same_model(name, other) is same_model(other, name) is same


def test_a_bundle_holds_one_traits_vectors_of_one_model(vectors, tmp_path):
    mixed = [vectors[0], changed(vectors[1], trait="evil")]
    with pytest.raises(UserError, match="a bundle holds the vectors of one trait and one model, got 2 vectors"):
        write_bundle(tmp_path / "a.safetensors", mixed)
    with pytest.raises(UserError, match="got 0 vectors"):
        write_bundle(tmp_path / "a.safetensors", [])


def test_load_vector_reads_a_bundle_as_it_reads_an_experiment(bundle, folder):
    experiments = {"experiments_dir": folder.root.parent.parent}
    for asked in ({}, {"layer": 10}, {"method": "mean_diff"}, {"layer": 1, "method": "mean_diff"}):
        there = load_vector(str(bundle), **asked)
        here = load_vector("smollm2_demo", "sycophantic", **asked, **experiments)
        assert (there.method, there.layer) == (here.method, here.layer)
        assert torch.equal(there.vector, here.vector)
    assert load_vector(bundle, "sycophantic").trait == "sycophantic"


def test_the_documented_layer_of_a_model_goes_before_the_best_in_a_bundle_too(folder, tmp_path):
    gemma = [changed(read_vector(folder, "probe", 10), layer=n, model="google/gemma-2-2b-it") for n in (20, 16)]
    write_bundle(tmp_path / "b.safetensors", gemma)
    assert load_vector(tmp_path / "b.safetensors").layer == 16


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"layer": 29}, "no vector with method any and layer 29: it holds mean_diff, probe at layers 1..18"),
     ({"trait": "evil"}, "of 'sycophantic', not of 'evil'")],
)  # fmt: skip
def test_what_a_bundle_does_not_hold_is_said_with_what_it_holds(bundle, asked, message):
    with pytest.raises(UserError, match=message):
        load_vector(bundle, **asked)


def test_a_damaged_or_foreign_safetensors_file_is_one_clear_error(bundle, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    data, cut = bundle.read_bytes(), tmp_path / "cut.safetensors"
    for length in (0, 5, 300, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(DamagedFileError, match="not a whole safetensors file"):
            load_vector(cut)
    save_file({"x": torch.ones(2)}, cut)
    with pytest.raises(DamagedFileError, match="its format is None"):
        load_vector(cut)
    save_file(
        {"x": torch.ones(2)},
        cut,
        {"format": "traitlens vectors 1", "shared": "{}", "vectors": "{}", "ranking": '["y"]'},
    )
    with pytest.raises(DamagedFileError, match="its header does not describe its vectors"):
        load_vector(cut)
    with safe_open(bundle, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, cut, {**header, "ranking": json.dumps(json.loads(header["ranking"]) * 3)})
    with pytest.raises(DamagedFileError, match="names a vector twice"):
        load_vector(cut)
    long = json.dumps(["x" * 1_000_000])
    for ranking, said in (('{"probe_layer18": 1}', "not a list of names"), ('[["x"]]', "not a list"), (long, "'xxxx")):
        save_file(tensors, cut, {**header, "ranking": ranking})
        with pytest.raises(DamagedFileError, match=said) as refused:
            load_vector(cut)
        assert len(str(refused.value)) < 500
    with pytest.raises(MissingInputError, match="Make it with"):
        load_vector(tmp_path / "none.safetensors")


def test_two_vectors_of_a_bundle_cannot_be_one_file(tmp_path):
    from safetensors.torch import save_file

    def bundle_of(**own):
        path = tmp_path / "b.safetensors"
        shared = {"trait": "t", "model": "m", "hidden_size": 2, "baseline": 0.0}
        header = {"shared": json.dumps(shared), "vectors": json.dumps(own), "ranking": json.dumps(list(own))}
        save_file({name: torch.ones(2) for name in own}, path, {"format": "traitlens vectors 1", **header})
        return path

    probe = {"method": "probe", "layer": 3}
    assert len(read_bundle(bundle_of(probe_layer3=probe, probe_layer4={**probe, "layer": 4})).vectors) == 2
    for own, said in (
        ({"probe_layer3": probe, "probe_layer4": probe}, "'probe_layer4' is of probe at layer 3"),
        ({"probe_layer3": probe, "Probe_layer3": {**probe, "method": "Probe"}}, "names a vector twice"),
    ):
        with pytest.raises(DamagedFileError, match=said):
            read_bundle(bundle_of(**own))


CHOICE = {"method": "probe", "layer": 10}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": [1]}, "'metrics' is"), ({"metrics": {"auroc": "x"}}, "'auroc' is 'x', not a JSON object"),
        ({"metrics": {"auroc": {"value": "x", "low": 0, "high": 1}}}, "'value' is 'x', not a number"),
        ({"metrics": {"auroc": {"value": 1, "low": 0}}}, "lacks high"),
        ({"metrics": {"n_pos": "<img>"}}, "'n_pos' is '<img>', not a whole number"),
        ({"metrics": {"auroc": {"value": 10**400, "low": 0, "high": 1}}}, "'value' is 1000"),
        ({"choice": [1]}, "'choice' is"), ({"choice": {**CHOICE, "auroc": 5}}, "'auroc' is 5"),
        ({"choice": {**CHOICE, "warnings": 7}}, "'warnings' is 7"), ({"controls": [1]}, "'controls' is"),
        ({"controls": {"length": "x"}}, "'length' is 'x'"), ({"controls": {"length": {"mean": "x"}}}, "'mean' is 'x'"),
        ({"threshold": "x"}, "'threshold' is 'x'"), ({"responses_from": 3}, "'responses_from' is 3"),
        ({"baseline": 10**400}, "'baseline' is 1000"),
    ],
)  # fmt: skip
def test_figures_of_another_form_are_refused_where_a_vector_is_read(changes, said, folder):
    path = sidecar_path(write_vector(folder, random_vector(10), sidecar(10)))
    write_json(path, {**read_json(path, ""), **changes})
    with pytest.raises(DamagedFileError, match=said):
        read_vector(folder, "probe", 10)


@pytest.mark.parametrize(("traits", "said"), [((), "holds no vectors"), (("calm", "evil"), "several traits or models")])
def test_a_bundle_of_nothing_or_of_several_traits_is_refused(tmp_path, traits, said):
    from safetensors.torch import save_file

    shared = {"method": "probe", "model": "m", "hidden_size": 2, "baseline": 0.0}
    own = {f"probe_layer{i}": {"trait": trait, "layer": i} for i, trait in enumerate(traits)}
    header = {
        "format": "traitlens vectors 1", "shared": json.dumps(shared), "ranking": json.dumps(list(own)),
        "vectors": json.dumps(own),
    }  # fmt: skip
    save_file({name: torch.ones(2) for name in own}, tmp_path / "odd.safetensors", header)
    with pytest.raises(DamagedFileError, match=said):
        read_bundle(tmp_path / "odd.safetensors")


def test_an_experiment_without_a_trait_is_asked_for_one(folder):
    with pytest.raises(UserError, match="which trait"):
        load_vector("smollm2_demo", experiments_dir=folder.root.parent.parent)


def _model(name="SmolLM2-135M-Instruct", hidden=576, blocks=30, revision=None, template="t"):
    config = SimpleNamespace(hidden_size=hidden, num_hidden_layers=blocks)
    config.get_text_config = lambda: config
    return LoadedModel(SimpleNamespace(config=config), _Tokenizer(template), name, name, revision)


class _Tokenizer:
    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, **_):
        return " ".join(m["content"] for m in messages)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"name": "org/another-model"}, "is of SmolLM2-135M-Instruct, but the model at hand is org/another-model"),
        ({"hidden": 64}, r"576 values at layer 18, but SmolLM2-135M-Instruct has hidden size 64"),
        ({"blocks": 12}, r"at layer 18, but SmolLM2-135M-Instruct has hidden size 576 and layers 0\.\.12"),
    ],
)
def test_a_vector_of_another_model_is_refused_naming_both(bundle, other, message):
    assert load_vector(bundle, model=_model()).layer == 18
    with pytest.raises(UserError, match=message):
        load_vector(bundle, model=_model(**other))


def test_another_revision_or_chat_template_is_a_warning_naming_both(bundle, caplog):
    vector = changed(load_vector(bundle), revision="a" * 40)
    with caplog.at_level(logging.WARNING):
        check_model(vector, _model(revision="b" * 40))
    assert "a" * 40 in caplog.text
    assert "b" * 40 in caplog.text
    assert "template_hash 872be49dbb638044" in caplog.text


def test_a_vector_loads_from_the_hub_and_remembers_its_commit(hub, caplog):
    with caplog.at_level(logging.INFO):
        vector = load_vector("hf://org/traits/sycophantic")
    assert torch.equal(vector.vector, random_vector(18))
    assert vector.metadata.source == f"hf://org/traits@{COMMIT}/sycophantic"
    assert f"pin what was loaded with hf://org/traits@{COMMIT}/sycophantic" in caplog.text


def test_a_pinned_address_loads_that_commit_without_a_word(hub, caplog):
    with caplog.at_level(logging.INFO):
        assert load_vector(f"hf://org/traits@{COMMIT}/sycophantic", layer=10).layer == 10
        assert load_vector(f"hf://org/traits@{COMMIT}", "sycophantic").layer == 18
    assert "pin" not in caplog.text


@pytest.mark.parametrize("address", ["hf://org/traits@v1/sycophantic", "hf://org/traits/evil", "hf://org/none/evil"])
def test_what_is_not_on_the_hub_is_one_clear_error(hub, address):
    with pytest.raises(UserError, match=r"cannot get \w+\.safetensors of org/\w+.*HF_TOKEN"):
        load_vector(address)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://org/repo/evil", ("org/repo", "evil", None)),
        ("hf://org/repo@v1.0/evil.safetensors", ("org/repo", "evil", "v1.0")),
        ("hf://a-b/c.d@refs%2Fpr%2F1/my trait", ("a-b/c.d", "my trait", "refs/pr/1")),
    ],
)
def test_hub_addresses_are_taken_apart(text, parts):
    address = parse_hub_address(text)
    assert (address.repo, address.trait, address.revision) == parts


@pytest.mark.parametrize(
    "text", ["hf://org", "hf://org/repo", "hf://org/repo@/x", "hf://org/repo/../../etc", "hf://o/r/a/b"]
)
def test_addresses_of_another_form_are_refused(text):
    with pytest.raises(UserError, match="hf://org/repo/trait"):
        parse_hub_address(text)
