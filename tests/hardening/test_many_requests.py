"""Judging many responses at once through a flaky server: nothing is lost or mixed up, and the connections are closed."""

import asyncio
import time

import pytest
from extraction.generate.settings import Settings
from extraction.generate.stage import run
from extraction.judging.scoring import judge_trait
from extraction.judging.settings import JudgeSettings

from benchmarks import judge_load
from tests.hardening.faulty_lab import make_lab
from utils.errors import UserError
from utils.formats.response_files import read_responses, write_responses
from utils.judge import JudgeError, OpenAiJudge
from utils.judges.reading import Judgement

TEMPLATE = "{question}{answer}"
PROMPTS = [str(i) for i in range(16_000)]


def test_a_flaky_server_loses_and_mixes_up_nothing(tmp_path):
    trait, definition = judge_load.make_trait(tmp_path, 150)
    with judge_load.serving(0) as (url, seen):
        judge = OpenAiJudge(
            "flaky", TEMPLATE, base_url=url, api_key="none", concurrency=150, timeout=4.0, max_retries=12
        )
        report = judge_trait(trait, definition, judge, JudgeSettings())
        judge.close()
        counts, busiest = seen()
    assert busiest > 50
    assert sum(counts.values()) - counts["200"] > 10, "the server was to be flaky"
    rows = [row for side in ("pos", "neg") for row in read_responses(trait, side)]
    assert [row.trait_score for row in rows] == [judge_load.expected_score(row.response) for row in rows]
    assert sum(report.unscored.values()) == 0


class Instant(OpenAiJudge):
    """A judge that answers at once, or fails at one prompt."""

    def __init__(self, fails_at=None):
        super().__init__("instant", TEMPLATE, base_url="http://127.0.0.1:9/v1")
        self.fails_at = fails_at
        self.slots = asyncio.Semaphore(20)
        self.open = True

    async def grade(self, prompt):
        async with self.slots:  # so that a few at a time are ready
            await asyncio.sleep(0)
        if prompt == self.fails_at:
            raise JudgeError("broken")
        return Judgement(float(prompt) % 101, "number")

    def close(self):
        super().close()
        self.open = False


def seconds(work):
    began = time.process_time()
    found = work()
    assert {i: judgement.score for i, judgement in found.items()} == {i: i % 101 for i in range(len(PROMPTS))}
    return time.process_time() - began


def by_judgements():
    judge = Instant()
    found = dict(judge.judgements(PROMPTS))
    judge.close()
    return found


def by_gather():
    async def all_at_once():
        judge = Instant()
        return dict(enumerate(await asyncio.gather(*(judge.grade(prompt) for prompt in PROMPTS))))

    return asyncio.run(all_at_once())


def test_the_cost_of_a_judgement_does_not_grow_with_their_number():
    plain = min(seconds(by_gather) for _ in range(3))
    ours = min(seconds(by_judgements) for _ in range(3))
    assert ours < 6 * plain, f"{ours:.2f} s, and {plain:.2f} s for the requests alone"


def test_scores_that_are_ready_are_handed_out_before_an_error():
    judge = Instant(fails_at="3")
    found = []
    with pytest.raises(JudgeError):
        found.extend(judge.judgements([str(i) for i in range(6)]))
    judge.close()
    assert sorted(i for i, _ in found) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("fails", [False, True])
def test_stage_1_closes_its_judge_whatever_happens(fails, tmp_path, monkeypatch):
    lab = make_lab(tmp_path)
    trait, _ = judge_load.make_trait(tmp_path / "other", 4)
    for side in ("pos", "neg"):
        write_responses(lab.trait("alpha"), side, read_responses(trait, side))
    if fails:
        lab.trait("alpha").responses_path("neg").write_text("damaged")
    instant = Instant()
    monkeypatch.setattr("extraction.generate.stage.resolve_judge", lambda *_: _numbered(instant))

    def judge():
        run(Settings("exp", "alpha", judge_only=True, device="cpu", experiments_dir=str(lab.experiments_dir)))

    if fails:
        with pytest.raises(UserError, match=r"neg\.csv"):
            judge()
    else:
        judge()
        assert read_responses(lab.trait("alpha"), "pos")[1].trait_score == 1.0
    assert not instant.open


def _numbered(judge):
    """A judge that scores prompts by their place."""
    original = judge.judgements
    judge.judgements = lambda prompts, *_: original([str(i) for i in range(len(prompts))])
    return judge
