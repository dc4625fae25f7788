"""Many rows through all three stages on a tiny random model: time and peak memory of each command.

    python benchmarks/load.py [--rows 20000]

The model says nothing of interest; the rows, the files and the fits are real. Responses are not judged, and stage 3
takes them all.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from extraction.cli import run_command

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 5


def benchmark(rows: int = 20_000, new_tokens: int = 8) -> None:
    """Run the three commands one after the other and print what each took.

    Args:
        rows: positive and negative responses together.
        new_tokens: length of a response.
    """
    from tests.conftest import small_model
    from tests.tiny_tokenizer import tiny_tokenizer

    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        tiny = small_model("llama")
        tiny.generation_config.eos_token_id = 2
        tiny.save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
        definition = {
            "instruction": [{"pos": f"Agree, way {i}.", "neg": f"Disagree, way {i}."} for i in range(PAIRS)],
            "questions": [f"What is {i} plus {i}?" for i in range(rows // (2 * PAIRS))],
            "eval_prompt": "Question: {question} Answer: {answer} Score from 0 to 100.",
        }
        path = Path(directory) / "load" / "trait" / "trait_definition.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(definition), encoding="utf-8")
        shared = ["--experiment", "load", "--trait", "trait", "--experiments_dir", directory]
        on_cpu = ["--device", "cpu"]
        tokens = str(new_tokens)
        timed("1_generate_responses.py", *shared, *on_cpu, "--gen_model", str(model), "--judge_model", "none",
              "--max_new_tokens", tokens)  # fmt: skip
        timed("2_extract_activations.py", *shared, *on_cpu)
        timed("3_extract_vectors.py", *shared)
        size = sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file())
        print(f"{rows} rows, {size / 2**20:.0f} MiB of files")


def timed(script: str, *flags: str) -> None:
    """Run a stage and print its seconds and its peak memory, or how it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, ROOT / "extraction" / script, *flags], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the largest child so far
    at_most = "" if peak > before else "at most "
    last = (result.stderr or result.stdout).strip().splitlines()[-1:]
    print(f"{script}: status {result.returncode}, {seconds:.0f} s, peak {at_most}{peak / 1024:.0f} MiB; {last}")


if __name__ == "__main__":
    run_command(benchmark)
