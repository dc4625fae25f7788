"""Stages 1 and 2 as commands, on a tiny model: what they write, that they resume exactly, and what they refuse."""

import dataclasses
import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.hardening.faulty_lab import files
from tests.hardening.nursery import run_command
from tests.stages.conftest import ROOT, script
from utils.formats.activation_files import read_activations
from utils.formats.response_files import read_responses_metadata, write_responses
from utils.records import Response

STAGE_1, STAGE_2 = "1_generate_responses.py", "2_extract_activations.py"


@pytest.fixture
def generate(lab, tiny_model_folder):
    def run(*arguments, **options):
        return script(
            STAGE_1, "--gen_model", tiny_model_folder, "--judge_model", "none", "--max_new_tokens", 12, "--device", "cpu",
            "--batch_size", 4, *arguments, lab=lab, **options,
        )  # fmt: skip

    return run


def test_stage_1_writes_every_question_under_every_instruction_and_the_neutral_ones(lab, generate):
    generate("--trait", "alpha")
    pos = pd.read_csv(lab.trait("alpha").responses_path("pos"), keep_default_na=False)
    assert len(pos) == 8
    assert list(pos.columns[:5]) == ["question", "instruction", "prompt", "response", "trait_score"]
    assert pos["instruction"].tolist() == ["Refuse."] * 4 + ["Say no to all."] * 4
    assert all(i in p and q in p for i, q, p in zip(pos["instruction"], pos["question"], pos["prompt"], strict=True))
    neutral = pd.read_csv(lab.trait("alpha").responses_path("neutral"), keep_default_na=False)
    assert neutral["instruction"].tolist() == [""] * 4
    assert set(pos["trait_score"]) == {""}  # judged by none: unknown, not zero
    metadata = read_responses_metadata(lab.trait("alpha"))
    assert metadata["generation"]["sampling"] == {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0}
    assert not lab.trait("beta").responses_path("pos").exists()
    assert list(lab.root.rglob("*.partial*")) == []


def test_all_traits_are_done_where_none_is_named_and_a_second_run_has_nothing_to_do(lab, generate):
    generate("--n_questions", 2, "--n_instructions", 1)
    before = files(lab.root)
    assert {"alpha/responses/pos.csv", "beta/responses/neg.csv"} <= set(before)
    assert "there already" in generate("--n_questions", 2, "--n_instructions", 1).stderr
    assert files(lab.root) == before


def test_other_settings_do_not_mix_into_responses_that_are_there(lab, generate):
    generate("--trait", "alpha")
    before = files(lab.root)
    refused = generate("--trait", "alpha", "--seed", 7, check=False)
    assert refused.returncode == 1
    assert "seed 0, now 7" in refused.stderr
    assert "loaded" not in refused.stderr, "before a model is loaded, which can take minutes"
    assert files(lab.root) == before
    both = generate("--seed", 7, check=False)
    assert both.returncode == 1
    assert "1 of 2 traits failed: alpha" in both.stderr
    after = files(lab.root)
    assert {name: after[name] for name in before} == before
    assert "beta/responses/pos.csv" in after
    generate("--trait", "alpha", "--seed", 7, "--overwrite")
    assert files(lab.root) != before


def test_two_processes_write_what_one_writes(lab, generate, tiny_model_folder):
    generate("--trait", "alpha")
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", lab=lab)
    single_texts = files(lab.trait("alpha").root / "responses")
    single = {p.name: load_file(p) for p in lab.trait("alpha").activations_dir.glob("*.safetensors")}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--rdzv-backend", "c10d",
                "--rdzv-endpoint", "localhost:0"]  # fmt: skip
    for path in (lab.trait("alpha").root / "responses").glob("*"):
        path.unlink()
    generate("--trait", "alpha", launcher=launcher)
    assert files(lab.trait("alpha").root / "responses") == single_texts
    accelerate = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    for rows, by in ((2, launcher), (3, accelerate)):  # other batches are another capture, which is made anew
        script(STAGE_2, "--trait", "alpha", "--device", "cpu", "--batch_size", rows, lab=lab, launcher=by)
        assert read_activations(lab.trait("alpha")).info.batch_size == rows
        for name, tensors in single.items():
            both = load_file(lab.trait("alpha").activations_dir / name)
            torch.testing.assert_close(both["activations"], tensors["activations"], atol=1e-3, rtol=1e-3)


def test_a_model_spread_over_all_gpus_takes_one_process(lab, generate):
    generate("--trait", "alpha")
    flags = ["--experiment", lab.name, "--experiments_dir", lab.experiments_dir, "--device", "auto"]
    as_launched = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    refused = run_command(ROOT / "extraction" / STAGE_2, *flags, folder=lab.experiments_dir, **as_launched)
    assert refused.returncode == 1
    assert "--device auto spreads one model over all GPUs and takes one process" in refused.stderr


