"""Baseline implementation of DCAMA with the light decoder: see `fewseg_bench.baseline`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama_light.method import DCAMALight
from fewseg_bench.baseline import BaselineDCAMA, Block, bilinear

EPS = 1e-6


def baseline_dcama(
    method: MaskAggregation, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> BaselineDCAMA:
    """The baseline implementation of DCAMA, with the paper's decoder or the light one."""
    kind = BaselineDCAMALight if isinstance(method, DCAMALight) else BaselineDCAMA
    return kind(method, device, dtype)


class BaselineDCAMALight(BaselineDCAMA):
    """The light decoder, its refinement steps, boundary refinement and calibration."""

    def _decode(
        self,
        aggregated: dict[int, Tensor],
        blocks: list[Block],
        query: list[Tensor],
        support: list[Tensor],
        masks: Tensor,
        images: Tensor | None,
    ) -> Tensor:
        edge, *contexts = sorted(self.skip_scales)
        skips = {s: self._conv(f"decoder.project.{s}", query[self.last[s]]) for s in self.skip_scales}
        work, fine = skips[contexts[0]].shape[-2:], skips[edge].shape[-2:]
        prototypes = [_foreground_prototype(block, masks) for block in blocks]
        inputs = self._inputs(aggregated, blocks, prototypes, work)
        small = [bilinear(skips[s], work) for s in contexts]
        logit = self._first_logit(inputs, small, skips[edge], fine)
        for _ in range(self.config.refinement_steps):
            logit = logit + self._refinement(logit, aggregated, blocks, small)
        if self.training:
            return bilinear(torch.cat([-logit, logit], 1) / 2, masks.shape[-2:])
        logit = self._calibrated(self._refined_boundary(logit, images, work), blocks, prototypes)
        return bilinear(torch.cat([-logit, logit], 1), masks.shape[-2:])

    def _inputs(
        self, aggregated: dict[int, Tensor], blocks: list[Block], prototypes: list[Tensor], work: torch.Size
    ) -> Tensor:
        """The decoder's inputs: log-odds of the aggregated masks and two similarities, per block (B, C, h, w)."""
        nearer: dict[int, list[Tensor]] = {}
        similar: dict[int, list[Tensor]] = {}
        for (_, scale), block, prototype, base in self._with_base(blocks, prototypes):
            nearer.setdefault(scale, []).append(_nearer_to_foreground(*block))
            tokens = _similarity(F.normalize(block[0], dim=-1, eps=EPS), prototype, base)
            similar.setdefault(scale, []).append(tokens.unflatten(1, block[3]))
        inputs = []
        for scale in sorted(self.scales):
            odds = torch.logit(aggregated[scale].float(), eps=0.0025).to(self.dtype)
            of_scale = [odds, 10 * torch.stack(nearer[scale], 1), torch.stack(similar[scale], 1)]
            inputs.append(bilinear(torch.cat(of_scale, 1), work))
        return torch.cat(inputs, 1)

    def _with_base(
        self, blocks: list[Block], prototypes: list[Tensor]
    ) -> list[tuple[tuple[int, int], Block, Tensor, Tensor]]:
        """Every attended block with the support's foreground prototype and the base classes'."""
        base = self.weights["calibration.base_prototype"].split([block[0].shape[-1] for block in blocks])
        return list(zip(self.attended, blocks, prototypes, base, strict=True))

    def _first_logit(self, inputs: Tensor, small: list[Tensor], edges: Tensor, fine: torch.Size) -> Tensor:
        """The logit (B, 1, h, w) before any refinement step."""
        linear = (inputs * self.weights["decoder.gain"].view(1, -1, 1, 1)).sum(1, keepdim=True)
        linear = linear + self.weights["decoder.bias"]
        context = self._conv("decoder.context", torch.cat(small, 1))
        x = F.relu(self._norm("decoder.norm", self._conv("decoder.inputs", inputs) + context))
        for number, dilation in enumerate((1, 2, 4)):
            name = f"decoder.residuals.{number}"
            y = F.relu(self._norm(f"{name}.norm1", self._conv(f"{name}.conv1", x, dilation)))
            x = F.relu(x + self._norm(f"{name}.norm2", self._conv(f"{name}.conv2", y)))
        x = self._conv("decoder.refine", bilinear(self._conv("decoder.narrow", x), fine))
        x = F.relu(self._conv("decoder.mix", F.relu(x + self._conv("decoder.refine_edges", edges))))
        return self._conv("decoder.correction", x) + bilinear(linear, fine)

    def _refinement(
        self, logit: Tensor, aggregated: dict[int, Tensor], blocks: list[Block], small: list[Tensor]
    ) -> Tensor:
        """What a refinement step adds to the logit (B, 1, h, w)."""
        context = torch.cat(small, 1)
        work = (context.shape[-2], context.shape[-1])
        own, odds = [], []
        for scale in sorted(self.scales):
            for block in (b for b, (_, attended) in zip(blocks, self.attended, strict=True) if attended == scale):
                tokens = F.normalize(block[0], dim=-1, eps=EPS)
                inside, outside = ((tokens * mean.unsqueeze(1)).sum(-1) for mean in _query_prototypes(logit, block))
                own.append(bilinear(10 * (inside - outside).unflatten(1, block[3]).unsqueeze(1), work))
            odds.append(bilinear(torch.logit(aggregated[scale].float(), eps=0.0025).to(self.dtype), work))
        inputs = torch.cat([*own, *odds, bilinear(logit, work).clamp(-8, 8)], 1)
        x = self._conv("decoder.refinement.inputs", inputs) + self._conv("decoder.refinement.context", context)
        x = F.relu(self._norm("decoder.refinement.norm", x))
        x = self._conv("decoder.refinement.correction", F.relu(self._conv("decoder.refinement.conv", x, 2)))
        return bilinear(x, logit.shape[-2:])

    def _refined_boundary(self, logit: Tensor, images: Tensor | None, work: torch.Size) -> Tensor:
        """The logit with its offset, along the image's edges where the images are given."""
        start, slope = self.weights["calibration.logit_offset"]
        largest = logit.flatten(1).sort(descending=True).values
        top = largest[:, : max(1, round(0.01 * largest.shape[1]))].mean(1)
        logit = logit + (slope * (start - top)).clamp(0, 4)[:, None, None, None]
        if not self.config.boundary_refinement or images is None:
            return logit
        return _along_edges(logit.float(), images.float(), work).to(self.dtype)

    def _calibrated(self, logit: Tensor, blocks: list[Block], prototypes: list[Tensor]) -> Tensor:
        """Half the logit, tempered by how similar the predicted foreground is to the support's."""
        similarities = []
        for (_, scale), block, prototype, base in self._with_base(blocks, prototypes):
            if scale == max(self.scales):
                inside, _ = _query_prototypes(logit, block)
                similarities.append(_similarity(inside.unsqueeze(1), prototype, base))
        similarity = torch.cat(similarities, 1).mean(1)
        far, near = (
            (c + slope * similarity)[:, None, None, None] for c, slope in self.weights["calibration.temperature"]
        )
        padded = F.pad(torch.sigmoid(logit), (2, 2, 2, 2))
        beside = padded.unfold(2, 5, 1).unfold(3, 5, 1).amax((-2, -1))
        return logit * torch.exp((far * (1 - beside) + near * beside).clamp(-5, 5)) / 2


