"""The house that CONTRIBUTING describes: small folders that say what they are for, and no two modules that need each other."""

import ast
import graphlib
from pathlib import Path

import pytest

from . import pages

PACKAGES = {
    "traitlens": pages.ROOT / "traitlens",
    "utils": pages.ROOT / "utils",
    "extraction": pages.ROOT / "extraction/extraction",
}
MODULES_OF_A_FOLDER, MODULES_OF_THE_TOOLKIT = 12, 14


def modules_of(packages):
    """The path of every module, by its name."""
    found = {}
    for name, root in packages.items():
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join([name, *(part for part in parts if part != "__init__")])] = path
    return found


def imports_of(name, path, modules):
    """The modules of the project that a module imports, inside functions and for type checkers too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            levels = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*levels, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from (found for found in (f"{origin}.{alias.name}", origin) if found in modules)


def cycle_in(packages):
    """Modules of which each imports the one before it, the first again at the end; none where no import leads back."""
    modules = modules_of(packages)
    graph = {name: set(imports_of(name, path, modules)) - {name} for name, path in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def crowded_folders(packages):
    """Folders with more modules than one takes in at a glance, and how many they have."""
    found = {}
    for folder in {path.parent for path in modules_of(packages).values()}:
        n_modules = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        if n_modules > (MODULES_OF_THE_TOOLKIT if folder == PACKAGES["traitlens"] else MODULES_OF_A_FOLDER):
            found[str(folder)] = n_modules
    return found


def silent_folders(packages):
    """Folders of modules that do not say what they are for."""
    folders = {path.parent for path in modules_of(packages).values()}
    inits = [folder / "__init__.py" for folder in folders]
    return [
        str(path)
        for path in inits
        if not path.is_file() or not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]


@pytest.fixture
def house(tmp_path):
    """A package in good order, to be spoiled."""
    for name, text in {
        "__init__.py": '"""A house."""\n', "a.py": "import house.rooms.b\n", "rooms/__init__.py": '"""Its rooms."""\n',
        "rooms/b.py": "from . import c\n", "rooms/c.py": "import json\n",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {"house": tmp_path}


def test_no_import_leads_back_to_where_it_began():
    assert len(modules_of(PACKAGES)) > 60
    assert cycle_in(PACKAGES) == []


def test_no_folder_holds_more_than_a_dozen_modules():
    assert crowded_folders(PACKAGES) == {}


def test_every_folder_says_what_it_is_for():
    assert silent_folders(PACKAGES) == []


@pytest.mark.parametrize(
    "line",
    [
        "import house.a",
        "from house import a",
        "from .. import a",
        "from ..a import f",
        "def f():\n    from house.a import f",
    ],
)
def test_a_cycle_is_found_however_it_is_written(line, house):
    assert cycle_in(house) == []
    (house["house"] / "rooms" / "c.py").write_text(line, encoding="utf-8")
    assert set(cycle_in(house)) == {"house.a", "house.rooms.b", "house.rooms.c"}


def test_a_thirteenth_module_and_a_folder_without_words_are_found(house):
    rooms: Path = house["house"] / "rooms"
    assert (crowded_folders(house), silent_folders(house)) == ({}, [])
    for i in range(11):
        (rooms / f"room_{i}.py").touch()
    (rooms / "__init__.py").write_text("import json\n", encoding="utf-8")
    assert crowded_folders(house) == {str(rooms): 13}
    assert silent_folders(house) == [str(rooms / "__init__.py")]