def test_activations_are_the_mean_over_the_responses_own_tokens_under_the_question_alone(
    lab, generate, tiny_model_folder
):
    from traitlens import mean_activations
    from utils.models import load_model
    from utils.prompts import encode_prompt, encode_response, format_prompt

    generate("--trait", "alpha")
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", lab=lab)
    stored = read_activations(lab.trait("alpha"))
    loaded = load_model(str(tiny_model_folder), device="cpu")
    for context in ("question", "full"):
        if context == "full":
            script(STAGE_2, "--trait", "alpha", "--device", "cpu", "--context", "full", lab=lab)
            stored = read_activations(lab.trait("alpha"))
        response = stored.responses["neg"][5]
        instruction = response.instruction if context == "full" else ""
        prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, response.question, instruction))
        ids = torch.tensor([prompt + encode_response(loaded.tokenizer, response.response)])
        mask = torch.ones_like(ids)
        own = mask.bool().clone()
        own[:, : len(prompt)] = False
        expected = mean_activations(loaded.model, ids, mask, own, range(5))[0]
        for layer in range(5):
            torch.testing.assert_close(stored.layer("neg", layer)[5], expected[layer], atol=2e-3, rtol=2e-3)


def test_neutral_tokens_are_states_at_single_tokens_spread_over_all_neutral_responses(lab, generate):
    generate("--trait", "alpha")
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", "--neutral_tokens", 10_000, lab=lab)
    everything = read_activations(lab.trait("alpha"))
    counts = everything.info.n_response_tokens["neutral"]
    assert everything.info.n_neutral_tokens == sum(counts)
    tokens, means = everything.neutral_tokens(3), everything.layer("neutral", 3)
    torch.testing.assert_close(tokens[: counts[0]].mean(dim=0), means[0], atol=2e-3, rtol=2e-3)
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", "--neutral_tokens", 5, lab=lab)
    assert read_activations(lab.trait("alpha")).neutral_tokens(3).shape == (5, 32)


def test_windows_are_kept_as_how_far_they_lie_from_the_mean_of_their_response(lab, tiny_model_folder):
    from extraction.capture.examples import WINDOW

    script(
        STAGE_1, "--trait", "alpha", "--gen_model", tiny_model_folder, "--judge_model", "none", "--device", "cpu",
        "--max_new_tokens", 40, lab=lab,
    )  # fmt: skip
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", "--neutral_tokens", 10_000, lab=lab)
    stored = read_activations(lab.trait("alpha"))
    lengths = [n for side in ("pos", "neg", "neutral") for n in stored.info.n_response_tokens[side]]
    kept = [0 if n < 2 * WINDOW else min(3, n // WINDOW) for n in lengths]
    assert stored.info.n_windows == sum(kept) > 0
    first = next(i for i, n in enumerate(stored.info.n_response_tokens["neutral"]) if n >= 2 * WINDOW)
    start = sum(stored.info.n_response_tokens["neutral"][:first])
    window = stored.neutral_tokens(3)[start : start + WINDOW].mean(dim=0) - stored.layer("neutral", 3)[first]
    before = len(lengths) - len(stored.info.n_response_tokens["neutral"]) + first
    torch.testing.assert_close(stored.within(3)[sum(kept[:before])], window, atol=3e-3, rtol=3e-3)


def test_everyday_text_is_captured_once_for_all_traits_and_is_no_trait(lab, generate, tiny_model_folder):
    everyday = lab.everyday
    everyday.responses_dir.mkdir(parents=True)
    rows = [
        Response(f"Question {i}?", "", f"Question {i}?", "A plain answer of some words " * (1 + i % 3))
        for i in range(9)
    ]
    write_responses(everyday, "neutral", rows)
    generate()
    script(STAGE_2, "--device", "cpu", lab=lab)
    stored = read_activations(everyday)
    assert stored.layer("neutral", 2).shape == (9, 32)
    assert stored.info.n_neutral_tokens == 0
    assert stored.info.rows["pos"] == []
    made = (everyday.activations_dir / "metadata.json").stat().st_mtime_ns
    script(STAGE_2, "--trait", "beta", "--device", "cpu", lab=lab)
    assert (everyday.activations_dir / "metadata.json").stat().st_mtime_ns == made
    assert [folder.trait for folder in lab.traits_with("activations/metadata.json")] == ["alpha", "beta"]
    refused = script(STAGE_2, "--trait", "everyday", "--device", "cpu", lab=lab, check=False)
    assert (
        refused.stderr
        == "error: 'everyday' cannot be the name of a trait: the folder holds text that all traits share\n"
    )


def test_without_everyday_text_stage_2_says_what_verdicts_will_lack(lab, generate):
    generate("--trait", "alpha")
    said = script(STAGE_2, "--trait", "alpha", "--device", "cpu", lab=lab).stderr
    assert "no everyday text in experiments/starter/everyday" in said


def test_responses_of_another_experiment_are_read_into_this_one(lab, generate, tiny_model_folder, tmp_path):
    generate("--trait", "alpha")
    result = run_command(
        ROOT / "extraction" / STAGE_2, "--experiment", "other", "--responses_from", "exp", "--model", tiny_model_folder,
        "--layers", "0,4", "--device", "cpu", "--experiments_dir", lab.experiments_dir, folder=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder = type(lab)(lab.experiments_dir, "other").trait("alpha")
    stored = read_activations(folder)
    assert stored.info.layers == [0, 4]
    assert stored.info.responses_from == "exp"
    assert stored.layer("pos", 4).shape == (8, 32)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--trait", "gamma"],
            "trait_definition.json not found. Begin one with: mkdir -p experiments/exp/gamma && cp ",
        ),
        (["--trait", "../alpha"], "cannot be the name of a trait"),
        (["--batch_size", "0"], "--batch_size must be at least 1"),
        (["--temperature", "-1"], "--temperature must be at least 0"),
        (["--gen_model", "no/such_model"], "cannot load the model"),
        (["--dtype", "int4"], "--dtype must be float32"),
        (["--device", "warp"], "device 'warp'"),
    ],
)
def test_stage_1_refuses_in_one_line_and_writes_nothing(arguments, said, lab, tiny_model_folder):
    before = files(lab.root)
    given = dict(zip(["--gen_model", "--judge_model"], [str(tiny_model_folder), "none"], strict=True))
    given.update(dict(zip(arguments[::2], arguments[1::2], strict=True)))
    refused = script(STAGE_1, *[x for pair in given.items() for x in pair], lab=lab, check=False)
    assert refused.returncode == 1
    assert said in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert files(lab.root) == before


