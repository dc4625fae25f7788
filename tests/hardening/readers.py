"""Every reader of the project behind one form: bytes go in, and a right result, UserError or a crash comes out."""

import asyncio
import json
import logging
import os
import re
from pathlib import Path

import torch
from extraction.cli import run_command
from extraction.generate.responses import begin, finished_responses
from extraction.judging.scoring import judge_trait
from extraction.judging.settings import JudgeSettings
from extraction.monitoring.report import write_report
from safetensors.torch import save

from utils.config import get_credential, load_credentials
from utils.definition import read_definition
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.activation_files import activations_path, read_activations, write_activations_info
from utils.formats.exchange.bundle import read_bundle
from utils.formats.exchange.gguf_vectors import read_control_vector
from utils.formats.exchange.steering_vectors import read_steering_vector
from utils.formats.files import sha256_of_texts
from utils.formats.response_files import read_responses, read_responses_metadata, responses_fingerprint, write_responses
from utils.formats.results import ResultsFile, read_results
from utils.formats.transcripts import prompts_of, read_prompts, read_texts
from utils.formats.vector_files import read_summary, read_vector, sidecar_path, write_vector
from utils.formats.vector_metadata import VectorMetadata
from utils.hub import parse_hub_address
from utils.judges.reading import Judgement, fill_template, read_number, read_yes_no
from utils.records import ActivationsInfo, InstructionPair, Response, TraitDefinition
from utils.vectors import load_vector

HIDDEN = 3
METADATA = {
    "trait": "calm", "method": "probe", "layer": 2, "model": "tiny/model", "baseline": 0.5, "hidden_size": HIDDEN,
    "neutral": {"fpr_1": 2.0, "fpr_5": 1.0}, "best": True, "threshold": 50.0,
}  # fmt: skip
DEFINITION = {
    "instruction": [{"pos": "Be calm.", "neg": "Be nervous."}],
    "questions": ["How are you?", "What now?"],
    "eval_prompt": "Q {question} A {answer}",
}
RESPONSES = [Response("How are you?", "Be calm.", "prompt", f"answer {i}", trait_score=80.0) for i in range(2)]


def _put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _trait(folder):
    return Experiment(folder, "lab").trait("calm")


def _definition(folder, data):
    _put(_trait(folder).definition_path, data)
    return read_definition(_trait(folder))


def _responses(folder, data):
    _put(_trait(folder).responses_path("pos"), data)
    found = read_responses(_trait(folder), "pos")
    assert all(r.trait_score is None or 0 <= r.trait_score <= 100 for r in found)
    return found


def _responses_metadata(folder, data):
    _put(_trait(folder).responses_metadata_path, data)
    _put(_trait(folder).responses_path("pos"), b"question,instruction,prompt,response,trait_score\n")
    found = read_responses_metadata(_trait(folder))
    begin(_trait(folder), {"model": "m"}, overwrite=False)
    return found


def _generated_journal(folder, data):
    _put(_trait(folder).root / "responses" / "generated.0.partial.jsonl", data)
    return finished_responses(_trait(folder))


def _journal_header(folder, data):
    _put(_trait(folder).generation_journal.settings_path, data)
    return begin(_trait(folder), {"model": "m"}, overwrite=False)


class _FixedJudge:
    name, paid, tokens = "fixed", False, 0

    def judgements(self, prompts):
        yield from ((i, Judgement(50.0, "fixed")) for i in range(len(prompts)))


def _scores_journal(folder, data):
    _definition(folder, json.dumps(DEFINITION).encode())
    for side in ("pos", "neg"):
        write_responses(_trait(folder), side, [Response("q", "i", "p", "r")])
    prompt_hash = sha256_of_texts([DEFINITION["eval_prompt"]])
    _trait(folder).scores_journal.begin({"judge": "fixed", "eval_prompt_sha256": prompt_hash})
    _put(_trait(folder).root / "responses" / "scores.0.partial.jsonl", data)
    report_ = judge_trait(_trait(folder), read_definition(_trait(folder)), _FixedJudge(), JudgeSettings())
    scores = [r.trait_score for side in ("pos", "neg") for r in read_responses(_trait(folder), side)]
    assert all(s is not None and 0 <= s <= 100 for s in scores)
    return report_


def _results(folder, data):
    return read_results(_put(folder / "results.json", data))


def _results_settings(folder, data):
    _put(folder / "results.json", b"[]")
    _put(folder / "results.json.settings", data)
    return ResultsFile(folder / "results.json", {"seed": 1}, 1).missing


def _results_journal(folder, data):
    _put(folder / "results.json.settings.partial.jsonl", b'{"seed": 1}')
    _put(folder / "results.json.0.partial.jsonl", data)
    file = ResultsFile(folder / "results.json", {"seed": 1}, 2)
    missing = file.missing
    file.write()
    return missing, len(missing) == 2 or read_results(folder / "results.json")


