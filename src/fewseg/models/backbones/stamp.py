"""Whether a network's weights are still those that something was derived from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class WeightsStamp:
    """A network's tensors, as they were when something was derived from them."""

    tensors: tuple[tuple[Tensor, Tensor, int], ...]
    """Each parameter and buffer: itself, a view that keeps its memory from being given to others, and how often it
    had been changed in place."""

    @classmethod
    def of(cls, net: nn.Module) -> WeightsStamp | None:
        """The stamp of today's weights; None for inference tensors, on which changes in place leave no trace."""
        tensors = [*net.parameters(), *net.buffers()]
        if any(t.is_inference() for t in tensors):
            return None
        return cls(tuple((t, t.detach(), t._version) for t in tensors))

    def holds(self, net: nn.Module) -> bool:
        """Whether `net` has the same weights, on the same device and in the same dtype."""
        tensors = [*net.parameters(), *net.buffers()]
        return len(tensors) == len(self.tensors) and all(
            t is before
            and not t.is_inference()
            and t.data_ptr() == view.data_ptr()
            and t._version == version
            and t.dtype == view.dtype
            for t, (before, view, version) in zip(tensors, self.tensors, strict=True)
        )
