"""A disk that is full or must not be written: one line, status 1, and nothing finished is lost."""

import shutil
import subprocess

import pytest
import torch

from tests.hardening.faulty_lab import arguments, files, finished_place, refused
from utils.formats.activation_files import RowWriter

STAGES = (1, 2, 3)


@pytest.fixture
def place():
    return finished_place()


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_finds_no_room_is_one_line_and_the_next_run_completes_it(stage, place):
    nursery, lab, model = place
    root = lab.trait("alpha").root
    whole = files(root)
    part = root / {1: "responses", 2: "activations", 3: "vectors"}[stage]
    shutil.rmtree(part)
    before = files(root)
    place_and_fault = (f"{part}/" if stage != 2 else "activations.partial/", "File too large", "Free space")
    refused(nursery.run(stage, *arguments(stage, lab, model), file_limit=700), *place_and_fault)
    assert list(root.rglob(".*.partial")) == []
    assert before.items() <= files(root).items()
    ended = nursery.run(stage, *arguments(stage, lab, model))
    assert ended.status == 0, ended.said
    assert files(root) == whole


@pytest.mark.parametrize("form", ["bundle", "gguf", "repeng", "steering_vectors", "hub"])
def test_an_export_that_finds_no_room_is_one_line_and_leaves_nothing(form, place, tmp_path):
    nursery, lab, _ = place
    output = tmp_path / "out"
    flags = ["--experiment", lab.name, "--trait", "alpha", "--layers", 3, "--experiments_dir", lab.experiments_dir]
    flags += ["--method", "probe", "--format", form, "--output", output]
    refused(nursery.run("export", *flags, file_limit=300), str(output), "File too large", "Free space")
    assert list(tmp_path.rglob("*")) == [output] * (form == "hub")
    ended = nursery.run("export", *flags)
    assert ended.status == 0, ended.said


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k,mode=777", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_next_run_with_room_completes_it(stage, place, small_disk):
    nursery, lab, model = place
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
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096 * 3))
    refused(nursery.run(stage, *flags), "No space left on device", "Free space")
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    ended = nursery.run(stage, *flags)
    assert ended.status == 0, ended.said
    part = {1: "responses", 2: "activations", 3: "vectors"}[stage]
    found = {name: data for name, data in files(moved.trait("alpha").root).items() if name.startswith(f"{part}/")}
    assert found == {name: data for name, data in whole.items() if name.startswith(f"{part}/")}


def test_rows_that_find_no_room_raise_and_do_not_kill_the_process(small_disk):
    writer = RowWriter(small_disk / "big.safetensors", (100, 10_000), "float32")
    with pytest.raises(OSError, match="No space left"):
        writer.write(list(range(100)), torch.ones(100, 10_000))


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_may_only_be_read_is_one_line(stage, place, small_disk):
    nursery, lab, model = place
    moved = type(lab)(small_disk, lab.name)
    shutil.copytree(lab.root, moved.root)
    before = files(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(nursery.run(stage, *arguments(stage, moved, model)), "Read-only file system", "--experiments_dir")
    assert files(small_disk) == before
