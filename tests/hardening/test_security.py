"""Nothing that comes in runs as code or leaves its folder, and no key gets out."""

import asyncio
import io
import json
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from extraction.capture.stage import model_behind
from extraction.distributed import Process
from extraction.exchange.importing import _sizes
from extraction.fit.card import write_card
from extraction.fit.results import Control, Measured, Sweep
from extraction.generate.plan import fingerprint
from extraction.generate.responses import begin
from extraction.generate.served_model import ServedModel
from extraction.generate.settings import GenerationSettings
from extraction.monitoring.report import write_report

from tests.exchange.conftest import import_into
from traitlens.validation.calibration import Calibration
from traitlens.validation.cross_validation import Choice
from traitlens.validation.evaluation import Interval, Metrics
from utils.config import get_credential, load_credentials, server_host, without_keys
from utils.errors import DamagedFileError, UserError
from utils.experiment import Experiment
from utils.formats.exchange.bundle import read_bundle, write_bundle
from utils.formats.response_files import write_responses_metadata
from utils.formats.vector_metadata import VectorMetadata
from utils.judge import AnthropicJudge, JudgeError, OpenAiJudge
from utils.models import load_model
from utils.models.generation import Sampling
from utils.records import InstructionPair, Response, TraitDefinition, TraitVector

from .inputs import saved
from .loopback import serving
from .readers import HIDDEN, METADATA, outcome

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-4f9d1c7b2e8a6053"
TEMPLATE = "{question}{answer}"
NAMES = ["..", ".", "", "a/b", "../a", "/tmp/a", "a\\b", "a\x00b", "a\n", " a", "a ", "a.", "~", "-a", "CON", "con", "nul.txt", "COM1", "lpt9.csv", "x" * 300, "a:b", "a*", "\u202ea"]  # fmt: skip


