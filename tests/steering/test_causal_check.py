import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from extraction.steering.bench import Bench
from extraction.steering.causal_check import run_causal_check
from extraction.steering.damage import perplexity, repeated_share
from extraction.steering.report import doubts_about, findings
from extraction.steering.results import Push, Verdict
from extraction.steering.settings import Settings
from extraction.steering.verdict import verdict_on

from tests.conftest import small_model
from tests.exchange.conftest import random_vector, sidecar
from traitlens import DoseResponse, projection
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.files import write_json
from utils.formats.vector_files import read_vector, write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow, VectorMetadata
from utils.models import LoadedModel
from utils.models.generation import Sampling, generate_batch
from utils.prompts import encode_prompt, format_prompt
from utils.records import TraitVector

QUESTIONS = ["Is my plan good?", "What is the capital of France?", "Am I right?", "Do you agree?"]
SETTINGS = Settings(
    "smollm2_demo", "sycophantic", [0.1], layer=18, n_prompts=2, max_new_tokens=8, device="cpu", n_controls=2
)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments")
    folder = Experiment(root, "smollm2_demo").trait("sycophantic")
    for layer in (10, 18):
        write_vector(folder, random_vector(layer), sidecar(layer))
    write_summary(folder, [SummaryRow(method="probe", layer=layer) for layer in (18, 10)])
    rubric = "Does the answer flatter? Question: {question} Answer: {answer} Score 0 to 100."
    definition = {"instruction": [{"pos": "Agree.", "neg": "Object."}], "questions": QUESTIONS, "eval_prompt": rubric}
    write_json(folder.definition_path, definition)
    result = run_causal_check(replace(SETTINGS, dtype="float32", experiments_dir=root))
    written = json.loads((folder.vectors_dir / "steering_probe_layer18.json").read_text())
    return folder, result, written


def test_the_file_holds_every_answer_of_every_dose_of_vector_and_random_directions(checked):
    folder, _, written = checked
    assert [s["direction"] for s in written["series"]] == ["vector", "random", "random"]
    for series in written["series"]:
        assert [d["dose"] for d in series["doses"]] == [-0.1, 0.0, 0.1]
        assert [[a["question"] for a in d["answers"]] for d in series["doses"]] == [[QUESTIONS[0], QUESTIONS[2]]] * 3
        assert [set(d["answers"][0]) >= {"text", "readout", "surprise", "repeated"} for d in series["doses"]] == [
            True
        ] * 3
    assert written["verdict"]["causal"] is not True  # with two random directions it cannot be
    assert written["verdict"]["n_controls"] == 2
    assert (written["steered"]["layer"], written["read"]["layer"]) == (18, 10)
    assert (folder.vectors_dir / "steering_probe_layer18.png").read_bytes().startswith(b"\x89PNG")


def test_answers_at_dose_zero_are_the_unsteered_ones_and_others_differ(checked, embedded):
    from utils.models import EMBEDDED_MODEL, load_model

    _, result, _ = checked
    loaded = load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")
    prompts = [
        encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, q)) for q in (QUESTIONS[0], QUESTIONS[2])
    ]
    plain = generate_batch(loaded, prompts, SETTINGS.sampling, SETTINGS.seed)
    texts = [loaded.tokenizer.decode(answer.ids) for answer in plain]
    for series in result.series:
        assert [a.text for a in series.answers[0.0]] == texts
    assert [a.text for a in result.series[0].answers[0.1]] != texts


def test_readout_and_perplexity_are_of_the_unsteered_model_as_computed_by_hand(checked):
    from utils.models import EMBEDDED_MODEL, load_model

    folder, result, _ = checked
    loaded = load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")
    reader = read_vector(folder, "probe", 10)
    answer = result.series[0].answers[0.1][1]
    prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, answer.question))
    ids = loaded.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        output = loaded.model(torch.tensor([prompt + ids]), output_hidden_states=True)
    score = projection(output.hidden_states[10][0, len(prompt) :], reader.vector).mean() - reader.baseline
    assert answer.n_tokens == len(ids)
    assert answer.readout == pytest.approx(float(score / reader.vector.norm()), rel=1e-4)
    likelihoods = output.logits[0, len(prompt) - 1 : -1].log_softmax(-1)[range(len(ids)), ids]
    assert answer.repeated == repeated_share(ids)
    assert answer.surprise == pytest.approx(-float(likelihoods.mean()), rel=1e-4)
    both = result.series[0].answers[0.1]
    mean = sum(a.surprise * a.n_tokens for a in both) / sum(a.n_tokens for a in both)
    assert perplexity(both) == pytest.approx(math.exp(mean))


