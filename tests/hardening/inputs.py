"""What readers are given: whole inputs of every kind, and ways to spoil them."""

import copy
import functools
import io
import json
import tempfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from utils.formats.bundle import write_bundle
from utils.formats.gguf_vectors import write_control_vector
from utils.formats.vector_metadata import VectorMetadata
from utils.records import TraitVector

from .readers import DEFINITION, HIDDEN, INFO, METADATA, READERS

RESULT = {
    "prompt": "Hi", "response": "Yes, you.", "tokens": ["Yes", ",", " you."], "trait_scores": {"calm": [1.0, 2.5, -3.0]},
    "baselines": {"calm": 0.5}, "thresholds": {"calm": {"fpr_5": 1.0}},
}  # fmt: skip
CHAT = {
    "messages": [
        {"role": "system", "content": "Be calm."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
    ]
}  # fmt: skip
ROW = {"prompt": "Hi", "response": "Yes?"}
COMPLETION = {
    "id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "choices": [{
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "80"},
        "logprobs": {"content": [{
            "token": "80", "logprob": -0.1, "bytes": [56, 48],
            "top_logprobs": [{"token": "80", "logprob": -0.1, "bytes": None}, {"token": "90", "logprob": -3.0, "bytes": None}],
        }]},
    }],
}  # fmt: skip
MESSAGE = {
    "id": "x", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "80"}],
    "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
GENERATION = {"generation": {"model": "m"}, "judge": {"name": "j", "earlier": []}, "threshold": 50.0}
ENTRY = {
    "polarity": "pos", "row": 0,
    "response": {"question": "q", "instruction": "", "prompt": "p", "response": "r", "finish_reason": "stop"},
}  # fmt: skip
SCORE = {"judge": "fixed", "polarity": "pos", "row": 0, "key": "k", "score": 80.0, "method": "number"}
TABLE = 'question,instruction,prompt,response,trait_score\nq,i,p,r,80\n"a\nb",i,p,"say ""so""",\n'


@functools.cache
def binary(kind):
    """A whole file of a binary form."""
    vector = TraitVector(torch.tensor([1.0, -2.0, 3.0]), VectorMetadata.from_json(METADATA))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        if kind == "bundle":
            write_bundle(path, [vector])
        elif kind == "control_vector":
            write_control_vector(path, [vector])
        return path.read_bytes()