def _report(folder, data):
    page = write_report([_put(folder / "results.json", data)], folder / "out.html").read_text(encoding="utf-8")
    inside = page.partition('<script id="embedded-data" type="application/json">')[2].partition("</script>")[0]
    assert "<" not in inside
    json.loads(inside)
    return inside


def _texts(suffix):
    def read(folder, data):
        found = read_texts(_put(folder / f"texts{suffix}", data))
        assert all(isinstance(t.response, str) and isinstance(t.prompt, str) and t.turn >= 1 for t in found)
        return [t.prompt.encode() for t in found]

    return read


def _prompts(suffix):
    def read(folder, data):
        found = read_prompts(_put(folder / f"prompts{suffix}", data))
        assert found
        assert all(t.response is None and t.prompt.encode() is not None for t in found)
        return found

    return read


def _prompt_flag(folder, data):
    return [t.prompt.encode() for t in prompts_of(data.decode("utf-8", "replace"))]


def _vector(folder, data):
    write_vector(_trait(folder), torch.ones(HIDDEN), VectorMetadata.from_json(METADATA))
    _put(_trait(folder).vectors_dir / "probe_layer2.pt", data)
    return _checked(read_vector(_trait(folder), "probe", 2))


def _sidecar(folder, data):
    path = write_vector(_trait(folder), torch.ones(HIDDEN), VectorMetadata.from_json(METADATA))
    _put(sidecar_path(path), data)
    return _checked(read_vector(_trait(folder), "probe", 2))


def _summary(folder, data):
    write_vector(_trait(folder), torch.ones(HIDDEN), VectorMetadata.from_json(METADATA))
    _put(_trait(folder).vectors_dir / "summary.csv", data)
    read_summary(_trait(folder))
    return _checked(load_vector("lab", "calm", experiments_dir=folder))


def _checked(vector):
    assert vector.vector.dtype == torch.float32
    assert vector.vector.shape == (HIDDEN,)
    assert torch.isfinite(vector.vector).all()
    assert vector.baseline is None or isinstance(vector.baseline, int | float)
    assert all(isinstance(v, int | float) for v in vector.thresholds.values())
    json.dumps([vector.metadata.to_json(), vector.baseline, vector.thresholds], allow_nan=False)
    return vector


def _control_vector(folder, data):
    found = read_control_vector(_put(folder / "vector.gguf", data))
    assert all(torch.isfinite(v).all() and v.ndim == 1 for v in found.directions.values())
    return found


def _steering_vector(folder, data):
    found = read_steering_vector(_put(folder / "vector.pt", data), 4)
    assert all(torch.isfinite(v).all() and v.dtype == torch.float32 for v in found.values())
    return found


def _bundle(folder, data):
    bundle = read_bundle(_put(folder / "calm.safetensors", data))
    for vector in bundle.vectors:
        json.dumps(vector.metadata.to_json(), allow_nan=False)
        assert re.fullmatch(r"\w+[0-9]+", vector.method + str(vector.layer)), "becomes a file's name"
    return bundle.choose()


INFO = {
    "model": "tiny/model", "revision": None, "model_dtype": "float32", "n_layers": 3, "hidden_size": HIDDEN,
    "layers": [0, 2], "hook_points": {"0": {}, "2": {}}, "layer_convention": "x", "context": "question",
    "pooling": "mean", "template_hash": "x", "dtype": "float16", "batch_size": 1, "batch_tokens": 1,
    "responses_from": "lab", "rows": {"pos": [0, 1], "neg": [0], "neutral": []},
    "texts_sha256": {
        "pos": responses_fingerprint(RESPONSES), "neg": responses_fingerprint(RESPONSES[:1]),
        "neutral": responses_fingerprint([]),
    },
    "n_response_tokens": {"pos": [3, 3], "neg": [3], "neutral": []}, "n_neutral_tokens": 0, "versions": {},
}  # fmt: skip


def _with_responses(folder):
    trait = _trait(folder)
    for side in ("pos", "neg"):
        write_responses(trait, side, RESPONSES)
    return trait


def _activations(folder, data):
    trait = _with_responses(folder)
    write_activations_info(trait.activations_dir, ActivationsInfo(**INFO))
    _put(activations_path(trait, "pos"), data)
    found = read_activations(trait).layer("pos", 2)
    assert found.shape == (2, HIDDEN)
    assert torch.isfinite(found).all()
    return found


def _activations_info(folder, data):
    trait = _with_responses(folder)
    _put(trait.activations_dir / "metadata.json", data)
    for side in ("pos", "neg"):
        rows = torch.zeros(2 if side == "pos" else 1, 2, HIDDEN)
        _put(activations_path(trait, side), save({"activations": rows.half()}))
    file = read_activations(trait)
    return file.layer("pos", 2), file.neutral_tokens(2)


def _judge_words(folder, data):
    text = data.decode("utf-8", "replace")
    found = [read_number(text, "0_100"), read_number(text, "0_10", finished=False), read_yes_no(text)]
    for scale, high in (("0_100", 100), ("0_10", 9)):
        for finished in (True, False):
            score = read_number(text, scale, finished=finished)
            assert score is None or 0 <= score <= high
    assert read_yes_no(text) in (None, 0.0, 1.0)
    assert fill_template("Q {question} A {answer}", text, text) == f"Q {text} A {text}"
    return str(found)


