"""Whatever a reader is given, it ends in a right result or in one clear error."""

import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from .inputs import inputs, seed
from .readers import READERS, outcome

# For a long search: HARDENING_EXAMPLES=20000 python -m pytest tests/hardening/test_inputs.py
N_EXAMPLES = int(os.environ.get("HARDENING_EXAMPLES", "25"))
SEARCH = settings(
    max_examples=N_EXAMPLES, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck),
    derandomize="HARDENING_EXAMPLES" not in os.environ, database=None,
)  # fmt: skip


def tried(reader, data):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(reader, Path(folder), data)


@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_whole_input_is_read(reader):
    assert tried(reader, seed(reader)).startswith("read")


@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_spoiled_input_is_read_or_refused(reader):
    @SEARCH
    @given(inputs(reader))
    def search(data):
        tried(reader, data)

    search()