def test_a_definition_without_answer_is_refused_before_anything_is_generated(lab, generate):
    path = lab.trait("beta").definition_path
    path.write_text(json.dumps({**json.loads(path.read_text()), "eval_prompt": "Score {question}."}))
    refused = generate(check=False)
    assert refused.returncode == 1
    assert "'eval_prompt' lacks {answer}" in refused.stderr
    assert not lab.trait("alpha").responses_path("pos").exists()


def test_stage_2_without_responses_names_the_command_that_makes_them(lab):
    refused = script(STAGE_2, "--trait", "alpha", lab=lab, check=False)
    assert refused.returncode == 1
    assert (
        "responses/pos.csv not found. Run: python extraction/1_generate_responses.py --experiment exp" in refused.stderr
    )


def test_changed_responses_are_not_taken_for_those_that_were_captured(lab, generate):
    from utils.errors import UserError

    generate("--trait", "alpha")
    script(STAGE_2, "--trait", "alpha", "--device", "cpu", lab=lab)
    path = lab.trait("alpha").responses_path("neg")
    path.write_text(path.read_text().replace("Why?", "Why not?"))
    with pytest.raises(UserError, match="has changed since its activations were captured"):
        read_activations(lab.trait("alpha"))


def test_a_precision_asked_for_replaces_activations_of_another_and_none_keeps_what_is_there(lab, generate):
    generate("--trait", "alpha")

    def stored(*arguments):
        said = script(STAGE_2, "--trait", "alpha", "--device", "cpu", *arguments, lab=lab).stderr
        tensor = load_file(lab.trait("alpha").activations_dir / "pos.safetensors")["activations"]
        assert str(tensor.dtype) == f"torch.{read_activations(lab.trait('alpha')).info.dtype}"
        return tensor.dtype, "are there already" in said

    assert stored() == (torch.float16, False)
    assert stored("--store_dtype", "float32") == (torch.float32, False)
    assert stored("--store_dtype", "float32") == (torch.float32, True)
    assert stored() == (torch.float32, True)


def test_an_interrupted_capture_goes_on_only_in_the_precision_asked_for(lab):
    from extraction.capture.files import begin_capture
    from extraction.distributed import Process

    from utils.records import POLARITIES, ActivationsInfo

    values = dict.fromkeys(ActivationsInfo.__dataclass_fields__, "")
    rows = {polarity: [0] for polarity in POLARITIES}
    info = ActivationsInfo(
        **{**values, "layers": [0], "hidden_size": 4, "n_neutral_tokens": 1, "n_windows": 1, "rows": rows}
    )

    def begun(asked):
        wanted = dataclasses.replace(info, dtype=asked)
        writers = begin_capture(lab.trait("alpha"), wanted, Process(), lambda: asked or "float16", overwrite=False)
        return writers["pos"].dtype

    assert [begun(asked) for asked in ("", "float32", "", "bfloat16", "")] == [
        "float16", "float32", "float32", "bfloat16", "bfloat16",
    ]  # fmt: skip
