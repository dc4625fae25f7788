"""Judging a trait's files through a server over loopback."""

import dataclasses
import json
import logging
import time
from types import SimpleNamespace

import pytest
from extraction.judging.scoring import judge_trait, resolve_judge
from extraction.judging.settings import JudgeSettings

from utils.definition import read_definition
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.response_files import read_responses, read_responses_metadata, write_responses
from utils.judge import DEFAULT_ANTHROPIC_MODEL, DEFAULT_OPENAI_MODEL, JudgeError, choose_judge
from utils.records import Response

from .conftest import KEY, TEMPLATE
from .servers import completion, error

N = 6


@pytest.fixture
def folder(tmp_path):
    """A trait whose responses say which score they deserve: 90 and up for pos, under 10 for neg, 50 for neutral."""
    folder = Experiment(tmp_path, "lab").trait("kind")
    definition = {
        "instruction": [{"pos": "Be kind.", "neg": "Be rude."}],
        "questions": ["Why?"],
        "eval_prompt": TEMPLATE,
    }
    folder.root.mkdir(parents=True)
    folder.definition_path.write_text(json.dumps(definition))
    for side, first in (("pos", 90), ("neg", 3), ("neutral", 50)):
        write_responses(folder, side, [Response("Why?", "", "Why?", f"worth {first + i}") for i in range(N)])
    return folder


def worth(body, number=0):
    """What a perfect judge answers."""
    content = body["messages"][0]["content"]
    value = content.split("worth ")[-1].split()[0] if "worth" in content else "50"
    return completion(value, [(value, {value: 0.9, "I": 0.05, "A": 0.05})])


@pytest.fixture
def judged(serve, folder):
    """Judge the trait, by default with a perfect judge; ``server.answer`` may be changed in between."""
    server = serve(worth)

    def run(answer=None, model="judge-1", **settings):
        server.answer = answer or worth
        settings = JudgeSettings(judge_model=model, judge_base_url=server.url, **settings)
        judge = resolve_judge(settings, None)
        before = len(server.requests)
        try:
            report = judge_trait(folder, read_definition(folder), judge, settings)
        finally:
            judge.close()
            run.asked = len(server.requests) - before
        return report

    run.server = server
    return run


def scores(folder, side):
    return [r.trait_score for r in read_responses(folder, side)]


def test_every_side_is_scored_and_the_files_say_how(judged, folder, caplog):
    report = judged()
    assert scores(folder, "pos") == [90, 91, 92, 93, 94, 95]
    assert scores(folder, "neg") == [3, 4, 5, 6, 7, 8]
    assert scores(folder, "neutral") == [50, 51, 52, 53, 54, 55]
    assert {r.judge_method for r in read_responses(folder, "pos")} == {"logprobs"}
    assert report.auroc == 1.0
    assert report.contrast == pytest.approx(87)
    assert report.kept == {"pos": N, "neg": N}
    assert report.methods == {"logprobs": 3 * N}
    assert report.tokens == 3 * N * 42
    assert report.warnings == []
    assert read_responses_metadata(folder)["judge"] == json.loads(json.dumps(report.to_json()))
    assert "18 scored, 0 unscored, 756 tokens used" in caplog.text
    assert "AUROC 1.000 against the intended side, contrast 87.0" in caplog.text
    assert list(folder.root.rglob("*.partial*")) == []


def test_a_row_without_a_valid_score_stays_empty_and_is_counted(judged, folder, caplog):
    def answer(body, n):
        return completion("I cannot") if "worth 92" in body["messages"][0]["content"] else worth(body)

    report = judged(answer)
    assert scores(folder, "pos") == [90, 91, None, 93, 94, 95]
    assert folder.responses_path("pos").read_text().splitlines()[3].endswith('"worth 92","","",""')
    assert report.unscored == {"pos": 1, "neg": 0, "neutral": 0}
    assert report.scored["pos"] == N - 1
    assert report.mean_pos == pytest.approx((90 + 91 + 93 + 94 + 95) / 5)
    assert "17 scored, 1 unscored" in caplog.text
    assert sum(report.reasons.values()) == 1


