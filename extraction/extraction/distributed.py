"""Splitting work over the processes of one launch (torchrun, accelerate launch)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from utils.errors import UserError
from utils.experiment import TraitFolder

if TYPE_CHECKING:
    from accelerate import PartialState

Item = TypeVar("Item")


@dataclass(frozen=True)
class Process:
    """This process among those of its launch."""

    rank: int = 0
    count: int = 1
    device: str | None = None
    state: PartialState | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes what there is only one of."""
        return self.rank == 0

    def mine(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every ``count``-th item: by place in the whole list, so that a resumed run splits as the first one did."""
        return (item for place, item in enumerate(items) if place % self.count == self.rank)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


def this_process(device: str | None) -> Process:
    """The process's place in its launch, with the device that is its own.

    Raises:
        UserError: ``device`` spreads one model over all GPUs, which several processes cannot each do.
    """
    if _world_size() == 1:
        return Process(device=device)
    if device == "auto":
        raise UserError("--device auto spreads one model over all GPUs and takes one process: run it without torchrun")
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()  # without a GPU PartialState splits only with cpu=True
    # The others wait while one judges: longer than the half hour after which torch would end the launch.
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=30))
    if state.num_processes != _world_size():
        raise UserError(
            f"the launch has {_world_size()} processes but {state.num_processes} joined: every one would do all the "
            "work. Launch with torchrun --nproc_per_node N or accelerate launch --num_processes N"
        )
    return Process(state.process_index, state.num_processes, "cpu" if on_cpu else str(state.device), state)


@contextlib.contextmanager
def held_by_main(folder: TraitFolder, process: Process) -> Iterator[None]:
    """The trait's lock, held by the main process for all of them."""
    with folder.locked() if process.is_main else contextlib.nullcontext():
        yield


def refuse_several_processes(command: str) -> None:
    """Raise UserError where a launch would make every process do all of ``command``'s work."""
    if _world_size() > 1:
        raise UserError(
            f"{command} is one process's work, and this launch has {_world_size()}: run it without a launcher"
        )


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1") or 1)
