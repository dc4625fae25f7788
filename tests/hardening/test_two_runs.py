"""Two runs on one trait at once: the second is refused in one line, and what the first writes is as if it were alone."""

import signal
import time

import pytest

from tests.hardening.faulty_lab import arguments, files, finished_place


@pytest.fixture
def place():
    return finished_place()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_second_run_beside_the_first_is_refused_and_changes_nothing(stage, place):
    nursery, lab, model = place
    trait = lab.trait("alpha")
    expected = files(trait.root)
    again = ["--overwrite"] if stage < 3 else []
    with trait.locked():
        second = nursery.run(stage, *arguments(stage, lab, model, *again))
        assert second.status == 1, second.said
        assert f"error: another run is working on {trait.root}" in second.last_line
        assert "Traceback" not in second.said
        # The first may yet replace the responses and say that another model made them.
        assert stage != 2 or "loaded" not in second.said
        assert files(trait.root) == expected
    flags = arguments(stage, lab, model, *again)
    both = [nursery.start(stage, *flags), nursery.start(stage, *flags)]
    ended = [nursery.end(pid) for pid in both]
    assert 0 in [e.status for e in ended], [e.said for e in ended]
    for e in ended:
        assert e.status == 0 or "another run is working on" in e.last_line, e.said
    assert files(trait.root) == expected


def test_a_second_run_into_one_result_file_is_refused_and_mixes_nothing_in(place, tmp_path):
    nursery, lab, _ = place
    output = tmp_path / "results.json"

    def flags(n_tokens):
        own = [
            "--prompts",
            '["Why?", "Who?", "What?"]',
            "--batch_size",
            1,
            "--max_new_tokens",
            n_tokens,
            "--output",
            output,
        ]
        return ["--experiment", lab.name, "--experiments_dir", lab.experiments_dir, "--device", "cpu", *own]

    assert nursery.run("dynamics", *flags(24)).status == 0
    expected = files(tmp_path)
    first = nursery.start("dynamics", *flags(24), "--overwrite")
    lock = tmp_path / ".results.json.lock"
    while not lock.exists():
        time.sleep(0.001)
    second = nursery.run("dynamics", *flags(8), "--overwrite")
    assert second.status == 1, second.said
    assert f"error: another run is writing {output}" in second.last_line
    ended = nursery.end(first)
    assert ended.status == 0, ended.said
    assert files(tmp_path) == expected
    pid = nursery.start("dynamics", *flags(24), "--overwrite")
    while not lock.exists():
        time.sleep(0.001)
    assert nursery.end(pid, send=signal.SIGKILL).status == -signal.SIGKILL
    (tmp_path / ".results.json.1.partial").write_text("half", encoding="utf-8")
    ended = nursery.run("dynamics", *flags(24), "--overwrite")
    assert ended.status == 0, ended.said
    assert files(tmp_path) == expected


def test_the_lock_of_a_killed_run_is_free_at_once(place):
    nursery, lab, model = place
    trait = lab.trait("alpha")
    expected = files(trait.root)
    flags = arguments(1, lab, model, "--overwrite")
    pid = nursery.start(1, *flags)
    while not trait.generation_journal.settings_path.is_file():
        time.sleep(0.01)
    assert nursery.end(pid, send=signal.SIGKILL).status == -signal.SIGKILL
    ended = nursery.run(1, *arguments(1, lab, model))
    assert ended.status == 0, ended.said
    assert files(trait.root)["responses/pos.csv"] == expected["responses/pos.csv"]
