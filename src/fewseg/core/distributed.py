"""torch.distributed: the processes that `torchrun` started, or a single one."""

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

_TIMEOUT: Final = timedelta(hours=6)
"""Longest time that processes wait for one another: one of them may have much to compute or write alone."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process, number of processes, and their collective operations, free with one process."""

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"
    """Where this process computes, and where tensors that are exchanged have to lie."""

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    def shard(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's shard of the items: every `count`-th."""
        return items[self.rank :: self.count]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same to the last bit in each of them; on the device of `values`."""
        if self.count == 1:
            return values
        moved = values.detach().to(self.device, copy=True)
        distributed.all_reduce(moved)
        return moved.to(values.device)

    def broadcast(self, values: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        for value in values if self.count > 1 else ():
            moved = value.detach().to(self.device).contiguous()
            distributed.broadcast(moved, 0)
            value.detach().copy_(moved)

    def barrier(self) -> None:
        """Wait for every process: files that others wrote before can be read after."""
        self.all_reduce(torch.zeros(1))


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
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_TIMEOUT)
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