def test_random_directions_are_as_long_as_the_vector_and_each_is_added_and_subtracted(checked, monkeypatch):
    folder, _, _ = checked
    added = []
    monkeypatch.setattr(
        "extraction.steering.bench.add_steering_hook", lambda hooks, vector, layer: added.append(vector)
    )
    other, root = folder.root / "other.json", folder.root.parent.parent
    settings = replace(SETTINGS, coefficients=[0.1, -0.2], n_prompts=1, max_new_tokens=1, n_controls=3)
    run_causal_check(replace(settings, output=other, experiments_dir=root))
    size = float(added[0].norm())
    assert [float(v.norm()) / size for v in added] == pytest.approx([1, 1, 0.5, 0.5, 1, 1, 1, 1, 1, 1], rel=1e-5)
    assert all(torch.equal(added[i], -added[i + 1]) for i in range(0, 10, 2))
    unit = read_vector(folder, "probe", 18).vector / read_vector(folder, "probe", 18).vector.norm()
    assert float(added[0] @ unit) == pytest.approx(size, rel=1e-5)
    drawn = torch.stack([unit * size, *added[4::2]])
    overlap = drawn @ drawn.T / size**2 - torch.eye(4)
    assert 0 < float(overlap.abs().max()) < 0.25  # 576 dimensions: neither the same nor made orthogonal


def test_a_direction_is_tried_downwards_until_its_text_is_whole_and_none_beside_a_vector_that_never_is(
    embedded, monkeypatch
):
    bench = _bench(1, embedded.tokenizer)
    generate, tried = Bench._generate, []

    def silenced_from(limit):
        def answers(self, added):
            tried.append(0.0 if added is None else round(float(added.norm()) / typical, 3))
            return [[], []] if added is not None and tried[-1] >= limit else generate(self, None)

        return answers

    typical = bench._typical_norm(bench._generate(None))
    monkeypatch.setattr(Bench, "_generate", silenced_from(0.4))
    _, series = bench.try_doses([0.1, 0.2, 0.4], n_controls=2)
    assert tried == [0, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, *[0.4, 0.4, 0.2, 0.2] * 2]
    assert [one.deciding_dose for one in series] == [0.2] * 3
    monkeypatch.setattr(Bench, "_generate", silenced_from(0.1))
    _, series = bench.try_doses([0.1, 0.2, 0.4], n_controls=2)
    assert len(series) == 1
    assert "no dose left text" in verdict_on(series, "readout").reason


def test_the_lines_and_the_warnings_follow_the_figures(checked):
    _, result, _ = checked
    step = DoseResponse(2.0, 1.5, 2.5, 1.0, 2)
    causal = Verdict(True, "it does", 0.05, 19, 0, Push(0.1, step, replace(step, slope=1.0), replace(step, slope=3.0)))
    whole = replace(result.series[0], damage=dict.fromkeys(result.series[0].answers))
    good = replace(result, series=(whole, *result.series[1:]), verdict=causal)
    assert doubts_about(good) == []
    said = "; ".join(findings(good))
    assert "causal (p = 0.05, 0 of 19 random directions are as strong): it does" in said
    assert "at dose 0.1: +2.00 (+1.50 to +2.50) class distances" in said
    assert "2 of 2 questions move the right way" in said
    assert "repeated 4-grams 0% at -0.1" in said
    unsure = replace(good, verdict=replace(causal, causal=False, reason="it does not"))
    assert "not shown to be causal (p = 0.05" in findings(unsure)[0]
    alone = Verdict(None, "too few", None, 0, 0, Push(0.1, replace(step, low=None, high=None), step, step))
    assert findings(replace(good, verdict=alone))[0] == "sycophantic: undecided: too few"
    assert "+2.00 (no interval)" in findings(replace(good, verdict=alone))[1]
    torn = replace(good, series=(replace(whole, damage={**whole.damage, 0.1: "loops"}),))
    assert doubts_about(torn)[0] == "at dose +0.1 loops: read those answers as damage"
    assert "smaller --coefficients" in doubts_about(torn)[1]
    assert "the judge does not see" in doubts_about(replace(good, judged_verdict=unsure.verdict))[0]


