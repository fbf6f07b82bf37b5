"""How files are segmented: what is written, and how a machine or a cluster is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fewseg.core.errors import InvalidOption, unknown

Engine = Literal["threads", "ray"]
"""`threads` on this machine, or `ray` on one machine or many."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How files are segmented."""

    overlays: bool = True
    """Also draw the masks on the images."""
    overwrite: bool = False
    """Do images again that are finished already."""
    batch_size: int = 0
    """Images that go through the model together; 0 chooses: 8 on a GPU, 1 else."""
    workers: int = 0
    """Threads that read, and threads that write; 0 chooses: one a core, at most 4, with a GPU at most 16."""
    model_threads: int = 0
    """Threads of one run of the model on a CPU; with fewer than there are cores, several images run at a time.
    0 chooses: one, an image on every core, to the bit what `Segmenter.segment` computes with one thread of torch;
    with fewer than two images a core, all of torch's, one image at a time."""
    engine: Engine = "threads"
    """`threads` on this machine, or `ray` on one machine or many."""
    ray_address: str | None = None
    """A running Ray cluster: auto, host:port; starts Ray on this machine if not given."""
    ray_workers: int = 0
    """Worker processes of Ray, each with a model; 0: as many as the cluster holds."""
    ray_cpus: int = 0
    """Cores of each Ray worker; 0 chooses: all that torch uses here, or 4 beside a GPU."""
    ray_gpus: float = -1.0
    """GPUs of each Ray worker, e.g. 1, or 0.5 for two workers a GPU; -1 chooses: 1 if the device is a GPU, else 0."""

    def check(self) -> None:
        """Raise `InvalidOption` for an impossible value."""
        if self.batch_size < 0 or self.workers < 0 or self.model_threads < 0:
            raise InvalidOption(
                f"batch size {self.batch_size}, workers {self.workers}, model threads {self.model_threads}: "
                "0 chooses, or give 1 or more"
            )
        if self.engine not in get_args(Engine):
            raise unknown("engine", self.engine, get_args(Engine))
        if self.ray_workers < 0 or self.ray_cpus < 0:
            raise InvalidOption(
                f"{self.ray_workers} Ray workers with {self.ray_cpus} cores each: 0 chooses, or give 1 or more"
            )
        whole = self.ray_gpus == int(self.ray_gpus) if abs(self.ray_gpus) < 1e6 else False
        if self.ray_gpus != -1 and not (0 <= self.ray_gpus < 1 or (whole and self.ray_gpus >= 1)):
            raise InvalidOption(f"{self.ray_gpus:g} GPUs for each Ray worker: give a part of one, or a whole number")
