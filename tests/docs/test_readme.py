"""The annotated tree in the README is the tree on disk."""

import itertools
import re
import shutil
import subprocess
from pathlib import PurePosixPath

import pytest

from . import pages

README = pages.ROOT / "README.md"
PACKAGES = ("traitlens", "utils", "extraction")


def braces(text):
    """``a{b,c}`` as ``ab`` and ``ac``."""
    parts = [part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"\{([^}]*)\}", text))]
    return ["".join(choice) for choice in itertools.product(*parts)]


def named_paths(tree):
    """Every path that an annotated tree names, folders by indentation; several names may share a line."""
    parents, found = [], []
    for line in tree.split("\n")[1:]:  # the first line is the repository itself
        match = re.match(r"^([\s│├└─]*)(\S.*)$", line)
        if not match:
            continue
        depth = len(match[1])
        names = re.split(r"\s{2,}|\s#", match[2])[0]
        parents = [(d, p) for d, p in parents if d < depth]
        folder = parents[-1][1] if parents else PurePosixPath()
        for name in (n for word in re.split(r",\s+|\s+", names) for n in braces(word)):
            found.append(folder / name.rstrip("/"))
            if name.endswith("/"):
                parents = [*[(d, p) for d, p in parents if d < depth], (depth, folder / name.rstrip("/"))]
    return found


@pytest.fixture(scope="module")
def tree():
    found = [b.text for b in pages.blocks(README, "text") if "visualization.html" in b.text]
    assert len(found) == 1, "the README has one annotated tree, in a block marked text"
    return found[0]


@pytest.fixture(scope="module")
def committed():
    """Files under version control, and those that will be."""
    git = shutil.which("git")
    if git is None or not (pages.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True, check=True).stdout
    return [PurePosixPath(line) for line in output.splitlines()]


def test_the_tree_is_parsed_as_a_reader_would():
    text = (
        "root/\n├── a/            # one\n│   ├── b.py, c.py   two\n│   └── d/\n│       └── e_{x,y}.md\n└── f.html  last"
    )
    assert [str(p) for p in named_paths(text)] == ["a", "a/b.py", "a/c.py", "a/d", "a/d/e_x.md", "a/d/e_y.md", "f.html"]


def test_everything_in_the_readmes_tree_exists(tree):
    paths = named_paths(tree)
    assert len(paths) > 20
    for path in paths:
        assert list(pages.ROOT.glob(str(path))), f"the README's tree names {path}, which does not exist"


def test_every_top_level_entry_is_in_the_readmes_tree(tree, committed):
    top = {path.parts[0] for path in committed if not path.parts[0].startswith(".")} - {"README.md"}
    missing = sorted(top - {str(path.parts[0]) for path in named_paths(tree)})
    assert not missing


def test_every_folder_of_the_packages_is_in_the_readmes_tree(tree, committed):
    folders = {p.parent for p in committed if p.parts[0] in PACKAGES and p.suffix == ".py"}
    public = {folder for folder in folders if not folder.name.startswith("_")}
    assert len(public) > 12
    missing = sorted(str(folder) for folder in public - set(named_paths(tree)))
    assert not missing


def test_every_experiment_is_in_the_readmes_tree(tree, committed):
    experiments = {PurePosixPath(*p.parts[:2]) for p in committed if p.parts[0] == "experiments" and len(p.parts) > 2}
    assert len(experiments) > 2
    assert experiments <= set(named_paths(tree))