class Malicious:
    """Pickled, it would write a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def malicious_files(mark):
    """Pickles in all the wrappings that torch knows, which make ``mark`` if any code of theirs runs."""
    bare = pickle.dumps(Malicious(mark), protocol=2)
    legacy, modern, joined = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Malicious(mark), legacy, _use_new_zipfile_serialization=False)
    torch.save({"layer_activations": {1: torch.ones(3)}, "x": Malicious(mark)}, modern)
    with zipfile.ZipFile(joined, "w") as archive:
        archive.writestr("archive/data.pkl", bare)
        archive.writestr("archive/version", "3\n")
    return [bare, legacy.getvalue(), modern.getvalue(), joined.getvalue()]


@pytest.mark.parametrize("reader", ["vector", "steering_vector", "bundle", "control_vector", "activations"])
def test_pickled_code_is_refused_and_not_run(reader, tmp_path):
    mark = tmp_path / "ran"
    for number, data in enumerate(malicious_files(mark)):
        assert outcome(reader, tmp_path / f"{number}", data) != "read"
    assert not mark.exists()
    pickle.loads(malicious_files(mark)[0])
    assert mark.exists(), "the bait must be able to work"


def test_nothing_in_the_project_unpickles_freely():
    calls = []
    for folder in ("traitlens", "utils", "extraction", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            calls += re.findall(r"torch\.load\([^)]*\)", text)
            for unsafe in ("pickle.load", "weights_only=False", "allow_pickle=True", "joblib.load", "eval(", "exec("):
                used = re.findall(rf"(?<![\w.]){re.escape(unsafe)}", text)
                assert not used, f"{path}: {unsafe}"
    real = [call for call in calls if "map_location" in call]
    assert real
    assert all("weights_only=True" in call for call in real)


@pytest.mark.parametrize("length", [0, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_header_size_that_the_file_does_not_have_is_refused(length, tmp_path):
    header = b'{"activations":{"dtype":"F16","shape":[2,2,3],"data_offsets":[0,24]}}'
    data = struct.pack("<Q", length) + header + b"\x00" * 24
    assert outcome("bundle", tmp_path / "b", data) != "read"
    assert outcome("activations", tmp_path / "a", data) != "read"


@pytest.mark.parametrize("claimed", [2**32, 2**60, 2**64 - 1])
def test_counts_that_a_gguf_file_does_not_have_end_at_once(claimed, tmp_path):
    start = b"GGUF" + struct.pack("<I", 3)
    key = struct.pack("<Q", 1) + b"k"
    array = struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 4, claimed)
    text = struct.pack("<QQ", 0, 1) + key + struct.pack("<IQ", 8, claimed)
    for number, rest in enumerate([struct.pack("<QQ", claimed, 0), struct.pack("<QQ", 0, claimed), array, text]):
        assert "not a whole GGUF file" in outcome("control_vector", tmp_path / f"{number}", start + rest)


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text


def gguf_directions(*names):
    """A control vector whose directions all lie on the same four ones."""
    kind = gguf_text(b"general.architecture") + struct.pack("<I", 8) + gguf_text(b"controlvector")
    places = b"".join(gguf_text(name) + struct.pack("<IQIQ", 1, 4, 0, 0) for name in names)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), 1) + kind + places
    return head + b"\x00" * (-len(head) % 32) + struct.pack("<4f", 1, 1, 1, 1)


def test_a_gguf_file_takes_no_more_memory_than_it_has_bytes(tmp_path):
    assert outcome("control_vector", tmp_path / "one", gguf_directions(b"direction.1")).startswith("read")
    shared = gguf_directions(b"direction.1", *(b"x%d" % i for i in range(2000)))
    shared = shared.replace(struct.pack("<IQIQ", 1, 4, 0, 0), struct.pack("<IQIQ", 1, 1000, 0, 0)) + b"\x00" * 4000
    assert "not a whole GGUF file" in outcome("control_vector", tmp_path / "many", shared)


def test_gguf_arrays_without_end_and_blocks_beyond_counting_are_refused(tmp_path):
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text(b"k") + struct.pack("<I", 9)
    nested = start + struct.pack("<IQ", 9, 1) * 5000
    assert "not a whole GGUF file" in outcome("control_vector", tmp_path / "nested", nested)
    endless = gguf_directions(b"direction." + b"9" * 5000)
    assert "holds no directions" in outcome("control_vector", tmp_path / "endless", endless)


@pytest.mark.parametrize("reader", ["vector", "steering_vector"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_stored_number_spread_over_a_huge_shape_is_refused(reader, dtype, tmp_path):
    spread = torch.zeros(1, dtype=dtype).expand(10**13)
    archive = io.BytesIO()
    torch.save(spread if reader == "vector" else {1: spread}, archive)
    assert outcome(reader, tmp_path, archive.getvalue()) != "read"


def deflated(archive):
    """The archive with its entries compressed, which torch reads but never writes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    return packed.getvalue()


class Filler:
    """Pickled, it is a call of the one builtin that torch allows and that fills memory."""

    def __reduce__(self):
        return bytearray, (1_000_000,)


@pytest.mark.parametrize("reader", ["vector", "steering_vector"])
@pytest.mark.parametrize("form", ["deflated", "filler", "old filler"])
def test_a_torch_file_that_asks_for_more_memory_than_it_has_bytes_is_refused(reader, form, tmp_path):
    if form == "deflated":
        large = torch.zeros(10_000_000)
        data = deflated(saved(large if reader == "vector" else {1: large}))
    else:
        data = saved({1: Filler()}, _use_new_zipfile_serialization=form == "filler")
    assert len(data) < 100_000
    assert "not a file of tensors (ValueError)" in outcome(reader, tmp_path, data)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("reader", ["vector", "steering_vector"])
def test_what_torch_writes_is_read_in_its_old_form_and_its_new_one(reader, zipped, tmp_path):
    value = torch.ones(HIDDEN) if reader == "vector" else {1: torch.ones(HIDDEN)}
    assert outcome(reader, tmp_path, saved(value, _use_new_zipfile_serialization=zipped)) == "read"


@pytest.mark.parametrize("name", NAMES)
def test_names_cannot_leave_the_experiments_folder(name, tmp_path):
    with pytest.raises(UserError, match="cannot be the name of a"):
        Experiment(tmp_path, name)
    with pytest.raises(UserError, match="cannot be the name of a"):
        Experiment(tmp_path, "lab").trait(name)


@pytest.mark.parametrize("name", ["refusal", "2025_11_20", "gemma 2", "v1.2+b", "été", "console", "nullify"])
def test_ordinary_names_are_taken(name, tmp_path):
    assert Experiment(tmp_path, name).trait(name).root == tmp_path / name / name


