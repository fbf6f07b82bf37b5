"""The values that travel between the parts: episodes, encoded supports and queries, predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint, InvalidSupport
from fewseg.core.prediction import IGNORE, Prediction
from fewseg.core.tensor_files import read_tensors, write_tensors

__all__ = ["IGNORE", "Episode", "Prediction", "QueryFeatures", "SupportSet"]


@dataclass(frozen=True)
class Episode:
    """Which images make one few-shot task: names within a dataset, nothing loaded."""

    query: str
    support: tuple[str, ...]
    class_id: int
    """Index into the dataset's `classes`."""


@dataclass(frozen=True)
class EpisodeTensors:
    """One episode, or with a leading batch dimension several."""

    query: Tensor
    """(3, s, s), ImageNet-normalised."""
    query_mask: Tensor
    """(s, s), int64: 0, 1, 255 for pixels that do not count."""
    images: Tensor
    """(n, 3, s, s): the support images."""
    masks: Tensor
    """(n, s, s), float32: 1 foreground, 0 anything else, ignored pixels included."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeTensors:
        """A copy on `device`."""
        return EpisodeTensors(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def pin_memory(self) -> EpisodeTensors:
        """In page-locked memory; what a DataLoader calls."""
        return EpisodeTensors(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass(frozen=True)
class QueryFeatures:
    """Everything a method computes from query images alone; serves any number of support sets."""

    image_size: tuple[int, int]
    tensors: dict[str, Tensor]

    @property
    def batch(self) -> int:
        """Images that were encoded together."""
        return next(iter(self.tensors.values())).shape[0]


@dataclass(frozen=True)
class SupportSet:
    """Everything a method computes from the support alone, once, for any number of queries.

    Every tensor is (B, n, ...): episodes first, shots second, so that shots can be added and dropped.
    """

    method: str
    """Name of the method that encoded it."""
    image_size: tuple[int, int]
    tensors: dict[str, Tensor]
    encoder: str = ""
    """What encoded it, in a word: method, backbone and choices; only the same can use it."""
    shared: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """What a method derives from all shots together; recomputed on demand, never saved."""

    @property
    def batch(self) -> int:
        """Support sets that were encoded together."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def shots(self) -> int:
        """Support images of each."""
        return next(iter(self.tensors.values())).shape[1]

    def _map(self, change: Callable[[Tensor], Tensor]) -> SupportSet:
        return replace(self, tensors={k: change(v) for k, v in self.tensors.items()}, shared={})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SupportSet:
        """A copy on `device`, floating-point tensors as `dtype`."""
        return self._map(lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def select(self, shots: Sequence[int]) -> SupportSet:
        """The named shots only, in the given order.

        Raises `InvalidSupport` for a shot that is not there or when none would remain.
        """
        wrong = [i for i in shots if not -self.shots <= i < self.shots]
        if wrong or not shots:
            raise InvalidSupport(
                f"shots {list(shots)} of a support set with {self.shots}: choose from 0 to {self.shots - 1}"
            )
        return self._map(lambda t: t[:, torch.as_tensor([i % self.shots for i in shots], device=t.device)])

    def drop(self, shot: int) -> SupportSet:
        """All shots but one."""
        if not -self.shots <= shot < self.shots:
            raise InvalidSupport(f"no shot {shot}: the support set has {self.shots}")
        return self.select([i for i in range(self.shots) if i != shot % self.shots])

    @classmethod
    def concatenate(cls, sets: Sequence[SupportSet]) -> SupportSet:
        """All shots of several sets as one; they must come from the same method, batch and image size."""
        if not sets:
            raise InvalidSupport("no support sets to concatenate")
        first = sets[0]
        for other in sets[1:]:
            same = (other.encoder, other.image_size, other.batch) == (first.encoder, first.image_size, first.batch)
            if not same or other.tensors.keys() != first.tensors.keys():
                raise InvalidSupport(
                    f"cannot join a support set of {other.method} at {other.image_size}, batch {other.batch}, to one "
                    f"of {first.method} at {first.image_size}, batch {first.batch}: encode both with the same model"
                )
        return replace(first, tensors={k: torch.cat([s.tensors[k] for s in sets], 1) for k in first.tensors}, shared={})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file, atomically; holds no image. Raises `OutputError` when it cannot be written."""
        about = json.dumps({"method": self.method, "image_size": list(self.image_size), "encoder": self.encoder})
        write_tensors(path, self.tensors, {"fewseg.support": about})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SupportSet:
        """Read what `save` wrote; raises `InvalidCheckpoint` for any other file, and a damaged one."""
        tensors, metadata = read_tensors(path)
        try:
            about = json.loads(metadata["fewseg.support"])
            return cls(about["method"], tuple(about["image_size"]), tensors, about["encoder"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidCheckpoint(f"{os.fspath(path)} is not a saved support set: {error}") from error
