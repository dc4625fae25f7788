import io
import json
import os
import shutil
import subprocess
import sys

import extraction.monitoring.run
import pytest
import torch
from extraction.monitoring.texts import monitor_texts
from extraction.monitoring.tinting import TintedTokens
from extraction.monitoring.vectors import choose_vectors, vectors_in

import utils.models.compatibility
from tests.monitoring.conftest import ROOT, SMALL, example, write_vectors
from traitlens import TraitMonitor, projection
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.results import read_results
from utils.formats.transcripts import Transcript, asking
from utils.formats.vector_files import read_vector, write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow, VectorMetadata
from utils.models.compatibility import load_model_for
from utils.models.generation import Sampling
from utils.prompts import encode_prompt, encode_response, format_prompt, token_texts
from utils.records import TraitVector

SPECIFIED = [
    "prompt",
    "response",
    "tokens",
    "trait_scores",
    "baselines",
    "thresholds",
    "model",
    "layer",
    "method",
    "dynamics",
]
DYNAMICS = {
    "commitment_point",
    "peak_velocity",
    "avg_velocity",
    "persistence",
    "velocity_profile",
    "acceleration_profile",
}
TEXT = "Sure 🙂👩‍👩‍👧 你好, é̂ naïve."


@pytest.fixture
def run(small_experiments, small, monkeypatch):
    """run_dynamics on a tiny experiment with a small model in memory; returns the results."""
    return runner(small_experiments, small, monkeypatch)


@pytest.fixture
def real_run(experiments, embedded, monkeypatch):
    """The same with the embedded model."""
    return runner(experiments, embedded, monkeypatch)


def runner(experiments, loaded, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: loaded)

    def call(output="out.json", **flags):
        path = experiments.parent / output
        flags = {"max_new_tokens": 6, "report": False, **flags}
        example("run_dynamics").run_dynamics(
            "smollm2_test", output=str(path), experiments_dir=str(experiments), **flags
        )
        return read_results(path)

    return call


def test_the_documented_command_gives_the_documented_format(experiments):
    """From a copy of the script inside the experiment, as users run it."""
    copied = experiments / "smollm2_test" / "inference" / "run_dynamics.py"
    copied.parent.mkdir(parents=True)
    shutil.copy(ROOT / "experiments" / "examples" / "run_dynamics.py", copied)
    command = [sys.executable, str(copied), "--experiment", "smollm2_test", "--prompts", "What is the capital of France?",
               "--output", "results.json", "--max_new_tokens", "12"]  # fmt: skip
    done = subprocess.run(command, cwd=experiments.parent, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    result = json.loads((experiments.parent / "results.json").read_text())
    assert list(result) == SPECIFIED
    assert result["prompt"] == "What is the capital of France?"
    assert "".join(result["tokens"]) == result["response"]
    assert "Paris" in result["response"]
    assert "<|im_end|>" not in result["response"]
    assert set(result["trait_scores"]) == {"evil", "refusal"}
    assert all(len(scores) == len(result["tokens"]) for scores in result["trait_scores"].values())
    assert set(result["dynamics"]["evil"]) >= DYNAMICS
    assert len(result["dynamics"]["evil"]["velocity_profile"]) == len(result["tokens"]) - 1
    assert (result["layer"]["evil"], result["method"]["evil"], result["baselines"]["evil"]) == (16, "probe", 0.5)
    assert result["thresholds"]["evil"] == {"fpr_1": 9.0, "fpr_5": 6.0}
    assert "capital of France" in (experiments.parent / "results.html").read_text()


def test_generated_scores_equal_a_second_pass_over_the_same_text(real_run, experiments, embedded):
    (result,) = real_run(prompts="Hi", max_new_tokens=8)
    tokenizer = embedded.tokenizer
    prompt_ids = encode_prompt(tokenizer, format_prompt(tokenizer, "Hi"))
    ids = prompt_ids + encode_response(tokenizer, result["response"])
    vector = read_vector(Experiment(experiments, "smollm2_test").trait("evil"), "probe", 16)
    with torch.no_grad():
        states = embedded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[16][0]
    wanted = projection(states[len(prompt_ids) :], vector.vector)
    found = torch.tensor(result["trait_scores"]["evil"])
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 0.1 * wanted.std()  # bfloat16 weights


def test_several_prompts_in_batches_come_out_in_order(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("One?\nTwo, or three?\nFour?\n")
    results = run(prompts_file=str(tmp_path / "prompts.txt"), batch_size=2)
    assert [r["prompt"] for r in results] == ["One?", "Two, or three?", "Four?"]
    assert [r["prompt"] for r in run("list.json", prompts='["One?", "Four?"]')] == ["One?", "Four?"]


def test_existing_texts_are_read_and_their_characters_stay_whole(run, tmp_path):
    rows = [{"prompt": "Hi", "response": TEXT}, {"prompt": "Hi", "response": ""}]
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    full, empty = run(text_file=str(tmp_path / "texts.json"))
    assert full["response"] == "".join(full["tokens"]) == TEXT
    assert not any("\ufffd" in token for token in full["tokens"])
    assert len(full["trait_scores"]["evil"]) == len(full["tokens"]) > 10
    assert (empty["tokens"], empty["trait_scores"]["evil"], empty["dynamics"]["evil"]["peak"]) == ([], [], None)


def test_reading_a_chat_scores_every_assistant_turn(run, tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}))
    first, second = run(text_file=str(tmp_path / "chat.jsonl"), prompt_scores=True)
    assert (first["response"], second["response"]) == ("Hello", "See you")
    spoken = [
        ("".join((second["prompt_tokens"] if s["where"] == "prompt" else second["tokens"])[s["start"] : s["end"]]), s)
        for s in second["segments"]
    ]
    assert [(text, s["role"], s["turn"]) for text, s in spoken] == [
        ("Hi", "user", 1), ("Hello", "assistant", 1), ("Bye", "user", 2), ("See you", "assistant", 2),
    ]  # fmt: skip
    # an earlier turn scores the same when it is read as part of the prompt
    segment = spoken[1][1]
    again = second["prompt_trait_scores"]["evil"][segment["start"] : segment["end"]]
    assert again == pytest.approx(first["trait_scores"]["evil"], abs=1e-3)