def _judge_reply(folder, data):
    """A server that answers 200 with ``data``, read by the judge."""
    from utils.judge import OpenAiJudge

    return _through_server(
        data,
        lambda url: OpenAiJudge("m", "{question}{answer}", base_url=url, api_key="k", max_retries=0).grade("p"),
    )


def _anthropic_reply(folder, data):
    from utils.judge import AnthropicJudge

    return _through_server(
        data,
        lambda url: AnthropicJudge("m", "{question}{answer}", base_url=url, api_key="k", max_retries=0).grade("p"),
    )


def _generation_reply(folder, data):
    """A server that answers 200 with ``data``, asked for a response."""
    from extraction.distributed import Process
    from extraction.generate.served_model import ServedModel
    from extraction.generate.settings import GenerationSettings

    from utils.models.generation import Sampling

    from .loopback import serving

    definition = TraitDefinition("calm", (InstructionPair("i", "i"),), ("q",), "{question}{answer}")
    settings = GenerationSettings(Sampling(4, 0.0, 1.0))
    with serving(data) as url:
        return list(ServedModel(url, "m", 1).generate(definition, settings, Process(), ()))


def _through_server(data, call):
    from .loopback import serving

    with serving(data) as url:
        return asyncio.run(call(url))


def command(name: str, count: int = 1, share: float = 0.5, layers: list[int] | None = None, deep: bool = False) -> None:
    """A command with every kind of flag.

    Args:
        name: text.
        count: integer.
        share: number.
        layers: integers.
        deep: switch.
    """
    json.dumps([name, count, share, layers, deep], allow_nan=False).encode()
    Experiment(Path("nowhere"), name)


def _command_line(folder, data):
    """Arguments, one per line, through the command line; fire writes help to a pager or to the screen."""
    try:
        run_command(command, os.fsdecode(data).split("\n"))
    except SystemExit as end:
        if end.code:
            raise UserError("ended with status 1") if end.code == 1 else AssertionError(end.code) from end


def _names(folder, data):
    name = os.fsdecode(data)
    root = Experiment(folder, "lab").trait(name).root
    assert root.parent == folder / "lab"
    assert root.resolve().is_relative_to(folder.resolve())
    root.mkdir(parents=True)
    return root


def _environment(folder, data):
    before = dict(os.environ)
    try:
        path = _put(folder / ".env", data)
        path.chmod(0o600)
        load_credentials(path)
        return get_credential("OPENAI_API_KEY")
    finally:
        os.environ.clear()
        os.environ.update(before)


def _hub_address(folder, data):
    return parse_hub_address(os.fsdecode(data))


READERS = {
    "definition": _definition,
    "responses": _responses,
    "responses_metadata": _responses_metadata,
    "generated_journal": _generated_journal,
    "journal_header": _journal_header,
    "scores_journal": _scores_journal,
    "results": _results,
    "results_settings": _results_settings,
    "results_journal": _results_journal,
    "report": _report,
    "texts_csv": _texts(".csv"),
    "texts_json": _texts(".json"),
    "texts_jsonl": _texts(".jsonl"),
    "prompts_txt": _prompts(".txt"),
    "prompts_csv": _prompts(".csv"),
    "prompts_json": _prompts(".json"),
    "prompts_jsonl": _prompts(".jsonl"),
    "prompt_flag": _prompt_flag,
    "vector": _vector,
    "sidecar": _sidecar,
    "summary": _summary,
    "control_vector": _control_vector,
    "steering_vector": _steering_vector,
    "bundle": _bundle,
    "activations": _activations,
    "activations_info": _activations_info,
    "judge_words": _judge_words,
    "judge_reply": _judge_reply,
    "anthropic_reply": _anthropic_reply,
    "generation_reply": _generation_reply,
    "command_line": _command_line,
    "names": _names,
    "environment": _environment,
    "hub_address": _hub_address,
}


# What to tell of readers that hardly ever refuse: they leave out what is wrong.
TOLD = {
    "judge_reply": lambda verdict: f"{verdict.score} {verdict.method}{verdict.reason}",
    "anthropic_reply": lambda verdict: f"{verdict.score} {verdict.method}{verdict.reason}",
    "judge_words": lambda read: read,
    "generated_journal": lambda rows: f"{len(rows)} rows",
    "results_journal": lambda read: f"missing {read[0]}",
    "environment": lambda key: "a key" if key else "no key",
    "prompt_flag": lambda prompts: f"{len(prompts)} prompts",
}


def outcome(reader, folder, data):
    """ "read" or the message of a UserError; everything else, also a warning of a crash, goes through."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        found = READERS[reader](folder, data)
    except UserError as error:
        message = str(error)
        message.encode()
        assert message.strip()
        return message
    finally:
        logging.disable(level)
    return f"read: {TOLD[reader](found)}" if reader in TOLD else "read"