def _along_edges(logit: Tensor, images: Tensor, work: torch.Size) -> Tensor:
    """Logits (B, 1, h, w) from -2 to 2 as local linear functions of colour: a ridge regression for every window."""
    fine = _shrink(images, logit.shape[-2:])
    coarse = _shrink(fine, work)
    wanted = _shrink(logit.clamp(-2, 2), work)
    ones = torch.ones_like(wanted)
    windows = F.unfold(torch.cat([coarse, ones, wanted], 1), 7, padding=3).unflatten(1, (5, 49)).movedim(-1, 1)
    left = windows[:, :, :4]  # (B, places, 4, 49): colours and a one, all zero outside of the image
    count = left[:, :, 3:].sum(-1, keepdim=True)
    ridge = 0.003 * count * torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], device=logit.device))
    fitted = torch.linalg.solve(left @ left.mT + ridge, left @ windows[:, :, 4, :, None])
    maps = fitted[..., 0].mT.unflatten(2, work)
    around = F.unfold(torch.cat([maps, ones], 1), 7, padding=3).unflatten(1, (5, 49)).sum(2).unflatten(2, work)
    mean = bilinear(around[:, :4] / around[:, 4:], logit.shape[-2:])
    return logit - logit.clamp(-2, 2) + (mean[:, :3] * fine).sum(1, keepdim=True) + mean[:, 3:]


def _shrink(x: Tensor, size: torch.Size) -> Tensor:
    height, width = (max(1, large // small) for large, small in zip(x.shape[-2:], size, strict=True))
    return bilinear(F.avg_pool2d(x, (height, width)), size)


def _query_prototypes(logit: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Unit-length means (B, C) of a block's query tokens inside the predicted foreground (B, 1, h, w), and outside."""
    inside = _shrink(torch.sigmoid(logit), torch.Size(block[3])).flatten(1).unsqueeze(-1)
    tokens = F.normalize(block[0], dim=-1, eps=EPS)
    means = (((side / side.amax(1, keepdim=True)) ** 2 * tokens).sum(1) for side in (inside, 1 - inside))
    foreground, background = (F.normalize(mean, dim=-1, eps=EPS) for mean in means)
    return foreground, background


def _foreground_prototype(block: Block, masks: Tensor) -> Tensor:
    """Unit-length mean (B, 1, C) of a block's keys inside the support's masks (B, n, H, W)."""
    keys = block[1].unflatten(1, (masks.shape[1], -1)).flatten(0, 1)
    inside = _shrink((masks == 1).to(keys.dtype).flatten(0, 1).unsqueeze(1), torch.Size(block[3]))
    sums = (inside.flatten(1).unsqueeze(-1) ** 2 * keys).sum(1).unflatten(0, masks.shape[:2]).sum(1)
    return F.normalize(sums, dim=-1, eps=EPS).unsqueeze(1)


def _similarity(tokens: Tensor, prototype: Tensor, base: Tensor) -> Tensor:
    """Similarity (B, N) of tokens (B, N, C) to a prototype (B, 1, C), beyond that of both to the base classes' (C)."""
    return 10 * ((tokens * prototype).sum(-1) - ((tokens * base).sum(-1) + (prototype * base).sum(-1)) / 2)


def _nearer_to_foreground(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """Similarity of query tokens to the support's foreground minus that to its background (B, h, w)."""
    ahead, behind = (F.normalize((key * side.unsqueeze(-1)).sum(1), dim=-1) for side in value.unbind(-1))
    unit = F.normalize(query, dim=-1)
    return ((unit * ahead.unsqueeze(1)).sum(-1) - (unit * behind.unsqueeze(1)).sum(-1)).unflatten(1, size)
