"""Each stage is killed at random moments of its work and run again: it ends with the files of an uninterrupted run.

KILLS=20 kills each stage so often by each signal; without it twice.
"""

import os
import random
import shutil
import signal

import pytest

from tests.hardening.faulty_lab import arguments, files, make_lab, make_model
from tests.hardening.nursery import shared_nursery

KILLS = int(os.environ.get("KILLS", "2"))
KILLS_BEFORE_AN_END = 4
PARTS = {1: "responses", 2: "activations", 3: "vectors"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A nursery, the flags of each stage, the trait, what uninterrupted runs wrote, and their seconds."""
    folder = tmp_path_factory.mktemp("kills")
    lab, model = make_lab(folder), make_model(folder / "model")
    nursery = shared_nursery()
    seconds = {}
    for stage in PARTS:
        nursery.run(stage, *arguments(stage, lab, model)[:5], "nonsense")  # the first fork pays for lazy imports
        ended = nursery.run(stage, *arguments(stage, lab, model))
        assert ended.status == 0, ended.said
        seconds[stage] = ended.seconds
    trait = lab.trait("alpha")
    return nursery, {stage: arguments(stage, lab, model) for stage in PARTS}, trait, files(trait.root), seconds


@pytest.mark.parametrize("send", [signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.parametrize("stage", PARTS)
def test_a_stage_killed_at_random_moments_ends_with_the_files_of_an_uninterrupted_run(stage, send, whole):
    nursery, flags, trait, expected, seconds = whole
    moments = random.Random(f"{stage} {send}")
    kills = 0
    while kills < KILLS:
        shutil.rmtree(trait.root / PARTS[stage])
        for _ in range(min(KILLS_BEFORE_AN_END, KILLS - kills)):
            ended = nursery.run(stage, *flags[stage], send=send, after=moments.uniform(0, seconds[stage]))
            # Python itself drops an interruption that falls into a weak reference's callback, and says so.
            assert "Traceback" not in ended.said.partition("Exception ignored in")[0], ended.said
            if ended.status == 0:
                break  # it had ended before
            assert ended.status == (130 if send == signal.SIGINT else -signal.SIGKILL), ended.said
            kills += 1
        ended = nursery.run(stage, *flags[stage])
        assert ended.status == 0, ended.said
        assert files(trait.root) == expected
