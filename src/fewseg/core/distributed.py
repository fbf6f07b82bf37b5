"""Several processes at one task, as `torchrun` starts them; a process started plainly is alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import Tensor, distributed

from fewseg.core.devices import choose_device
from fewseg.core.errors import InvalidOption

_T = TypeVar("_T")

_PATIENCE: Final = timedelta(hours=6)
"""How long processes wait for one another: one of them may have much to compute or write alone."""


@dataclass(frozen=True)
class Processes:
    """Which of the processes this one is, and what they do together; every call is free where it is alone."""

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"
    """Where this process computes, and where what travels between processes has to lie."""

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's part of items that are divided among all, every `count`-th."""
        return items[self.rank :: self.count]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same to the last bit in each of them; on the device of `values`."""
        if self.count == 1:
            return values
        moved = values.detach().to(self.device, copy=True)
        distributed.all_reduce(moved)
        return moved.to(values.device)

    def follow_main(self, values: Sequence[Tensor]) -> None:
        """Overwrite tensors with the main process's."""
        for value in values if self.count > 1 else ():
            moved = value.detach().to(self.device).contiguous()
            distributed.broadcast(moved, 0)
            value.detach().copy_(moved)

    def wait(self) -> None:
        """Until every process has come here: what the others wrote before can be read after."""
        self.total(torch.zeros(1))


SINGLE_PROCESS: Final = Processes()
"""One process that computes on the CPU."""


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """The processes that `torchrun` started together, connected by gloo on CPUs and nccl on NVIDIA GPUs.

    Args:
        device: as `choose_device` takes it; every process of a machine gets a GPU of its own.

    Raises:
        InvalidOption: there is no such device, or no GPU for every process.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if count == 1 or "MASTER_ADDR" not in os.environ:
        yield Processes(device=choose_device(device))
        return
    chosen = _own_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def _own_device(name: str) -> torch.device:
    device, local = choose_device(name), int(os.environ.get("LOCAL_RANK", 0))
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise InvalidOption(f"device {name} for several processes: give cuda, so that each gets a GPU of its own")
    there = torch.cuda.device_count()
    if local >= there:
        raise InvalidOption(f"process {local} of this machine has no GPU ({there} here): start at most {there}")
    return torch.device("cuda", local)
