"""A disk that is full or must not be written: one line, status 1, and nothing finished is lost."""

import shutil
import subprocess

import pytest
import torch

from tests.hardening.faulty_lab import arguments, files, make_lab, make_model
from tests.hardening.nursery import Nursery
from utils.tensor_file import RowWriter

NOBODY = 65_534
STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A nursery and a model that other users may read too, and a finished experiment."""
    folder = tmp_path_factory.mktemp("disk")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    lab, model = make_lab(folder), make_model(folder / "model")
    nursery = Nursery(folder, {"HOME": str(folder)})
    for stage in STAGES:
        ended = nursery.run(stage, *arguments(stage, lab, model))
        assert ended.status == 0, ended.said
    yield folder, nursery, lab, model
    nursery.close()


def refused(ended, *words):
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    assert ended.last_line.startswith("error: "), ended.said
    assert all(word in ended.last_line for word in words), ended.last_line


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_finds_no_room_is_one_line_and_the_next_run_completes_it(stage, place):
    _, nursery, lab, model = place
    root = lab.trait("alpha").root
    whole = files(root)
    part = root / {1: "responses", 2: "activations", 3: "vectors"}[stage]
    shutil.rmtree(part)
    before = files(root)
    refused(nursery.run(stage, *arguments(stage, lab, model), file_limit=700), "File too large", "Free space")
    assert list(root.rglob(".*.partial")) == []
    assert before.items() <= files(root).items()
    ended = nursery.run(stage, *arguments(stage, lab, model))
    assert ended.status == 0, ended.said
    assert files(root) == whole


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k,mode=777", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_next_run_with_room_completes_it(stage, place, small_disk):
    folder, nursery, lab, model = place
    root = lab.trait("alpha").root
    whole = files(root)
    moved = type(lab)(small_disk, lab.name)
    shutil.copytree(
        root, moved.trait("alpha").root, ignore=shutil.ignore_patterns("vectors", "activations" * (stage < 3))
    )
    if stage == 1:
        shutil.rmtree(moved.trait("alpha").root / "responses")
    flags = arguments(stage, moved, model)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with ballast.open("rb+") as file:
        file.truncate(ballast.stat().st_size - 4096 * 3)
    refused(nursery.run(stage, *flags), "No space left on device", "Free space")
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    ended = nursery.run(stage, *flags)
    assert ended.status == 0, ended.said
    part = {1: "responses", 2: "activations", 3: "vectors"}[stage]
    found = {name: data for name, data in files(moved.trait("alpha").root).items() if name.startswith(f"{part}/")}
    assert found == {name: data for name, data in whole.items() if name.startswith(f"{part}/")}


def test_rows_that_find_no_room_raise_and_do_not_kill_the_process(small_disk):
    writer = RowWriter(small_disk / "big.safetensors", "activations", (100, 10_000), "float32")
    with pytest.raises(OSError, match="No space left"):
        for row in range(100):
            writer.write([row], torch.ones(1, 10_000))


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_may_not_be_written_is_one_line(stage, place):
    _, nursery, lab, model = place
    before = files(lab.root)
    ended = nursery.run(stage, *arguments(stage, lab, model), user=NOBODY)
    refused(ended, "Permission denied", "--experiments_dir")
    assert files(lab.root) == before


def test_a_definition_that_may_not_be_read_is_one_line(place):
    _, nursery, lab, model = place
    path = lab.trait("alpha").definition_path
    path.chmod(0o600)
    refused(nursery.run(1, *arguments(1, lab, model), user=NOBODY), "trait_definition.json", "Permission denied")
    path.chmod(0o644)
