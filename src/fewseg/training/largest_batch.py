"""How many episodes fit into memory at once: by trial on GPUs, by measuring and extrapolating on CPUs.

A GPU reports when it is full: batches are tried until one does not fit. On a CPU a process that asks for too much is
killed: there the peak memory of steps of one and of two episodes is measured in a process of its own, and extrapolated
linearly up to most of the free memory.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewseg.core.devices import choose_device
from fewseg.core.distributed import SINGLE_PROCESS
from fewseg.core.errors import InvalidOption
from fewseg.core.memory import PEAK_ENVIRONMENT, available_bytes, can_measure, give_back, peak_bytes
from fewseg.models.methods import FewShotMethod
from fewseg.training.batches import Batch, EpisodeImages, EpisodeMaps
from fewseg.training.config import TrainConfig
from fewseg.training.ema import WeightEMA
from fewseg.training.optim import Optimisers, make_optimiser
from fewseg.training.step import Gradient
from fewseg.training.train import make_method, place

MOST: Final = 1024
"""Largest batch that is tried."""

SHARE: Final = 0.8
"""Fraction of a CPU's free memory that training may take."""

_PROBES: Final = (1, 2)


@dataclass(frozen=True)
class LargestBatch:
    """What fits."""

    episodes: int
    """Of one process at a time; 0 where not even one fits."""
    device: str
    each: int | None = None
    """Bytes that an episode takes; None where it was found by trial."""
    fixed: int | None = None
    """Bytes that a step takes beside, gradients and the optimiser's state included."""
    available: int | None = None
    """Bytes that were free."""

    def __str__(self) -> str:
        """In words."""
        episodes = f"{self.episodes} episode{'s' * (self.episodes != 1)}"
        most = "at least " if self.episodes >= MOST else ""
        text = f"largest batch that fits on {self.device}: {most}{episodes}"
        if self.each is None or self.fixed is None or self.available is None:
            return text
        return (
            f"{text} (measured: {_mib(self.each)} an episode and {_mib(self.fixed)} beside; "
            f"{SHARE:.0%} of {_mib(self.available)} free)"
        )


def largest_batch(config: TrainConfig) -> LargestBatch:
    """The largest batch of a config whose steps fit, with the most shots that it names.

    Data are not read: images of noise take as much. Raises `InvalidOption` on devices whose memory cannot be
    measured.
    """
    device = choose_device(config.device)
    if not can_measure(device):
        raise InvalidOption(
            f"memory of {device.type} cannot be measured on this system: give --batch-size, and --grad-accum-steps to "
            "lower it"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    # What the weights are makes no difference, and nothing need be downloaded.
    config = dataclasses.replace(
        config, pretrained=False, backbone_weights=None, random_backbone=True, device=str(device), grad_accum_steps=1
    )
    if device.type == "cuda":
        return LargestBatch(search(Trial.prepare(config, device).fits), _name(device))
    first, second = step_peaks(config)
    each = max(1, second - first)
    fixed = max(0, first - each)
    available = available_bytes(device)
    assert available is not None  # where memory can be measured, the system says it
    readers = int(config.workers * config.cache_megabytes * 2**20 * len(config.data))
    room = SHARE * max(0, available - readers) - fixed
    return LargestBatch(min(MOST, max(0, int(room // each))), _name(device), each, fixed, available)


def search(fits: Callable[[int], bool]) -> int:
    """The largest number up to `MOST` that fits, where whatever is smaller than what fits does too."""
    least, most = 0, 1
    while most <= MOST and fits(most):
        least, most = most, 2 * most
    while most - least > 1 and least < MOST:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return min(least, MOST)


@dataclass(frozen=True)
class Trial:
    """All that a run holds while it trains, see `train.fit`."""

    config: TrainConfig
    method: FewShotMethod
    optimiser: Optimisers
    ema: WeightEMA | None

    @classmethod
    def prepare(cls, config: TrainConfig, device: torch.device) -> Trial:
        method = make_method(config).to(device)
        place(method, config)
        ema = WeightEMA(method, config.ema_decay) if config.ema_decay else None
        return cls(config, method, make_optimiser(method, config), ema)

    def step(self, episodes: int) -> None:
        """One update on noise."""
        cached = self.config.cached_views > 0
        batch = noise_batch(self.method, episodes, max(self.config.shots), cached=cached)
        Gradient(self.method, self.config, SINGLE_PROCESS)([batch], 0)
        self.optimiser.step()

    def fits(self, episodes: int) -> bool:
        """Whether a GPU has the memory for a batch of so many."""
        give_back()
        try:
            for _ in range(2):  # the second has the optimiser's state beside the gradients
                self.step(episodes)
            torch.cuda.synchronize(self.method.device)
        except torch.OutOfMemoryError:
            return False
        return True


def noise_batch(method: FewShotMethod, episodes: int, shots: int, *, cached: bool) -> Batch:
    """Episodes that share no image; as maps where features are cached."""
    side, supports = method.config.image_size, episodes * shots
    query_mask = torch.zeros(episodes, side, side, dtype=torch.long)
    query_mask[:, side // 4 : side // 2] = 1
    draw = torch.Generator().manual_seed(0)
    masks = torch.zeros(episodes, shots, side, side)
    masks[..., side // 3 : 2 * side // 3, :] = 1
    if not cached:
        images = torch.randn(episodes + supports, 3, side, side, generator=draw)
        rows = range(episodes + supports)
        return EpisodeImages(images, tuple(rows[:episodes]), tuple(rows[episodes:]), query_mask, masks)
    with torch.no_grad():
        one = [m.cpu() for m in method.backbone(torch.randn(1, 3, side, side, generator=draw).to(method.device))]

    def copies(count: int) -> list[Tensor]:
        return [m.repeat(count, 1, 1, 1) for m in one]

    return EpisodeMaps(copies(episodes), query_mask, copies(supports), masks)


def step_peaks(config: TrainConfig) -> list[int]:
    """Peaks of steps of `_PROBES` episodes, in bytes, in a process of its own."""
    spec = json.dumps({"config": config.to_json(), "threads": torch.get_num_threads()})
    command = [sys.executable, "-m", "fewseg.training.largest_batch", spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **PEAK_ENVIRONMENT})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = lines[-1].split(": ", 1)[-1]
        raise InvalidOption(
            f"a step of {_PROBES[-1]} episodes cannot be computed here ({reason}): give a smaller input"
        )
    peaks: list[int] = json.loads(done.stdout.strip().splitlines()[-1])
    return peaks


def _probe(text: str) -> None:
    """What the process of `step_peaks` does."""
    spec = json.loads(text)
    torch.set_num_threads(spec["threads"])
    config, device = TrainConfig.from_json(spec["config"]), torch.device("cpu")
    trial = Trial.prepare(config, device)
    peaks = []
    for episodes in _PROBES:
        trial.step(episodes)  # what torch sets up the first time does not count
        peaks.append(peak_bytes(functools.partial(trial.step, episodes), device))
    sys.stdout.write(json.dumps(peaks) + "\n")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU's memory"


def _mib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


if __name__ == "__main__":
    _probe(sys.argv[1])
