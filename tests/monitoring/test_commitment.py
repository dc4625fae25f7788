import json
import re

import pytest

import utils.models.compatibility
from benchmarks import commitment
from tests.docs import pages
from utils.errors import UserError


@pytest.fixture
def small_in_memory(small, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: small)


def test_every_flag_is_documented_and_the_reverse():
    guide = (pages.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Commitment points$.*?(?=^## |\Z)", guide, flags=re.DOTALL | re.MULTILINE)[0]
    documented = set(re.findall(r"(?<![\w-])--(\w+)", section))
    assert documented == set(pages.flags_of(pages.ROOT / "benchmarks" / "commitment.py"))


def test_validation_of_the_commitment_point_cuts_around_both_kinds_of_points(
    small_experiments, small_in_memory, tmp_path, monkeypatch
):
    output = tmp_path / "commitment.json"
    monkeypatch.setattr(commitment, "OFFSETS", (-1, 2))
    commitment.validate_commitment(
        "smollm2_test", "evil", prompts='["Tell me a story", "Why?", "How are you?", "Who was Bach?"]', samples=2, max_new_tokens=16,
        output=str(output), experiments_dir=str(small_experiments),
    )  # fmt: skip
    found = json.loads(output.read_text())
    assert {cut["kind"] for cut in found["cuts"]} == {"commitment", "control"}
    assert any(cut["spread"] > 0 for cut in found["cuts"])
    assert found["summary"]["commitment_answers"] == len(
        {c["prompt"] for c in found["cuts"] if c["kind"] == "commitment"}
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"smoothing": 2}, "odd"),
        ({"smoothing": -1}, "--smoothing"),
        ({"max_new_tokens": 0}, "--max_new_tokens"),
        ({"output": "."}, "is a folder: --output names a file"),
    ],
)
def test_validation_refuses_flags_that_cannot_work_before_the_model_is_loaded(
    small_experiments, monkeypatch, flags, said
):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=said):
        commitment.validate_commitment(
            "smollm2_test", "evil", prompts="Hi", experiments_dir=str(small_experiments), **flags
        )


def test_the_summary_tells_a_point_that_settles_the_score_from_one_that_does_not():
    def cuts(drop_at_commitment):
        return [
            commitment.Cut(prompt, kind, 9, offset, 2.0 - (drop if offset > 0 else 0.0) + 0.01 * (prompt % 3), None)
            for prompt in range(12)
            for kind, drop in (("commitment", drop_at_commitment), ("control", 0.2 + 0.1 * (prompt % 2 - 0.5)))
            for offset in commitment.OFFSETS
        ]

    settled, unsettled = commitment.summarise(cuts(1.0), 0), commitment.summarise(cuts(0.2), 0)
    assert settled["extra_drop_at_commitment"] == pytest.approx(0.8, abs=0.01)
    assert settled["p_value"] < 0.01
    assert unsettled["p_value"] > 0.2