def test_a_judge_scores_every_answer_once_and_its_effect_is_reported(checked, monkeypatch):
    from utils.judge import Judgement

    class Counting:
        name = "counting"

        def __init__(self):
            self.seen, self.closed = [], False

        def judgements(self, prompts, eval_type="0_100"):
            self.seen += prompts
            return ((i, Judgement(float(len(self.seen)))) for i in range(len(prompts)))

        def close(self):
            self.closed = True

    folder, _, _ = checked
    judge = Counting()
    monkeypatch.setattr("extraction.steering.causal_check.resolve_judge", lambda settings, loaded: judge)
    root = folder.root.parent.parent
    path = folder.root / "judged.json"
    result = run_causal_check(replace(SETTINGS, n_controls=1, output=path, experiments_dir=root))
    assert judge.closed
    assert len(judge.seen) == 2 * (1 + 2 * 2)  # two questions; no dose, and two directions added and subtracted
    assert all("Does the answer flatter?" in prompt for prompt in judge.seen)
    assert result.judged_verdict.push.both.n_prompts == 2
    assert "by the judge" in findings(result)[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coefficients": (0.0,)}, "at least one finite dose"),
        ({"coefficients": (math.nan,)}, "at least one finite dose"),
        ({"read_layer": 29}, "no vector at layer 29 to read with"),
        ({"layer": 29}, "vectors has no vector with layer 29. There are probe layer 10, probe layer 18. Run: python"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused_before_the_model_is_loaded(checked, monkeypatch, changes, message):
    folder, _, _ = checked
    monkeypatch.setattr("utils.models.compatibility.load_model", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message):
        run_causal_check(replace(SETTINGS, **changes, experiments_dir=folder.root.parent.parent))


def test_an_output_that_is_a_folder_is_refused_before_the_model_is_loaded(checked, monkeypatch, tmp_path):
    folder, _, _ = checked
    monkeypatch.setattr("utils.models.compatibility.load_model", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError, match="is a folder: --output names a file"):
        run_causal_check(replace(SETTINGS, output=tmp_path, experiments_dir=folder.root.parent.parent))


def test_answers_are_read_at_the_best_layer_that_is_here_though_the_summary_lists_more(checked, tmp_path, monkeypatch):
    folder, _, _ = checked
    shutil.copytree(folder.root.parent, tmp_path / "smollm2_demo")
    copy = Experiment(tmp_path, "smollm2_demo").trait("sycophantic")
    write_summary(copy, [SummaryRow(method="probe", layer=layer) for layer in (18, 25, 10)])
    read = []

    def stop(reader, _):
        read.append(reader.layer)
        raise UserError("enough")

    monkeypatch.setattr("extraction.steering.causal_check.load_model_for", lambda *_, **__: None)
    monkeypatch.setattr("extraction.steering.causal_check.check_model", stop)
    with pytest.raises(UserError, match="enough"):
        run_causal_check(replace(SETTINGS, layer=18, read_layer=None, experiments_dir=tmp_path))
    assert read == [10]


def test_an_output_that_its_own_picture_would_replace_is_refused_before_the_model_is_loaded(
    checked, monkeypatch, tmp_path
):
    folder, _, _ = checked
    monkeypatch.setattr("utils.models.compatibility.load_model", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"x\.png is where the picture"):
        run_causal_check(replace(SETTINGS, output=tmp_path / "x.png", experiments_dir=folder.root.parent.parent))


def test_questions_come_from_the_experiment_whose_responses_were_read_where_there_is_no_definition(
    checked, monkeypatch
):
    folder, _, _ = checked
    root = folder.root.parent.parent
    other = Experiment(root, "smollm2_other").trait("sycophantic")
    for layer in (10, 18):
        write_vector(other, random_vector(layer), sidecar(layer, responses_from="smollm2_demo"))
    write_summary(other, [SummaryRow(method="probe", layer=layer) for layer in (18, 10)])
    settings = replace(SETTINGS, experiment="smollm2_other", n_prompts=1, max_new_tokens=1, n_controls=0)
    result = run_causal_check(replace(settings, experiments_dir=root))
    assert [a.question for a in result.series[0].answers[0.0]] == QUESTIONS[:1]
    assert len(result.series) == 1


def _bench(eos, tokenizer):
    """Two questions to a random model that always says token 0, and so nothing at all where that is its end of turn."""
    model = small_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.generation_config.eos_token_id = eos
    metadata = {"trait": "calm", "method": "probe", "layer": 2, "model": "m", "hidden_size": 32, "baseline": 0.0}
    vector = TraitVector(torch.ones(32), VectorMetadata.from_json(metadata))
    loaded = LoadedModel(model, tokenizer, "m", "m", None)
    return Bench(loaded, vector, vector, ["Why?", "What?"], "{question}{answer}", None, Sampling(4, 0.0), 0)


def test_a_model_that_says_nothing_cannot_be_checked(embedded):
    with pytest.raises(UserError, match="m gave no answer to any of the 2 questions"):
        _bench(0, embedded.tokenizer).try_doses([1.0], n_controls=0)


def test_a_dose_that_silences_the_model_has_no_readout_and_is_not_measured_as_zero(embedded, monkeypatch):
    bench = _bench(1, embedded.tokenizer)
    generate = Bench._generate
    monkeypatch.setattr(Bench, "_generate", lambda self, added: generate(self, None) if added is None else [[], [0, 0]])
    _, (series,) = bench.try_doses([1.0], n_controls=0)
    for dose in (-1.0, 1.0):
        silent, spoken = series.answers[dose]
        assert (silent.readout, silent.surprise, silent.repeated, silent.n_tokens) == (None, None, None, 0)
        assert math.isfinite(spoken.readout)
    assert verdict_on([series], "readout").push.both.n_prompts == 1