def saved(value, **options):
    """``torch.save``'s bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def dumped(value):
    """JSON with all that JSON readers meet: NaN, lone surrogates."""
    return json.dumps(value).encode()


def lines(*values):
    """JSON lines."""
    return b"\n".join(map(dumped, values)) + b"\n"


JSON_SEEDS = {
    "definition": DEFINITION, "responses_metadata": GENERATION, "results": [RESULT], "results_settings": {"seed": 1},
    "report": [RESULT], "texts_json": [CHAT, ROW], "prompts_json": {"prompts": ["Hi", {"messages": CHAT["messages"][:2]}]},
    "sidecar": METADATA, "activations_info": INFO, "judge_reply": COMPLETION, "anthropic_reply": MESSAGE,
    "generation_reply": COMPLETION,
}  # fmt: skip
JSONL_SEEDS = {
    "generated_journal": [ENTRY], "journal_header": [{"model": "m"}], "scores_journal": [SCORE],
    "results_journal": [{"index": 0, "result": RESULT}], "texts_jsonl": [CHAT, ROW], "prompts_jsonl": ["Hi", ROW],
}  # fmt: skip
TEXT_SEEDS = {
    "responses": TABLE, "texts_csv": "prompt,response\nHi,Yes?\n", "prompts_csv": "id,prompt\n1,Hi\n",
    "prompts_txt": "Hi\n\nWhat now?\n", "prompt_flag": '["Hi", "What now?"]', "summary": "method,layer,best\nprobe,2,True\n",
    "judge_words": '<think>Hm 3.</think>The score is: **87/100** {"score": 87}', "names": "calm",
    "command_line": "--name=calm\n--count=3\n--share\n0.5\n--layers=1,2\n--deep",
    "environment": "OPENAI_API_KEY=sk-abc\nexport HF_TOKEN='hf_x'\n", "hub_address": "hf://org/repo@v1/calm",
}  # fmt: skip
BINARY_SEEDS = {
    "vector": lambda: saved(torch.ones(HIDDEN)),
    "steering_vector": lambda: saved({"layer_activations": {1: torch.ones(HIDDEN)}, "layer_type": "decoder_block"}),
    "control_vector": lambda: binary("control_vector"),
    "bundle": lambda: binary("bundle"),
    "activations": lambda: save({"activations": torch.zeros(2, 2, HIDDEN).half()}),
}
assert {*JSON_SEEDS, *JSONL_SEEDS, *TEXT_SEEDS, *BINARY_SEEDS} == set(READERS)


def seed(reader):
    """A whole input that the reader reads."""
    if reader in JSON_SEEDS:
        return dumped(JSON_SEEDS[reader])
    if reader in JSONL_SEEDS:
        return lines(*JSONL_SEEDS[reader])
    return TEXT_SEEDS[reader].encode() if reader in TEXT_SEEDS else BINARY_SEEDS[reader]()


ODD_TEXTS = st.sampled_from([
    "", " ", "\x00", "\ufeff", "\u2028", "\r", "NA", "nan", "NaN", "-inf", "1e999", "None", "true", "..", "../../x",
    "/etc/passwd", "C:\\x", "CON", "nul.txt", "a/b", "\ud800", "\udcff", "é" * 300, "😀", "{question}", "{answer}", "</script>",
    "<img src=x onerror=alert(1)>", "=1+1", "%s%n", "$(id)", "`id`", "${jndi:x}", "9" * 5000, "0x10", "1_000", "１２", "-1", "-0",
    "decoder_block", "hf://a/b", "pos", "neg", "neutral", "user", "assistant", "system", "tool", "fixed", "calm",
])  # fmt: skip
ODD_NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 3, 101, 2**31, 2**53, 2**63, -(2**63), 10**30, 0.0, -0.0, 1e308, -1e308, 5e-324]
)
ODD_NUMBERS |= st.floats()
TEXTS = ODD_TEXTS | st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places_of(value, place=()):
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_of(inner, (*place, key))


def spoiled(value, place, by, how):
    """``value`` with the part at ``place`` replaced, removed or doubled."""
    if not place:
        return by
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[place[-1]]
    elif how == "double" and isinstance(inner, list):
        inner.append(inner[place[-1]])
    else:
        inner[place[-1]] = by
    return value


@st.composite
def spoiled_json(draw, value):
    """JSON values that differ from a good one at a place or two."""
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(places_of(value))))
        value = spoiled(value, place, draw(VALUES), draw(st.sampled_from(["replace", "replace", "remove", "double"])))
    return value


@st.composite
def spoiled_bytes(draw, data):
    """Bytes that were cut, swapped, repeated or overwritten."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["cut", "insert", "overwrite", "zero", "max", "repeat", "drop"]))
        some = draw(st.binary(max_size=8) | TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")))
        width = draw(st.integers(1, 8))
        if how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = some
        elif how == "overwrite":
            data[at : at + len(some)] = some
        elif how == "repeat":
            data[at:at] = data[at : at + 50]
        elif how == "drop":
            del data[at : at + width]
        else:
            data[at : at + width] = (b"\x00" if how == "zero" else b"\xff") * width
    return bytes(data)


TENSORS = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    st.sampled_from([(), (0,), (1,), (HIDDEN,), (HIDDEN, 1), (1, HIDDEN), (2, 2, HIDDEN), (4,)]),
    st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
    ),
    st.sampled_from([0.0, 1.0, -1e38, 65504.0, float("nan"), float("inf")]),
)
ODD_TENSORS = st.sampled_from([
    torch.ones(HIDDEN, requires_grad=True), torch.nn.Parameter(torch.ones(HIDDEN)), torch.ones(2 * HIDDEN)[::2],
    torch.ones(HIDDEN).to_sparse(), torch.empty(HIDDEN, device="meta"), torch.ones(1).expand(HIDDEN),
    torch.quantize_per_tensor(torch.ones(HIDDEN), 0.1, 0, torch.qint8), torch.ones(HIDDEN).to(torch.float8_e4m3fn),
])  # fmt: skip
SAVED = st.recursive(
    TENSORS | ODD_TENSORS | st.none() | st.integers() | st.text(max_size=3).filter(lambda t: t.isprintable()),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["layer_activations", "layer_type", "x", 0, 1, -1, 9, True]), inner, max_size=3
        )
    ),
    max_leaves=4,
)


