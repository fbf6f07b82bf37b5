"""The light decoder (ours): for little data and small machines.

Input, per backbone block, three maps on a log-odds scale: the class-balanced aggregated mask; similarity to the
support's foreground prototype minus similarity to its background prototype; and similarity to the foreground prototype
centred by the base classes' mean prototype, so that pixels unlike both are assigned to neither. The logits are a learnt
weighted sum of these maps, a usable mask before training, plus a learnt correction. No support map enters, so the cost
does not grow with the number of shots, and no attention finer than the working size is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.models.methods.dcama_light.prototypes import INPUTS_PER_BLOCK
from fewseg.models.methods.dcama_light.refinement import RefinementStep
from fewseg.models.ops.resize import map_size, resize

WIDTH, EDGE_WIDTH, SKIP_WIDTH = 64, 32, 16
"""Channels of the correction, of its refinement at the finest skip scale, and of a projected skip map."""

DILATIONS = (1, 2, 4)
"""Dilation of the first convolution of each residual block: together they see 15 positions to every side."""

FIRST_GAINS = (0.5, 0.5, 0.0)
"""Initial weights of the three kinds of input: how similar is similar enough has to be learnt first."""


class Residual(nn.Module):
    """Two normalised convolutions around a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm1 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class LightDecoder(nn.Module):
    """Inputs of all attention scales and the query's skip maps to logits.

    The finest skip map joins last, at its own size; the correction works at the size of the next one.
    """

    def __init__(self, blocks: Mapping[int, int], skips: Mapping[int, int], refinement_steps: int = 0) -> None:
        """`blocks`: attention scale to number of blocks; `skips`: skip scale to channels, two scales at least."""
        super().__init__()
        self.scales = sorted(blocks)
        self.edge, *self.contexts = sorted(skips)
        count = sum(blocks.values())
        self.project = nn.ModuleDict({str(s): nn.Conv2d(c, SKIP_WIDTH, 1) for s, c in skips.items()})
        self.inputs = nn.Conv2d(INPUTS_PER_BLOCK * count, WIDTH, 3, padding=1)
        self.context = nn.Conv2d(SKIP_WIDTH * len(self.contexts), WIDTH, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.residuals = nn.Sequential(*(Residual(WIDTH, dilation) for dilation in DILATIONS))
        self.narrow = nn.Conv2d(WIDTH, EDGE_WIDTH, 1)
        self.refine = nn.Conv2d(EDGE_WIDTH, EDGE_WIDTH, 3, padding=1)
        self.refine_edges = nn.Conv2d(SKIP_WIDTH, EDGE_WIDTH, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(EDGE_WIDTH, EDGE_WIDTH, 3, padding=1)
        self.correction = nn.Conv2d(EDGE_WIDTH, 1, 3, padding=1)
        gains = [torch.tensor(FIRST_GAINS).repeat_interleave(blocks[scale]) for scale in self.scales]
        self.gain = nn.Parameter(torch.cat(gains) / count)
        self.bias = nn.Parameter(torch.zeros(()))
        self.refinement_steps = refinement_steps
        self.refinement = RefinementStep(count, SKIP_WIDTH * len(self.contexts)) if refinement_steps else None

    def query_share(self, skips: Mapping[int, Tensor]) -> list[Tensor]:
        """The part of the decoder that depends on the query's maps alone, for any number of labels.

        One map at the finest skip scale, one at the working size, and one there for the refinement steps, if any.
        """
        size = map_size(skips[self.contexts[0]])
        projected = torch.cat([resize(self.project[str(s)](skips[s]), size) for s in self.contexts], 1)
        edges = self.refine_edges(self.project[str(self.edge)](skips[self.edge]))
        again = [] if self.refinement is None else [self.refinement.context(projected)]
        return [edges, self.context(projected), *again]

    def forward(
        self,
        inputs: Mapping[int, Tensor],
        share: Sequence[Tensor],
        tokens: Mapping[int, Sequence[Tensor]],
        labels: int = 1,
    ) -> Tensor:
        """Foreground logits (B * L, 1, h, w) at the finest skip scale, labels innermost, not yet calibrated.

        Args:
            inputs: (B * L, INPUTS_PER_BLOCK * blocks, h, w) of each attention scale.
            share: the maps of `query_share`, repeated for the labels.
            tokens: (B, h, w, C) of unit length of every block of each attention scale.
            labels: L.
        """
        edge_share, context, *again = share
        work, fine = map_size(context), map_size(edge_share)
        scales = [resize(inputs[s], work) for s in self.scales]
        stacked = torch.cat(scales, 1)
        weighted = (stacked * self.gain.view(1, -1, 1, 1)).sum(1, keepdim=True) + self.bias
        x = self.residuals(F.relu(self.norm(self.inputs(stacked) + context)))
        x = F.relu(self.refine(resize(self.narrow(x), fine)) + edge_share)
        logit: Tensor = self.correction(F.relu(self.mix(x))) + resize(weighted, fine)
        if self.refinement is not None:
            odds = torch.cat([scale[:, : scale.shape[1] // INPUTS_PER_BLOCK] for scale in scales], 1)
            for _ in range(self.refinement_steps):
                logit = self.refinement(logit, odds, again[0], tokens, labels)
        return logit
