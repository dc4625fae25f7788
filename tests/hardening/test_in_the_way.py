"""A folder where a file belongs, a file where a folder belongs, links: one line that names what is in the way."""

import os
import shutil

import pytest

from tests.hardening.faulty_lab import arguments, files, finished_place
from utils.experiment import Experiment

MAKES = {1: "responses", 2: "activations", 3: "vectors"}
FOLDERS = {
    1: ("responses/pos.csv", "responses/scores.settings.partial.jsonl", ".lock"),
    2: (".lock",),
    3: ("vectors/probe_layer3.pt", "vectors/card.html", ".lock"),
}


@pytest.fixture
def copy(tmp_path):
    """The finished experiment once more, to be spoiled."""
    nursery, lab, model = finished_place()
    shutil.copytree(lab.root, tmp_path / lab.name)
    return nursery, Experiment(tmp_path, lab.name), model


def refused(ended, path):
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    assert ended.last_line.startswith("error: "), ended.said
    assert str(path) in ended.last_line, ended.last_line


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in FOLDERS.items() for name in names])
def test_a_folder_where_a_file_belongs_is_named(stage, name, copy):
    nursery, lab, model = copy
    root = lab.trait("alpha").root
    shutil.rmtree(root / MAKES[stage])
    path = root / name
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    refused(nursery.run(stage, *arguments(stage, lab, model)), path)
    path.rmdir()
    ended = nursery.run(stage, *arguments(stage, lab, model))
    assert ended.status == 0, ended.said
    assert files(root) == files(finished_place()[1].trait("alpha").root)


@pytest.mark.parametrize("stage", MAKES)
def test_a_file_where_a_folder_belongs_is_named(stage, copy):
    nursery, lab, model = copy
    path = lab.trait("alpha").root / MAKES[stage]
    shutil.rmtree(path)
    path.write_text("mine", encoding="utf-8")
    refused(nursery.run(stage, *arguments(stage, lab, model)), path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_links_in_a_circle_are_named(copy):
    nursery, lab, model = copy
    path = lab.trait("alpha").responses_path("neg")
    path.unlink()
    path.symlink_to(path.name)
    for stage in MAKES:
        refused(nursery.run(stage, *arguments(stage, lab, model)), path)


def test_activations_behind_a_link_are_refused_before_they_are_captured(copy, tmp_path):
    nursery, lab, model = copy
    trait = lab.trait("alpha")
    elsewhere = tmp_path / "elsewhere"
    shutil.move(trait.activations_dir, elsewhere)
    trait.activations_dir.symlink_to(elsewhere)
    before = files(elsewhere)
    refused(nursery.run(2, *arguments(2, lab, model, "--overwrite")), f"{trait.activations_dir} is a link")
    assert files(elsewhere) == before
    assert not os.path.lexists(trait.unfinished_activations_dir)
    for stage in (2, 3):  # what is there may be read
        ended = nursery.run(stage, *arguments(stage, lab, model))
        assert ended.status == 0, ended.said
