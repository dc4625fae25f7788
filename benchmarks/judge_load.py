"""Judging through a slow and flaky server at high concurrency: is anything lost or mixed up, and does memory grow?

    python benchmarks/judge_load.py [--responses 5000] [--concurrency 1000]

The server, a process of its own, keeps every request waiting at random and answers a share of them with 429, with 500,
with a dropped connection, with half a body, or so late that the client gives up. Its score is a number in the answer
that it judges, so that a score at the wrong row shows.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib
import json
import math
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from extraction.cli import run_command

from utils.formats.response_files import read_responses, write_responses

# Shares of the requests that go wrong, in one way each.
FAULTS = {"429": 0.08, "500": 0.06, "dropped": 0.04, "cut in the middle": 0.03, "too late": 0.01}
FIRST_BYTE_AFTER = (0.05, 1.5)
TIMEOUT = 30.0


def benchmark(responses: int = 5000, concurrency: int = 1000, seed: int = 0) -> None:
    """Judge a trait's responses as stage 1 does, and print what became of them.

    Args:
        responses: how many to judge, half on each side.
        concurrency: requests at once.
        seed: of the faults and delays.
    """
    from extraction.judging.scoring import judge_trait
    from extraction.judging.settings import JudgeSettings

    from utils.judge import OpenAiJudge

    importlib.import_module("traitlens.validation.evaluation")  # what judging imports at its end would look like growth
    allow_open_files()
    with tempfile.TemporaryDirectory() as folder, serving(seed) as (url, seen), memory_samples() as samples:
        trait, definition = make_trait(Path(folder), responses)
        judge = OpenAiJudge(
            "flaky", "{question}{answer}", base_url=url, api_key="none", concurrency=concurrency, timeout=TIMEOUT
        )
        with contextlib.closing(judge):
            judge.check()
            began, processor = time.perf_counter(), time.process_time()
            report = judge_trait(trait, definition, judge, JudgeSettings())
            took, processor = time.perf_counter() - began, time.process_time() - processor
        counts, busiest = seen()
        rows = [row for side in ("pos", "neg") for row in read_responses(trait, side)]
    right = sum(row.trait_score == expected_score(row.response) for row in rows)
    unscored = sum(row.trait_score is None for row in rows)
    sys.stdout.write(
        f"{responses} responses, {concurrency} requests at once (the server saw {busiest}): {right} right scores, "
        f"{unscored} unscored {report.reasons or ''}, {responses - right - unscored} lost or wrong\n"
        f"{took:.1f} s, {processor:.1f} s of processor time; the server answered {dict(sorted(counts.items()))}\n"
        f"memory: {describe(samples)}\n"
    )


def allow_open_files():
    """As many open files as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_trait(folder, responses):
    """A trait whose responses carry their numbers, and its definition."""
    from utils.experiment import Experiment
    from utils.records import InstructionPair, Response, TraitDefinition

    trait = Experiment(folder, "load").trait("load")
    half = responses // 2
    for side, numbers in (("pos", range(half)), ("neg", range(half, responses))):
        write_responses(trait, side, [Response(f"Question {i}?", "", "", f"Answer number {i}.") for i in numbers])
    prompt = "Question: {question}\nAnswer: {answer}\nScore from 0 to 100."
    return trait, TraitDefinition("load", (InstructionPair("a", "b"),), ("q",), prompt)


def expected_score(text):
    """The score that the server gives to an answer."""
    number = re.search(r"number (\d+)", text)
    return float(int(number[1]) % 101) if number else 50.0


@contextlib.contextmanager
def memory_samples():
    """Resident memory in MB, a few times a second until the end."""
    import psutil

    process, samples, over = psutil.Process(), [], threading.Event()

    def watch():
        while not over.wait(0.2):
            samples.append(process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def describe(samples):
    """Resident memory by the tenths of the run."""
    tenths = [samples[min(len(samples) - 1, len(samples) * i // 10)] for i in range(11)]
    return f"{max(samples):.0f} MB at most; by tenths of the run: {' '.join(f'{m:.0f}' for m in tenths)}"


@contextlib.contextmanager
def serving(seed):
    """A flaky server in a process of its own: its address, and a function that ends it and tells what it saw."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"from benchmarks.judge_load import serve; serve({seed})"],
        cwd=Path(__file__).resolve().parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def seen():
        counts = json.loads(process.communicate()[0])
        return counts, counts.pop("busiest")

    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1", seen
    finally:
        process.terminate()
        process.wait()


def serve(seed):
    """Answer requests until standard input ends; then print what was answered how often."""
    allow_open_files()
    asyncio.run(_Server(seed).run())


class _Server:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.busy = 0

    async def run(self):
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps(self.counts), flush=True)
        server.close()

    async def connected(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.answered(reader, writer):
                pass
        writer.close()

    async def answered(self, reader, writer):
        """Read and answer one request; whether the connection stays."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
        prompt = json.loads(await reader.readexactly(length))["messages"][0]["content"]
        self.busy += 1
        self.counts["busiest"] = max(self.counts["busiest"], self.busy)
        try:
            await asyncio.sleep(self.random.uniform(*FIRST_BYTE_AFTER))
            fault = self.fault()
            self.counts[fault or "200"] += 1
            if fault == "too late":
                await asyncio.sleep(2 * TIMEOUT)
        finally:
            self.busy -= 1
        if fault == "dropped":
            return False
        status = int(fault) if fault in ("429", "500") else 200
        body = json.dumps({"error": {"message": "not now"}} if status != 200 else completion(expected_score(prompt)))
        kind = "content-type: application/json"
        writer.write(f"HTTP/1.1 {status} X\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        writer.write((body[: len(body) // 2] if fault == "cut in the middle" else body).encode())
        await writer.drain()
        return fault != "cut in the middle"

    def fault(self):
        point = self.random.random()
        for name, share in FAULTS.items():
            if point < share:
                return name
            point -= share
        return None


def completion(score):
    """A chat completion that states ``score`` and is rather sure of it."""
    token = f"{score:.0f}"
    likely = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in ((token, 0.9), ("I", 0.1))]
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "flaky",
        "choices": [{
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": token},
            "logprobs": {"content": [{**likely[0], "top_logprobs": likely}]},
        }],
        "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21},
    }  # fmt: skip


if __name__ == "__main__":
    run_command(benchmark)
