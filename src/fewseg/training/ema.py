"""Exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch

from fewseg.models.methods import FewShotMethod


class WeightEMA:
    """A copy of a method whose trained weights are the moving average of the method's.

    Args:
        method: the method that is trained.
        decay: weight of the old average in each step; smaller in the first steps, so that the start is forgotten.
    """

    def __init__(self, method: FewShotMethod, decay: float) -> None:
        self.method = copy.deepcopy(method).requires_grad_(False).eval()
        self._decay = decay
        averaged = dict(self.method.named_parameters())
        self._pairs = [(averaged[name], p) for name, p in method.named_parameters() if p.requires_grad]
        copied = dict(self.method.named_buffers())
        self._buffers = [(copied[name], b) for name, b in method.named_buffers()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after step number `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([mean for mean, _ in self._pairs], [new for _, new in self._pairs], 1 - decay)
        for old, new in self._buffers:  # running statistics and the like: as they are now
            old.copy_(new)
