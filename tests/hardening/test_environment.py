"""Where and when a command runs does not matter: locale, home, time zone, odd paths, line ends, odd texts."""

import csv
import json
import os
import shutil

import pandas as pd
import pytest

from tests.hardening.faulty_lab import DEFINITION, arguments, files, finished_place
from tests.hardening.nursery import Nursery
from utils.experiment import Experiment
from utils.formats.response_files import read_responses, write_responses
from utils.records import Response

PLACES = {
    "a bare C locale without home": {
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": None, "XDG_CACHE_HOME": None, "TZ": "UTC",
    },
    "Turkish, far from Greenwich": {
        "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7",
    },
}  # fmt: skip
ODD_TEXTS = [
    "NA", "null", "nan", "", " ", "a\0b", "\r", "a\r\nb", "a\nb\n", '"', '""a"', "a,b;c\td", "x" * 1_000_000, "\ufeffa",
    "a\u2028b\x85c", "İıŞß", "=1+1", "\\", "'", "🧑🏽‍🚀", "\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_the_stages_write_the_same_bytes_anywhere(place, tmp_path):
    _, lab, model = finished_place()
    folder = tmp_path / "größe mit 空白 'and quotes'"
    moved = Experiment(folder / "experiments", lab.name)
    shutil.copytree(lab.root, moved.root, ignore=shutil.ignore_patterns("responses", "activations", "vectors"))
    nursery = Nursery(folder, PLACES[place])
    for stage in (1, 2, 3):
        ended = nursery.run(stage, *arguments(stage, moved, model))
        assert ended.status == 0, ended.said
    nursery.close()
    assert files(moved.root) == files(lab.root)


def test_a_trait_may_have_a_name_in_any_script_with_spaces(tmp_path):
    nursery, lab, model = finished_place()
    named = Experiment(tmp_path / "experiments", "опыт 1")
    folder = named.trait("größe 数 x")
    folder.root.mkdir(parents=True)
    shutil.copy(lab.trait("alpha").definition_path, folder.definition_path)
    for stage in (1, 2, 3):
        ended = nursery.run(stage, *arguments(stage, named, model))
        assert ended.status == 0, ended.said
    assert files(folder.root).keys() == files(lab.trait("alpha").root).keys()


def test_line_ends_and_marks_of_windows_change_nothing(tmp_path):
    nursery, lab, model = finished_place()
    moved = Experiment(tmp_path / "experiments", lab.name)
    shutil.copytree(lab.root, moved.root)
    trait = moved.trait("alpha")
    whole = files(trait.root)
    trait.definition_path.write_text(json.dumps(DEFINITION, indent=1), encoding="utf-8")
    for path in (trait.definition_path, trait.responses_metadata_path):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    path = trait.responses_path("pos")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    for stage in (1, 2, 3):
        ended = nursery.run(stage, *arguments(stage, moved, model))
        assert ended.status == 0, ended.said
        assert stage == 3 or "there already" in ended.said
    found = files(trait.root)
    for name in ("responses/neg.csv", "activations/pos.safetensors", "vectors/probe_layer3.pt", "vectors/summary.csv"):
        assert found[name] == whole[name]


def test_a_clock_that_went_back_does_not_make_finished_work_look_old(tmp_path):
    nursery, lab, model = finished_place()
    root = lab.trait("alpha").root
    whole = files(root)
    for moment, name in enumerate(whole):
        os.utime(root / name, (moment % 3 * 2**31, moment % 3 * 2**31))
    for stage in (1, 2):
        ended = nursery.run(stage, *arguments(stage, lab, model))
        assert ended.status == 0, ended.said
        assert "there already" in ended.said
    assert files(root) == whole


def test_any_text_comes_back_from_a_csv_as_it_was(tmp_path):
    folder = Experiment(tmp_path, "e").trait("t")
    rows = [Response(f"{text}?", text, text, text, None, text, "") for text in ODD_TEXTS]
    write_responses(folder, "pos", rows)
    assert read_responses(folder, "pos") == rows
