"""What the code imports is declared, and what is declared is imported."""

import ast
import re
import sys

from . import pages

# Where the name of the import is not the name of the distribution.
DISTRIBUTIONS = {"dotenv": "python-dotenv", "sklearn": "scikit-learn"}
IN_AN_ENVIRONMENT_OF_THEIR_OWN = {"repeng", "steering-vectors"}


def declared(heading):
    """Names of the distributions in a list of pyproject.toml."""
    listed = re.search(rf"^{heading} = \[[^\n]*\n(.*?)^\]", (pages.ROOT / "pyproject.toml").read_text(), re.S | re.M)[1]
    return {re.match(r'\s*"([\w-]+)', line)[1].replace("_", "-").lower() for line in listed.splitlines()}


def imported(*folders):
    """Names of the distributions that the modules below some folders import, also inside functions."""
    found = set()
    for path in (path for folder in folders for path in (pages.ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    own = {"traitlens", "utils", "extraction", "benchmarks", "tests"}
    return {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in found - sys.stdlib_module_names - own}


def test_the_toolkit_requires_what_it_imports():
    assert imported("traitlens") == declared("dependencies")


def test_the_pipeline_requires_what_it_imports_besides():
    assert imported("utils", "extraction") <= declared("dependencies") | declared("pipeline")
    assert declared("pipeline") == imported("utils", "extraction") - declared("dependencies")


def test_the_tests_and_benchmarks_import_what_is_declared():
    allowed = set().union(*map(declared, ("dependencies", "pipeline", "test", "fuzz"))) | IN_AN_ENVIRONMENT_OF_THEIR_OWN
    assert imported("tests", "benchmarks") <= allowed