def _bundle_of(header, tensor):
    try:
        return save(
            {"probe_layer2": tensor.contiguous()}, {k: v.encode("utf-8", "replace").decode() for k, v in header.items()}
        )
    except (ValueError, RuntimeError, NotImplementedError, KeyError, TypeError):
        return b""


def _spoiled_bundles():
    def header(shared):
        return {
            "format": "traitlens vectors 1", "shared": json.dumps(shared),
            "vectors": '{"probe_layer2": {}}', "ranking": '["probe_layer2"]',
        }  # fmt: skip

    by_metadata = spoiled_json(METADATA).map(lambda m: _bundle_of(header(m), torch.ones(HIDDEN)))
    by_header = spoiled_json(header(METADATA)).map(
        lambda h: _bundle_of({k: str(v) for k, v in h.items()}, torch.ones(HIDDEN)) if isinstance(h, dict) else b""
    )
    by_tensor = TENSORS.map(lambda t: _bundle_of(header(METADATA), t))
    return by_metadata | by_header | by_tensor


def inputs(reader):
    """Spoiled inputs for a reader; now and then a good one, or anything at all."""
    kinds = [spoiled_bytes(seed(reader)), st.binary(max_size=60)]
    if reader in JSON_SEEDS:
        kinds += [spoiled_json(JSON_SEEDS[reader]).map(dumped)] * 3 + [VALUES.map(dumped)]
    elif reader in JSONL_SEEDS:
        kinds += [spoiled_json(JSONL_SEEDS[reader]).map(lambda v: lines(*v) if isinstance(v, list) else dumped(v))] * 3
    elif reader in TEXT_SEEDS:
        text = TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass"))
        kinds += [text, st.tuples(st.just(seed(reader)), text).map(b"".join)]
        if reader in ("responses", "texts_csv", "prompts_csv", "summary"):
            head = TEXT_SEEDS[reader].partition("\n")[0].encode()
            row = st.lists(text.map(lambda t: b'"' + t.replace(b'"', b'""') + b'"') | text, max_size=6).map(b",".join)
            kinds += [st.lists(row, max_size=4).map(lambda rows: b"\n".join([head, *rows]))] * 2
        if reader == "command_line":
            flag = st.sampled_from(
                ["--name", "--count", "--share", "--layers", "--deep", "--nodeep", "-n", "--na", "--"]
            )
            pair = st.tuples(flag, st.sampled_from(["=", "\n", ""]), TEXTS).map("".join)
            kinds += [
                st.lists(pair, max_size=4).map(
                    lambda p: "\n".join(["--name=calm", *p]).encode("utf-8", "surrogatepass")
                )
            ] * 3
    elif reader in ("vector", "steering_vector"):
        kinds += [SAVED.map(saved), SAVED.map(functools.partial(saved, _use_new_zipfile_serialization=False))]
    elif reader == "bundle":
        kinds += [_spoiled_bundles()] * 3
    return st.one_of(kinds)