def test_links_cannot_leave_the_experiments_folder(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "experiments"
    (outside / "calm").mkdir(parents=True)
    (inside / "lab").mkdir(parents=True)
    (inside / "away").symlink_to(outside)
    (inside / "lab" / "calm").symlink_to(outside / "calm")
    (inside / "lab" / "circle").symlink_to(inside / "lab" / "circle")
    (inside / "same").symlink_to(inside / "lab")
    for leave in (
        lambda: Experiment(inside, "away"),
        lambda: Experiment(inside, "lab").trait("calm"),
        lambda: Experiment(inside, "lab").trait("circle"),
    ):
        with pytest.raises(UserError, match="is a link that leads out of"):
            leave()
    (tmp_path / "link").symlink_to(inside)
    assert Experiment(inside, "same").trait("fine")
    assert Experiment(tmp_path / "link", "lab").trait("fine")


COMMANDS = {
    "extraction/1_generate_responses.py": ["--judge_model=none"],
    "extraction/2_extract_activations.py": [],
    "extraction/3_extract_vectors.py": [],
    "experiments/examples/run_dynamics.py": ["--prompts=x"],
    "-m extraction.export": [],
    "-m extraction.import_vectors": ["--source=x.pt", "--trait=calm"],
    "-m extraction.steer": ["--trait=calm"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_name_that_climbs_out_in_one_line(command, tmp_path):
    arguments = [*command.split(), "--experiment=../outside", f"--experiments_dir={tmp_path / 'inside'}"]
    done = subprocess.run(
        [sys.executable, *arguments, *COMMANDS[command]], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'extraction'}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "cannot be the name of a" in done.stderr
    assert done.stderr.strip().startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["../../../out", "/tmp/out", "a/b", "", "x" * 5000])
def test_a_bundle_cannot_write_outside_of_the_trait_by_its_metadata(method, tmp_path):
    vector = TraitVector(torch.ones(3), VectorMetadata.from_json(METADATA))
    write_bundle(tmp_path / "calm.safetensors", [vector])
    path = tmp_path / "calm.safetensors"
    from safetensors.torch import load, save

    header = {
        "format": "traitlens vectors 1", "shared": json.dumps({**METADATA, "method": method}),
        "vectors": '{"probe_layer2": {}}', "ranking": '["probe_layer2"]',
    }  # fmt: skip
    path.write_bytes(save(load(path.read_bytes()), header))
    with pytest.raises(DamagedFileError, match="does not describe its vectors"):
        import_into("lab", "calm", str(path), experiments_dir=tmp_path / "experiments")
    assert not (tmp_path / "experiments").exists()
    with pytest.raises(DamagedFileError):
        read_bundle(path)


@pytest.fixture
def canary(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "JUDGE_API_KEY", "GEN_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return CANARY


def told(error):
    """All that an error and its causes say."""
    texts = []
    while error is not None:
        if isinstance(error, UserError):
            texts.append(str(error))
        error = error.__cause__
    return " ".join(texts)


ECHOES = {
    "401": (401, {"error": {"message": f"Incorrect API key provided: {CANARY}"}}),
    "403": (403, {"error": {"message": "x" * 180 + f" {CANARY} may not"}}),
    "400": (400, {"error": {"message": f"bad header Authorization: Bearer {CANARY}"}}),
    "404": (404, {"error": {"message": f"no model for {CANARY}"}}),
    "429": (429, {"error": {"message": f"insufficient_quota for {CANARY}", "code": "insufficient_quota"}}),
    "500": (500, {"error": {"message": f"oops {CANARY}"}}),
    "text": (401, f"denied: {CANARY}"),
    "200": (200, {"choices": [{"message": {"role": "assistant", "content": f"{'y' * 45} {CANARY}"}, "finish_reason": "stop"}]}),
    "not JSON": (200, f"<html>{CANARY}</html>"),
}  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("kind", [OpenAiJudge, AnthropicJudge])
def test_a_judge_that_echoes_the_key_does_not_get_it_into_messages_or_logs(echo, kind, canary, caplog):
    status, body = ECHOES[echo]
    caplog.set_level(logging.INFO)
    body = (body if isinstance(body, str) else json.dumps(body)).encode()
    with serving(body, status) as url:
        judge = kind("m", TEMPLATE, base_url=url, max_retries=0, timeout=5)

        async def ask():
            try:
                judgement = await judge.grade("How friendly?")
            except JudgeError as error:
                return told(error)
            finally:
                await judge.aclose()
            return f"{judgement.reason} {judgement.method}"

        said = asyncio.run(ask())
    assert said.strip()
    assert canary[:12] not in said + caplog.text
    assert canary not in repr(judge) + repr(judge.client.server)


ADDRESSES = [
    f"{CANARY}@host/v1", f"http//{CANARY}", f"http://user:{CANARY}@", f"http://user:{CANARY}@host:port/v1",
    f"http://[{CANARY}@::1/v1", f"ftp://user:{CANARY}@host/v1", f"http://user:{CANARY}@ho st/v1",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_wrong_address_with_a_key_inside_is_refused_without_it(address):
    for make in (lambda: OpenAiJudge("m", TEMPLATE, base_url=address), lambda: ServedModel(address, "m")):
        with pytest.raises(UserError, match="must look like http://localhost:8000/v1") as caught:
            make()
        assert (
            CANARY not in told(caught.value) or address == f"http//{CANARY}"
        )  # no address at all: nothing marks a key


def test_a_judge_that_is_away_is_named_without_the_key_in_its_address(canary):
    judge = OpenAiJudge("m", TEMPLATE, base_url=f"http://user:{canary}@127.0.0.1:9/v1", max_retries=0, timeout=2)
    with pytest.raises(JudgeError, match=re.escape("cannot reach the judge at 127.0.0.1:9")) as caught:
        asyncio.run(judge.grade("p"))
    assert canary not in told(caught.value)


CALM = TraitDefinition("calm", (InstructionPair("a", "b"),), ("q",), TEMPLATE)


@pytest.mark.parametrize("echo", sorted(set(ECHOES) - {"200", "429", "500"}))
def test_a_generation_server_that_echoes_the_key_does_not_get_it_into_messages(echo, canary):
    status, body = ECHOES[echo]
    with serving((body if isinstance(body, str) else json.dumps(body)).encode(), status) as url:
        server = ServedModel(url.replace("://", f"://user:{canary}@"), "m")
        with pytest.raises(UserError, match="Finished responses are kept") as caught:
            list(server.generate(CALM, GenerationSettings(Sampling(4, 0.0, 1.0)), Process(), ()))
    assert canary[:12] not in told(caught.value)


def test_a_key_in_the_address_of_a_generation_server_is_not_recorded(canary, tmp_path):
    with pytest.raises(UserError, match="take away what follows") as caught:
        ServedModel(f"https://user:{canary}@host:8000/v1?api_key={canary}", "m")
    assert canary not in told(caught.value)
    address = f"https://user:{canary}@host:8000/v1"
    folder = Experiment(tmp_path, "lab").trait("calm")
    recorded = fingerprint(CALM, GenerationSettings(Sampling(4, 0.0, 1.0)), ServedModel(address, "m").source)
    assert recorded["base_url"] == "https://host:8000/v1"
    begin(folder, recorded, overwrite=False)
    write_responses_metadata(folder, {"generation": {**recorded, "base_url": address}})
    with pytest.raises(UserError, match="a server at https://host:8000/v1") as caught:
        model_behind(folder)
    journal = folder.generation_journal.settings_path.read_text(encoding="utf-8")
    assert "host:8000" in journal
    assert canary not in journal + told(caught.value)


def test_host_and_texts_are_shown_without_what_could_be_a_key(canary):
    assert server_host("--judge_base_url", f"https://me:{canary}@h.example:80/v1") == "h.example:80"
    assert without_keys(f"https://host/v1?api_key={canary[::-1]}") == "https://host/v1?api_key=[key]"
    assert without_keys(f"a {canary} b") == "a [key] b"
    assert without_keys("other-secret-key", "other-secret-key") == "[key]"
    assert (
        without_keys("an ordinary text: mail me@host, see http://host/a@b")
        == "an ordinary text: mail me@host, see http://host/a@b"
    )


@pytest.mark.parametrize("value", ["sk-é" + "x" * 20, "sk-\x07bell-in-the-key", "sk-abc\nX-Header: 1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(value, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds characters that no key has") as caught:
        get_credential("OPENAI_API_KEY")
    assert value not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("mode", "warns"), [(0o644, True), (0o640, True), (0o604, True), (0o600, False), (0o400, False)]
)
def test_an_env_file_that_others_can_read_gets_one_line_with_the_remedy(mode, warns, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("A_KEY_OF_THIS_TEST", raising=False)
    path = tmp_path / ".env"
    path.write_text(f"A_KEY_OF_THIS_TEST={CANARY}\n", encoding="utf-8")
    path.chmod(mode)
    load_credentials(path)
    assert os.environ.pop("A_KEY_OF_THIS_TEST") == CANARY
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == warns
    assert all("chmod 600" in line and CANARY not in line for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_an_env_file_that_holds_only_placeholders_is_no_secret(tmp_path, caplog, monkeypatch):
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            monkeypatch.setenv(line.partition("=")[0], "")
    path = tmp_path / ".env"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    load_credentials(path)
    assert caplog.records == []


@pytest.mark.parametrize("changes", [{"device": "gpu"}, {"device": "cuda:77"}, {"dtype": "int8"}], ids=str)
def test_a_device_or_precision_that_is_not_there_is_refused_before_any_weight_is_read(changes, monkeypatch):
    transformers = pytest.importorskip("transformers")
    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=next(iter(changes.values()))):
        load_model("some/model", **changes)


def test_code_that_comes_with_a_model_runs_only_when_asked(tmp_path):
    mark = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}), encoding="utf-8")
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n", encoding="utf-8")
    with pytest.raises(UserError, match="cannot load the model"):
        load_model(str(folder))
    with pytest.raises(UserError, match="cannot read the configuration of the model"):
        _sizes(str(folder))
    assert not mark.exists()


HTML = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--"


def test_cards_and_reports_escape_whatever_a_model_wrote(tmp_path):
    folder = SimpleNamespace(trait=HTML, experiment=SimpleNamespace(name=HTML), vectors_dir=tmp_path)
    examples = SimpleNamespace(
        file=SimpleNamespace(folder=folder, layer=lambda *_: torch.zeros(0, 2)), labels=torch.tensor([True, False]),
        responses=[Response(HTML, HTML, HTML, HTML)] * 2, folds=SimpleNamespace(describe=lambda: HTML),
    )  # fmt: skip
    third = Interval(0.3, 0.2, 0.4)
    measured = Measured(
        HTML, 1, torch.ones(2), {"converged": False}, 0.0, None, torch.tensor([-1.0, 1.0]),
        torch.zeros(0), Metrics(third, 0.5, 0.0, 0.0, 1, 1), Calibration(1.0, 0.0, 0.2, 0.2), None, None,
    )  # fmt: skip
    result = Sweep([measured], Choice(HTML, 1, torch.zeros(2), {}), third, [Control(HTML, 0.3, third)], None, None)
    sidecar = {"trait": HTML, "method": "probe", "layer": 1, "hidden_size": 2}
    settings = dict.fromkeys(("model", "context", "pooling", "held_out", "responses_from"), HTML)
    write_card(
        examples,
        result,
        VectorMetadata.from_json({**sidecar, **settings, "counts": {}, "seed": 0, "versions": {HTML: HTML}}),
    )
    page = (tmp_path / "card.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") >= 13
    assert "<img" not in page
    assert "<script" not in page
    result = {
        "prompt": HTML, "response": HTML, "tokens": [HTML], "trait_scores": {HTML: [1.0]}, "model": HTML,
        "layer": {HTML: 1}, "method": {HTML: HTML},
    }  # fmt: skip
    results = tmp_path / HTML / "results.json"  # the page shows the folder's name too
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps(result), encoding="utf-8")
    place = tmp_path / HTML.partition("/")[0]
    report = write_report([place], tmp_path / "r.html").read_text(encoding="utf-8")
    data = report.partition('id="embedded-data" type="application/json">')[2].partition("</script>")[0]
    assert json.loads(data) == [{"file": f"{HTML}/results.json", "data": result}]
    assert "<" not in data