def test_the_same_judge_scores_only_what_is_left(judged, folder):
    judged(lambda body, n: completion("?") if "worth 92" in body["messages"][0]["content"] else worth(body))
    report = judged()
    assert judged.asked == 1
    assert scores(folder, "pos") == [90, 91, 92, 93, 94, 95]
    assert report.unscored == {"pos": 0, "neg": 0, "neutral": 0}
    judged()
    assert judged.asked == 0


def test_another_judge_scores_everything_anew_and_says_so(judged, folder, caplog):
    judged(lambda body, n: completion("40", [("40", {"40": 0.9, "I": 0.1})]))
    report = judged(model="judge-2")
    assert judged.asked == 3 * N
    assert scores(folder, "pos")[0] == 90
    assert "scoring all responses anew" in caplog.text
    assert [e.name.split("@")[0] for e in report.earlier] == ["judge-1"]
    assert report.earlier[0].auroc == 0.5


def test_another_prompt_scores_everything_anew(judged, folder, caplog):
    judged()
    definition = json.loads(folder.definition_path.read_text())
    folder.definition_path.write_text(json.dumps({**definition, "eval_prompt": TEMPLATE + " worth it"}))
    judged(lambda body, n: completion("30", [("30", {"30": 0.9, "I": 0.1})]))
    assert judged.asked == 3 * N
    assert set(scores(folder, "pos")) == {30}
    assert "the eval_prompt has changed" in caplog.text


def test_an_interrupted_run_loses_no_finished_score(judged, folder):
    def answer(body, n):
        return error(404, "gone") if n > 10 else worth(body)

    with pytest.raises(JudgeError, match="has no model"):
        judged(answer, judge_concurrency=1)
    kept = folder.scores_journal.pieces()
    assert len(kept) == 10  # one request was the check
    assert scores(folder, "pos") == [None] * N  # files change when all is done
    judged()
    assert judged.asked == 3 * N - 10
    assert scores(folder, "pos") == [90, 91, 92, 93, 94, 95]
    assert scores(folder, "neg") == [3, 4, 5, 6, 7, 8]


def test_an_interruption_by_hand_loses_no_finished_score(judged, folder):
    settings = JudgeSettings(judge_model="judge-1", judge_base_url=judged.server.url, judge_concurrency=1)
    judge = resolve_judge(settings, None)

    def until_stopped(prompts):
        for number, result in enumerate(judge.judgements(prompts)):
            if number == 5:
                raise KeyboardInterrupt
            yield result

    stopped = SimpleNamespace(name=judge.name, paid=True, tokens=judge.tokens, judgements=until_stopped)
    with pytest.raises(KeyboardInterrupt):
        judge_trait(folder, read_definition(folder), stopped, settings)
    judge.close()
    judged()
    assert judged.asked == 3 * N - 5
    assert scores(folder, "pos") == [90, 91, 92, 93, 94, 95]


def test_scores_in_the_journal_of_changed_responses_are_not_used(judged, folder):
    with pytest.raises(JudgeError):
        judged(lambda body, n: error(404, "gone") if n > 10 else worth(body), judge_concurrency=1)
    write_responses(folder, "pos", [Response("Why?", "", "Why?", f"worth {20 + i}") for i in range(N)])
    judged()
    assert scores(folder, "pos") == [20, 21, 22, 23, 24, 25]


def test_a_judge_that_cannot_tell_the_sides_apart_is_called_out(judged, caplog):
    report = judged(lambda body, n: completion("40", [("40", {"40": 0.9, "I": 0.1})]))
    assert report.auroc == 0.5
    assert report.contrast == pytest.approx(0)
    assert report.kept == {"pos": 0, "neg": N}
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert any("cannot tell the sides apart" in w and "--judge_model" in w and "--threshold 0" in w for w in warnings)
    assert any("contrast is low" in w and "--threshold 60" in w and "probe" in w for w in warnings)


def test_a_judge_that_scored_one_side_only_claims_nothing(judged, folder):
    def answer(body, n):
        content = body["messages"][0]["content"]
        return (
            completion("?")
            if any(f"worth {i}" in content for i in range(3, 9)) and "worth 5" not in content
            else worth(body)
        )

    write_responses(folder, "neg", [Response("Why?", "", "Why?", f"worth {i}") for i in (3, 4, 6, 7, 8)])
    report = judged(answer)
    assert report.scored["neg"] == 0
    assert report.auroc is None
    assert report.contrast is None
    assert report.mean_neg is None
    assert "no neg response has a score" in report.warnings[0]


