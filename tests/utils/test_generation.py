import logging

import pytest
import torch

from utils.generation import halving_on_out_of_memory


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_keeps_its_order(caplog):
    tried = []

    def work(items):
        tried.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return [item * 10 for item in items]

    caplog.set_level(logging.INFO)
    assert halving_on_out_of_memory(work, [1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert tried == [5, 2, 3, 1, 2]
    assert (
        caplog.messages[0]
        == "out of memory with a batch of 5, going on with 2: CUDA out of memory. Tried to allocate 2 GiB"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_single_item_that_does_not_fit_is_an_error(error):
    def work(items):
        raise error

    with pytest.raises(type(error)):
        halving_on_out_of_memory(work, [1])


def test_another_error_is_not_taken_for_a_lack_of_memory():
    tried = []

    def work(items):
        tried.append(items)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        halving_on_out_of_memory(work, [1, 2])
    assert tried == [[1, 2]]
