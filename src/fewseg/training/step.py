"""One step's gradient, from any number of micro-batches and processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewseg.core.distributed import Processes
from fewseg.core.types import IGNORE
from fewseg.models.methods import FewShotMethod
from fewseg.training.batches import Batch, encode
from fewseg.training.config import TrainConfig
from fewseg.training.losses import BatchTotals, choose_loss


def step_seed(seed: int, step: int, micro_batch: int = 0) -> int:
    """Seed of the dropout of a micro-batch: with it, no generator's state has to be saved."""
    return int(np.random.SeedSequence([seed, step, micro_batch] if micro_batch else [seed, step]).generate_state(1)[0])


@dataclass(frozen=True)
class Gradient:
    """Computes the gradient of a step's loss.

    Loss and gradient are those of the whole batch, whatever the number of micro-batches and processes, but for rounding
    and for dropout: every micro-batch has a seed of its own. Two processes of one micro-batch each give what one
    process of two gives, dropout included.
    """

    method: FewShotMethod
    config: TrainConfig
    processes: Processes

    def __call__(self, micro_batches: Sequence[Batch], step: int) -> tuple[float, float]:
        """Leaves the gradient, clipped, in the method's parameters; returns the loss and the norm before clipping.

        Args:
            micro_batches: of this process; none where the batch has fewer episodes than there are processes.
            step: number of the step, from 0.
        """
        self.method.train()
        parameters = list(self.method.trainable_parameters())
        for parameter in parameters:
            parameter.grad = None
        totals = self._totals(micro_batches)
        loss = torch.zeros((), device=self.method.device)
        for number, part in enumerate(micro_batches):
            torch.manual_seed(
                step_seed(self.config.seed, step, self.processes.rank * self.config.grad_accum_steps + number)
            )
            share = self._loss(part.to(self.method.device, non_blocking=True), totals)
            share.backward()
            loss += share.detach()
        if self.processes.count > 1:
            loss = _all_reduce(parameters, loss, self.processes)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_grad or math.inf)
        value, size = torch.stack([loss, norm]).tolist()
        return float(value), float(size)

    def _totals(self, micro_batches: Sequence[Batch]) -> BatchTotals:
        pixels = sum(int((part.query_mask != IGNORE).sum()) for part in micro_batches)
        episodes = sum(len(part.query_mask) for part in micro_batches)
        return BatchTotals(*map(int, self.processes.all_reduce(torch.tensor([pixels, episodes])).tolist()))

    def _loss(self, part: Batch, totals: BatchTotals) -> Tensor:
        """The micro-batch's share of the batch's loss."""
        method, config = self.method, self.config
        with torch.autocast(method.device.type, torch.bfloat16, enabled=config.amp):
            query, support = encode(method, part)
            logits = method.segment(query, support)
            extra = method.regulariser(query, support, logits)
        loss = choose_loss(config.loss)(logits, part.query_mask, totals)
        # The hook's term is a mean over episodes.
        return loss if extra is None else loss + extra * (len(part.query_mask) / totals.episodes)


def _all_reduce(parameters: Sequence[Tensor], loss: Tensor, processes: Processes) -> Tensor:
    """Sum the gradients over all processes, in one message with the loss, which is returned.

    By hand instead of by `DistributedDataParallel`, which takes means over processes and one backward pass a step;
    beside a frozen backbone there is little to send. A parameter that no process used keeps no gradient, so that weight
    decay leaves it alone as in one process.
    """
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=loss.device)
    own = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    message = processes.all_reduce(torch.cat([loss.reshape(1), used, *own]))
    head, rest = message[: 1 + len(parameters)], message[1 + len(parameters) :]
    for parameter, users, values in zip(
        parameters, head[1:].tolist(), rest.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = values.view_as(parameter) if users else None
    return head[0]