def test_all_layers_are_given_beside_the_main_one(run):
    (result,) = run(prompts="Hi", all_layers=True, layer=1)
    scores = result["layer_scores"]["evil"]
    assert scores["layers"] == [0, 1, 2, 4]
    assert scores["scores"][1] == result["trait_scores"]["evil"]
    assert scores["baselines"] == [0.5] * 4
    assert result["layer"]["evil"] == 1


def test_thinking_is_told_from_the_answer(run, tmp_path):
    rows = [{"prompt": "Hi", "response": "<think>\nA greeting.\n</think>\nHello"}]
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    (result,) = run(text_file=str(tmp_path / "texts.json"))
    parts = {s["part"]: "".join(result["tokens"][s["start"] : s["end"]]) for s in result["segments"]}
    assert "A greeting." in parts["thinking"]
    assert "Hello" in parts["answer"]
    assert "Hello" not in parts["thinking"]


def test_an_interrupted_run_continues_and_ends_as_if_it_had_not_been(run, monkeypatch):
    flags = {"prompts": '["One?", "Two?", "Three?"]', "batch_size": 1, "temperature": 1.0}
    whole = run("whole.json", **flags)
    real, calls = extraction.monitoring.run.monitor_texts, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(extraction.monitoring.run, "monitor_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("cut.json", **flags)
    assert run("cut.json", **flags) == whole
    assert len(calls) == 4
    run("cut.json", **flags)
    assert len(calls) == 4


def test_other_settings_do_not_mix_into_a_result_file(run):
    run(prompts="Hi")
    with pytest.raises(UserError, match="sampling"):
        run(prompts="Hi", max_new_tokens=7)
    assert len(run(prompts="Hi", max_new_tokens=3, overwrite=True)[0]["tokens"]) <= 3


def test_streaming_shows_the_answer_as_plain_text_where_there_is_no_terminal(run, capsys):
    (result,) = run(prompts="Hi", stream=True, tint="refusal", max_new_tokens=10)
    assert capsys.readouterr().out == f"> Hi\n{result['response']}\n"


def test_answers_sampled_one_by_one_while_streaming_do_not_pass_as_those_of_a_batch(run):
    flags = {"prompts": '["One?", "Two?"]', "temperature": 1.0}
    streamed = run(stream=True, **flags)
    with pytest.raises(UserError, match=r"other settings \(batch_size\)"):
        run(**flags)
    assert run(batch_size=1, **flags) == streamed


def test_custom_metrics_reach_the_file(small_experiments, small, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: small)
    script = example("run_dynamics")
    monkeypatch.setattr(script, "metrics", lambda record, trait, smoothing: {"tokens": len(record.tokens)})
    script.run_dynamics(
        "smollm2_test", prompts="Hi", max_new_tokens=3, report=False, experiments_dir=str(small_experiments)
    )
    (result,) = read_results(small_experiments / "smollm2_test" / "inference" / "results" / "dynamics.json")
    assert result["dynamics"]["evil"] == {"tokens": len(result["tokens"])}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "give one of"),
        ({"prompts": "a", "prompts_file": "b"}, "give one of"),
        ({"prompts": "a", "smoothing": 2}, "odd"),
        ({"prompts": "a", "tint": "joy"}, "--tint must be one of evil, refusal"),
        ({"prompts": "a", "traits": ["joy"]}, "joy"),
        ({"prompts": "a", "layer": 99}, "layer 99"),
        ({"prompts": "a", "model": "gpt2"}, "SmolLM2-135M-Instruct, not of gpt2"),
        ({"prompts": "a", "max_new_tokens": 0}, "max_new_tokens"),
        ({"text_file": "a.json", "stream": True}, "--stream"),
        ({"prompts": "a", "output": "out.html", "report": True}, r"out\.html is where the page"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_the_model_is_loaded(run, monkeypatch, flags, said):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(utils.models.compatibility, "load_model", never)
    with pytest.raises(UserError, match=said):
        run(**flags)


def test_vectors_of_another_size_or_model_are_refused(tmp_path, embedded, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: embedded)
    write_vectors(tmp_path, SMALL)
    with pytest.raises(UserError, match="hidden size 576"):
        load_model_for(vectors_in(choose_vectors(Experiment(tmp_path, "smollm2_test"))))


def test_vectors_of_two_models_are_not_scored_in_one_run(tmp_path):
    for trait, model in (("evil", "org/one"), ("calm", "org/two")):
        folder = Experiment(tmp_path, "mixed").trait(trait)
        sidecar = {"trait": trait, "method": "probe", "layer": 2, "model": model, "hidden_size": 4, "baseline": 0.0}
        write_vector(folder, torch.ones(4), VectorMetadata.from_json(sidecar))
        write_summary(folder, [SummaryRow(method="probe", layer=2)])
    with pytest.raises(UserError, match=r"different models .*(one|two).* of org/.*: name --traits of one"):
        choose_vectors(Experiment(tmp_path, "mixed"))


def test_the_streamed_text_of_a_batch_is_the_texts_own(small_experiments, small):
    chosen, seen = choose_vectors(Experiment(small_experiments, "smollm2_test")), {0: [], 1: []}
    records = monitor_texts(
        small, chosen, [asking("Hi"), asking("What is the capital of France?")], Sampling(8, 0.0),
        on_token=lambda row, token, scores: seen[row].append(scores["evil"][0]),
    )  # fmt: skip
    assert [r.trait_scores["evil"] for r in records] == [seen[0], seen[1]]


class Terminal(io.StringIO):
    def isatty(self):
        return True


# Of all tokens, the strongest colour is for those that are 2 over the baseline.
COLOURING = TraitVector(
    torch.ones(2),
    VectorMetadata.from_json(
        {
            "trait": "evil",
            "method": "probe",
            "layer": 1,
            "model": "m",
            "hidden_size": 2,
            "baseline": 1.0,
            "neutral": {"fpr_1": 3.0},
        }
    ),
)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_tinted_tokens_show_every_character_once_and_none_that_command_the_terminal(embedded, stream, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = stream()
    printer = TintedTokens(out, embedded.tokenizer, COLOURING)
    printer.begin("Say \x1b[2J")
    for token in encode_response(embedded.tokenizer, TEXT + "\x1b[2J\n"):
        printer.on_token(0, token, {"evil": [3.0]})
    printer.end()
    shown = out.getvalue()
    assert ("\x1b[48;5;208;38;5;16m" in shown) == (stream is Terminal)
    plain = shown.replace("\x1b[48;5;208;38;5;16m", "").replace("\x1b[0m", "")
    assert plain == "> Say \ufffd[2J\n" + TEXT + "\ufffd[2J\n\n"


def test_a_character_that_never_becomes_whole_is_shown_at_the_end(embedded):
    out = io.StringIO()
    printer = TintedTokens(out, embedded.tokenizer, COLOURING)
    for token in encode_response(embedded.tokenizer, "a🙂")[:-1]:
        printer.on_token(0, token, {"evil": [3.0]})
    assert out.getvalue() == "a"
    printer.end()
    assert out.getvalue() == "a\ufffd\n"


def test_no_color_is_respected(embedded, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    token = encode_response(embedded.tokenizer, "Hi")[0]
    TintedTokens(out, embedded.tokenizer, COLOURING).on_token(0, token, {"evil": [5.0]})
    assert out.getvalue() == "Hi"


def test_generated_characters_of_several_tokens_stay_whole(embedded):
    wanted = encode_response(embedded.tokenizer, TEXT)

    class Dictated:
        def __call__(self, input_ids, scores):
            step = input_ids.shape[1] - 3
            scores[:] = -1e9
            scores[:, wanted[step]] = 0.0
            return scores

    with TraitMonitor(embedded.model, {"trait": (torch.ones(576), 16)}) as monitor:
        embedded.model.generate(
            torch.tensor([[1, 2, 3]]), max_new_tokens=len(wanted), do_sample=False, logits_processor=[Dictated()]
        )
    tokens = token_texts(embedded.tokenizer, monitor.token_ids())
    assert "".join(tokens) == TEXT
    assert len(tokens) == len(monitor.scores()["trait"]) == len(wanted)


def test_a_text_longer_than_the_model_was_made_for_is_said(embedded, experiments, caplog, monkeypatch):
    monkeypatch.setattr(embedded.model.config, "max_position_embeddings", 8)
    chosen = choose_vectors(Experiment(experiments, "smollm2_test"), ["evil"])
    monitor_texts(embedded, chosen, [Transcript(({"role": "user", "content": "Hi"},), "word " * 9)], Sampling())
    assert "was made for 8" in caplog.text


def test_a_message_that_is_also_a_word_of_the_markup_is_found_where_it_was_said(run, tmp_path):
    chat = [("user", "user"), ("assistant", "im_end"), ("user", "assistant"), ("assistant", "Yes")]
    messages = [{"role": role, "content": content} for role, content in chat]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    _, last = run(text_file=str(tmp_path / "chat.jsonl"), prompt_scores=True)
    tokens = last["prompt_tokens"]
    for segment in last["segments"][:3]:
        before, after = "".join(tokens[: segment["start"]]), "".join(tokens[segment["end"] :])
        assert before.endswith(f"<|im_start|>{segment['role']}\n")
        assert after.startswith("<|im_end|>")


def test_a_plain_response_is_read_behind_the_end_of_a_thought_that_the_template_opens(
    run, tmp_path, small, monkeypatch
):
    opens = small.tokenizer.chat_template + "{% if add_generation_prompt %}<think>{% endif %}"
    monkeypatch.setattr(small.tokenizer, "chat_template", opens)
    rows = [{"prompt": "Hi", "response": r} for r in ("Hello", "A greeting.</think>Hello")]
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    plain, whole = run(text_file=str(tmp_path / "texts.json"), prompt_scores=True)
    assert "".join(plain["prompt_tokens"]).endswith("<think></think>\n\n")
    assert "".join(whole["prompt_tokens"]).endswith("<think>")
    assert [s["part"] for s in plain["segments"] if s["where"] == "response"] == [None]
    assert [s["part"] for s in whole["segments"] if s["where"] == "response"] == ["thinking", "answer"]