def test_neutral_responses_may_be_missing(judged, folder):
    folder.responses_path("neutral").unlink()
    report = judged()
    assert report.scored == {"pos": N, "neg": N, "neutral": 0}
    assert not folder.responses_path("neutral").exists()


def test_no_judge_leaves_scores_and_record_alone(judged, folder):
    report = judged()
    settings = JudgeSettings(judge_model="none")
    assert resolve_judge(settings, None) is None
    assert judge_trait(folder, read_definition(folder), None, settings) == report
    assert scores(folder, "pos")[0] == 90


@pytest.mark.parametrize(
    "answer", [lambda b, n: error(401, f"bad key {KEY}"), lambda b, n: error(404, "no such model")]
)
def test_a_judge_that_cannot_work_is_found_out_before_anything_is_generated(serve, answer):
    server = serve(answer)

    def generation():
        raise AssertionError("the generation model was loaded")

    with pytest.raises(JudgeError):
        resolve_judge(JudgeSettings(judge_model="judge-1", judge_base_url=server.url), generation)
    assert len(server.requests) == 1


def test_without_a_flag_the_first_of_openai_anthropic_and_local_is_taken(monkeypatch):
    assert choose_judge(None) == DEFAULT_OPENAI_MODEL
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert choose_judge(None) == DEFAULT_ANTHROPIC_MODEL
    monkeypatch.setenv("ANTHROPIC_API_KEY", "your_anthropic_key")
    assert choose_judge(None) == "local"
    assert choose_judge("some-model") == "some-model"
    with pytest.raises(UserError, match="--judge_model"):
        choose_judge(None, "http://localhost:1/v1")


def test_local_means_the_generation_model(caplog):
    from tests.conftest import small_model
    from utils.models import LoadedModel

    generation = LoadedModel(small_model("llama"), object(), "tiny", "tiny", None)
    assert resolve_judge(JudgeSettings(judge_model="local"), lambda: generation).name == "local:tiny"
    with pytest.raises(UserError, match="local:MODEL"):
        resolve_judge(JudgeSettings(judge_model="local"), None)
    other = dataclasses.replace(generation, name="org/judge")
    asked = []
    judge = resolve_judge(
        JudgeSettings(judge_model="local:org/judge"), lambda: generation, lambda name: asked.append(name) or other
    )
    assert (judge.name, asked) == ("local:org/judge", ["org/judge"])


@pytest.mark.parametrize("wrong", [{"judge_concurrency": 0}, {"judge_samples": 0}, {"threshold": 101}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        resolve_judge(JudgeSettings(judge_model="none", **wrong), None)


@pytest.mark.alone
def test_two_hundred_rows_at_twenty_at_a_time_spend_little_time_waiting(judged, folder):
    for side, first in (("pos", 60), ("neg", 10)):
        write_responses(folder, side, [Response("Why?", "", "Why?", f"worth {first + i % 30}") for i in range(100)])
    folder.responses_path("neutral").unlink()
    judged.server.answer = worth
    settings = JudgeSettings(judge_model="judge-1", judge_base_url=judged.server.url)
    judge = resolve_judge(settings, None)
    judged.server.answer = lambda body, n: dataclasses.replace(worth(body), delay=0.05, together=20)
    start, worked = time.perf_counter(), time.process_time()
    report = judge_trait(folder, read_definition(folder), judge, settings)
    waited = (time.perf_counter() - start) - (time.process_time() - worked)
    judge.close()
    assert report.scored == {"pos": 100, "neg": 100, "neutral": 0}
    assert judged.server.busiest == 20
    assert waited < 1.5


def test_a_response_that_a_server_refused_is_not_judged_and_counted_with_its_reason(judged, folder):
    rows = read_responses(folder, "pos")
    rows[0] = dataclasses.replace(rows[0], response="", trait_score=None, finish_reason="refused: 400: filtered")
    write_responses(folder, "pos", rows)
    report = judged()
    assert report.unscored["pos"] == 1
    assert report.reasons == {"there is no response (refused: 400: filtered)": 1}
    assert len(judged.server.requests) == 3 * N
