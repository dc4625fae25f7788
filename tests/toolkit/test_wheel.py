"""The wheel holds the toolkit alone, and needs only what the toolkit imports."""

import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TOOLKIT = {"torch", "numpy", "scikit-learn", "scipy"}

_ALONE = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in set(sys.argv[1].split(",")):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import torch, traitlens

assert "site-packages" in traitlens.__file__, traitlens.__file__
pos, neg = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
for name in traitlens.METHODS:
    traitlens.get_method(name).extract(pos + 1, neg)
"""

_MONITORED = """
import torch, transformers, traitlens

config = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
)
model = transformers.LlamaForCausalLM(config).eval()
with traitlens.TraitMonitor(model, {"trait": (torch.ones(32), 1)}) as monitor:
    model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
assert monitor.scores()["trait"].shape == (4,)
"""


def pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("traitlens-*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a script in an environment that has the wheel and, in place of a download, this one's packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched last, and .pth files found there (such as this project's own) are not read.
    (site_packages / "borrowed.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    def run(script, *arguments):
        command = [str(python), "-I", "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_the_wheel_requires_what_the_toolkit_imports_and_holds_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        required = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")
    always = {re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line}
    assert always == TOOLKIT
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"traitlens"}


def test_the_toolkit_works_without_the_packages_and_modules_of_the_pipeline(run):
    pipeline = re.search(r"^pipeline = \[[^\n]*\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)[1]
    packages = re.findall(r'^\s*"([\w-]+)', pipeline, re.M)
    needed = {"threadpoolctl"}  # scikit-learn's own
    blocked = {*packages, "utils", "extraction", "dotenv"} - needed
    assert {"openai", "fire", "pandas", "matplotlib", "gguf", "anthropic", "safetensors"} <= blocked
    run(_ALONE, ",".join(blocked))


def test_a_model_is_monitored_with_the_wheel(run):
    run(_MONITORED)
