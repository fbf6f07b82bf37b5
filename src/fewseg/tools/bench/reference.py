"""DCAMA the straightforward way: as the paper describes it, with torch's own operations, from the same weights.

Written against the names of the weights alone, and apart from `fewseg.models.methods`, so that it tests what it is
compared with. Nothing is kept between queries and the scores of all query and support tokens are materialised; nothing
is done worse than those operations allow: position codes are computed once, blocks of weights are used as they lie."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.methods.dcama_light.method import DCAMALight
from fewseg.models.ops.position import position_encoding

NORMALISERS = 4
"""Groups of the decoder's group norm."""


def _resize(x: Tensor, size: Any) -> Tensor:
    size = tuple(size)
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=True)


Block: TypeAlias = tuple[Tensor, Tensor, Tensor, tuple[int, int]]
"""Of a block of the backbone: queries (B, Nq, C), keys (B, nN, C), values (B, nN, V) and the map's size."""


def plain_maps(backbone: FeaturePyramid, images: Tensor) -> list[Tensor]:
    """A frozen backbone's maps by its own layers as they are published: nothing folded, rearranged or compiled."""
    images = images * backbone.gain + backbone.shift
    if backbone.fixed_size is not None:
        images = F.interpolate(images, (backbone.fixed_size,) * 2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        return backbone.features(images)


def plain_aggregation(query: Tensor, key: Tensor, values: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """softmax(Q Kᵀ) V, mean over the heads: (B, Nq, C), (B, Nk, C), (B, Nk, V) to (B, Nq, V); queries are scaled."""
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return (weights @ values.unsqueeze(1)).mean(1)


class PlainDCAMA:
    """The same network from a method's weights, which are copied.

    Raises `InvalidOption` for a support that is cut to a budget: that is no part of the straightforward way.
    """

    def __init__(
        self, method: MaskAggregation, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.config: Any = method.config
        self.light, self.class_balanced = isinstance(method, DCAMALight), method.class_balanced
        if self.config.support_pixel_budget or (isinstance(method, DCAMA) and not method.config.use_background):
            raise InvalidOption("the straightforward way uses all support tokens: leave out support_pixel_budget")
        self.backbone = copy.deepcopy(method.backbone).to(device, dtype)
        self.blocks = self.backbone.blocks
        self.weights = {
            name: value.detach().clone().to(device, dtype)
            for name, value in method.state_dict().items()
            if not name.startswith("backbone.")
        }
        self.learnt = [name for name, _ in method.named_parameters() if name in self.weights]
        self.device, self.dtype, self.training = torch.device(device), dtype, False
        have = {block.scale for block in self.blocks}
        self.scales = sorted(set(self.config.attention_scales) & have, reverse=True)
        self.skip_scales = sorted(set(self.config.skip_scales) & have, reverse=True)
        self.attended = [(i, b.scale) for i, b in enumerate(self.blocks) if b.scale in self.scales]
        self.last = {b.scale: i for i, b in enumerate(self.blocks)}

    def trainable(self) -> list[Tensor]:
        """The weights, with gradients switched on, and dropout too: what a training loop gives its optimiser."""
        self.training = True
        return [self.weights[name].requires_grad_() for name in self.learnt]

    def __call__(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of queries (B, 3, H, W) with supports (B, n, 3, H, W) and (B, n, H, W)."""
        seen, images = query.to(self.device, self.dtype), images.to(self.device, self.dtype)
        return self.head(self.maps(seen), self.maps(images.flatten(0, 1)), masks.to(self.device), query.to(self.device))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of (B, 3, H, W)."""
        return plain_maps(self.backbone, images)

    def head(self, query: list[Tensor], support: list[Tensor], masks: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits from the backbone's maps: the queries' (B, C, h, w), the supports' (B * n, C, h, w).

        Outlines follow edges, where the method does that, if the queries' images (B, 3, H, W) are given too.
        """
        votes: dict[int, list[Tensor]] = {}
        blocks = self.projected(query, support, masks)
        for (_, scale), vote in zip(self.attended, self.aggregate(blocks), strict=True):
            votes.setdefault(scale, []).append(vote)
        stacked = {s: torch.stack(v, 1) for s, v in votes.items()}
        if self.light:
            return self._decode_lightly(stacked, query, blocks, masks, images)
        return self._decode(stacked, query, support, masks)

    # --------------------------------------------------------------------------------------------- attention

    def projected(self, query: list[Tensor], support: list[Tensor], masks: Tensor) -> list[Block]:
        """Of every attended block what `Block` says."""
        b, n = masks.shape[:2]
        foreground = (masks == 1).to(self.dtype).flatten(0, 1).unsqueeze(1)
        found = []
        for index, scale in self.attended:
            q = self._project("query", query[index], scale, scaled=True)
            k = self._project("support", support[index], scale, scaled=False)
            value = _resize(foreground, support[index].shape[-2:]).reshape(b, -1, 1)
            if self.class_balanced:
                value = torch.cat([value, 1 - value], -1)
            size = (query[index].shape[-2], query[index].shape[-1])
            found.append((q, k.unflatten(0, (b, n)).flatten(1, 2), value, size))
        return found

    def aggregate(self, blocks: list[Block]) -> list[Tensor]:
        """The vote (B, h, w) of every block."""
        votes = []
        for q, k, value, size in blocks:
            dropout = self.config.dropout if self.training else 0.0
            shares = plain_aggregation(q, k, value, self.config.heads, dropout)
            votes.append(self._vote(shares, value).unflatten(1, size))
        return votes

    def _vote(self, shares: Tensor, sides: Tensor) -> Tensor:
        if not self.class_balanced:
            return shares.squeeze(-1)
        ahead, behind = (shares.float() / (sides.float().sum(1, keepdim=True) + 1e-4)).unbind(-1)
        return ((ahead + 1e-8) / (ahead + behind + 2e-8)).to(shares.dtype)

    def _project(self, side: str, feature_map: Tensor, scale: int, *, scaled: bool) -> Tensor:
        tokens = feature_map.flatten(2).transpose(1, 2)
        width = tokens.shape[-1]
        if self.config.position_weight:
            codes = position_encoding(tokens.shape[1], width, tokens.device, tokens.dtype)
            tokens = tokens + self.config.position_weight * codes
        tokens = F.dropout(tokens, self.config.dropout, self.training)
        name, heads = f"attention.{scale}.{side}.{width}", self.config.heads
        x = F.linear(tokens, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        if self.config.attention == "dot":
            return x * (x.shape[-1] // heads) ** -0.5 if scaled else x
        x = F.normalize(x.unflatten(-1, (heads, -1)), dim=-1, eps=1e-6)
        if scaled:
            x = x * self.weights[f"attention.{scale}.temperature"].exp().unsqueeze(-1)
        return x.flatten(-2)

    # ----------------------------------------------------------------------------------------------- decoder

    def _decode(self, votes: dict[int, Tensor], query: list[Tensor], support: list[Tensor], masks: Tensor) -> Tensor:
        x = self._block(f"decoder.vote.{self.scales[0]}", votes[self.scales[0]])
        for scale in self.scales[1:]:
            finer = self._block(f"decoder.vote.{scale}", votes[scale])
            x = self._block(f"decoder.merge.{scale}", _resize(x, finer.shape[-2:]) + finer)
        for scale in self.skip_scales:
            maps = [query[self.last[scale]]]
            if self.config.skip_support:
                shots = support[self.last[scale]].unflatten(0, masks.shape[:2])
                maps.append(shots.amax(1).expand_as(maps[0]))
            if maps[0].shape[-1] >= x.shape[-1]:
                x = torch.cat([_resize(x, maps[0].shape[-2:]), *maps], 1)
            else:
                x = torch.cat([x, *(_resize(m, x.shape[-2:]) for m in maps)], 1)
        if 4 not in self.skip_scales:
            height, width = votes[self.scales[-1]].shape[-2:]
            x = _resize(x, (2 * height, 2 * width))
        if self.class_balanced:
            odds = [torch.logit(votes[s].float(), eps=0.01).to(self.dtype) for s in self.scales]
            x = torch.cat([x, *(_resize(o, x.shape[-2:]) for o in odds)], 1)
        mix = x.shape[-2:]
        x = F.relu(self._conv("decoder.mixer1.2", F.relu(self._conv("decoder.mixer1.0", x))))
        x = _resize(x, (2 * mix[0], 2 * mix[1]))
        x = F.relu(self._conv("decoder.mixer2.2", F.relu(self._conv("decoder.mixer2.0", x))))
        x = _resize(x, (4 * mix[0], 4 * mix[1]))
        x = self._conv("decoder.mixer3.2", F.relu(self._conv("decoder.mixer3.0", x)))
        return _resize(x, masks.shape[-2:])

    def _decode_lightly(
        self,
        votes: dict[int, Tensor],
        query: list[Tensor],
        blocks: list[Block],
        masks: Tensor,
        images: Tensor | None,
    ) -> Tensor:
        edge, *contexts = sorted(self.skip_scales)
        skips = {s: self._conv(f"decoder.project.{s}", query[self.last[s]]) for s in self.skip_scales}
        work, fine = skips[contexts[0]].shape[-2:], skips[edge].shape[-2:]
        similar: dict[int, list[Tensor]] = {}
        alike: dict[int, list[Tensor]] = {}
        usual = self.weights["calibration.base_prototype"].split([block[0].shape[-1] for block in blocks])
        things = [_thing(block, masks) for block in blocks]
        for (_, scale), block, thing, common in zip(self.attended, blocks, things, usual, strict=True):
            similar.setdefault(scale, []).append(_similarity(*block))
            near = _alike(F.normalize(block[0], dim=-1, eps=1e-6), thing, common)
            alike.setdefault(scale, []).append(near.unflatten(1, block[3]))
        seen = []
        for scale in sorted(self.scales):
            odds = torch.logit(votes[scale].float(), eps=0.0025).to(self.dtype)
            kinds = [odds, 10 * torch.stack(similar[scale], 1), torch.stack(alike[scale], 1)]
            seen.append(_resize(torch.cat(kinds, 1), work))
        x = torch.cat(seen, 1)
        sure = (x * self.weights["decoder.gain"].view(1, -1, 1, 1)).sum(1, keepdim=True) + self.weights["decoder.bias"]
        context = self._conv("decoder.context", torch.cat([_resize(skips[s], work) for s in contexts], 1))
        x = F.relu(self._norm("decoder.norm", self._conv("decoder.inputs", x) + context))
        for number, dilation in enumerate((1, 2, 4)):
            name = f"decoder.residuals.{number}"
            y = F.relu(self._norm(f"{name}.norm1", self._conv(f"{name}.conv1", x, dilation)))
            x = F.relu(x + self._norm(f"{name}.norm2", self._conv(f"{name}.conv2", y)))
        x = self._conv("decoder.refine", _resize(self._conv("decoder.narrow", x), fine))
        x = F.relu(self._conv("decoder.mix", F.relu(x + self._conv("decoder.refine_edges", skips[edge]))))
        logit = self._conv("decoder.correction", x) + _resize(sure, fine)
        for _ in range(self.config.refinement_steps):
            logit = logit + self._refinement(logit, votes, blocks, [_resize(skips[s], work) for s in contexts])
        if self.training:
            return _resize(torch.cat([-logit, logit], 1) / 2, masks.shape[-2:])
        logit = self._outlined(logit, images, work)
        likenesses = []
        for (_, scale), block, thing, common in zip(self.attended, blocks, things, usual, strict=True):
            if scale == max(self.scales):
                mean, _ = _side_means(logit, block)
                likenesses.append(_alike(mean.unsqueeze(1), thing, common))
        likeness = torch.cat(likenesses, 1).mean(1)
        elsewhere, found = (
            (c + slope * likeness)[:, None, None, None] for c, slope in self.weights["calibration.temperature"]
        )
        padded = F.pad(torch.sigmoid(logit), (2, 2, 2, 2))
        beside = padded.unfold(2, 5, 1).unfold(3, 5, 1).amax((-2, -1))
        logit = logit * torch.exp((elsewhere * (1 - beside) + found * beside).clamp(-5, 5)) / 2
        return _resize(torch.cat([-logit, logit], 1), masks.shape[-2:])

    def _outlined(self, logit: Tensor, images: Tensor | None, work: torch.Size) -> Tensor:
        start, slope = self.weights["calibration.logit_offset"]
        largest = logit.flatten(1).sort(descending=True).values
        peak = largest[:, : max(1, round(0.01 * largest.shape[1]))].mean(1)
        logit = logit + (slope * (start - peak)).clamp(0, 4)[:, None, None, None]
        if not self.config.boundary_refinement or images is None:
            return logit
        return _along_edges(logit.float(), images.float(), work).to(self.dtype)

    def _refinement(self, logit: Tensor, votes: dict[int, Tensor], blocks: list[Block], skips: list[Tensor]) -> Tensor:
        """What a refinement step adds to (B, 1, h, w)."""
        context = torch.cat(skips, 1)
        work = (context.shape[-2], context.shape[-1])
        own, odds = [], []
        for scale in sorted(self.scales):
            for block in (b for b, (_, attended) in zip(blocks, self.attended, strict=True) if attended == scale):
                tokens = F.normalize(block[0], dim=-1, eps=1e-6)
                found, rest = ((tokens * mean.unsqueeze(1)).sum(-1) for mean in _side_means(logit, block))
                own.append(_resize(10 * (found - rest).unflatten(1, block[3]).unsqueeze(1), work))
            odds.append(_resize(torch.logit(votes[scale].float(), eps=0.0025).to(self.dtype), work))
        seen = torch.cat([*own, *odds, _resize(logit, work).clamp(-8, 8)], 1)
        x = self._conv("decoder.refinement.inputs", seen) + self._conv("decoder.refinement.context", context)
        x = F.relu(self._norm("decoder.refinement.norm", x))
        x = self._conv("decoder.refinement.correction", F.relu(self._conv("decoder.refinement.conv", x, 2)))
        return _resize(x, logit.shape[-2:])

    def _conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, NORMALISERS, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _block(self, name: str, x: Tensor) -> Tensor:
        """[convolution, group norm, ReLU] three times."""
        for number in (0, 3, 6):
            x = self._conv(f"{name}.{number}", x)
            x = F.relu(self._norm(f"{name}.{number + 1}", x))
        return x


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
    mean = _resize(around[:, :4] / around[:, 4:], logit.shape[-2:])
    return logit - logit.clamp(-2, 2) + (mean[:, :3] * fine).sum(1, keepdim=True) + mean[:, 3:]


def _shrink(x: Tensor, size: torch.Size) -> Tensor:
    height, width = (max(1, large // small) for large, small in zip(x.shape[-2:], size, strict=True))
    return _resize(F.avg_pool2d(x, (height, width)), size)


def _side_means(logit: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Of a block's query tokens the means, of unit length (B, C), of what (B, 1, h, w) finds and of the rest."""
    inside = _shrink(torch.sigmoid(logit), torch.Size(block[3])).flatten(1).unsqueeze(-1)
    tokens = F.normalize(block[0], dim=-1, eps=1e-6)
    found, rest = (((side / side.amax(1, keepdim=True)) ** 2 * tokens).sum(1) for side in (inside, 1 - inside))
    return F.normalize(found, dim=-1, eps=1e-6), F.normalize(rest, dim=-1, eps=1e-6)


def _thing(block: Block, masks: Tensor) -> Tensor:
    """What a block's support shows: the mean of the keys inside the masks (B, n, H, W), of unit length, (B, 1, C)."""
    keys = block[1].unflatten(1, (masks.shape[1], -1)).flatten(0, 1)
    inside = _shrink((masks == 1).to(keys.dtype).flatten(0, 1).unsqueeze(1), torch.Size(block[3]))
    sums = (inside.flatten(1).unsqueeze(-1) ** 2 * keys).sum(1).unflatten(0, masks.shape[:2]).sum(1)
    return F.normalize(sums, dim=-1, eps=1e-6).unsqueeze(1)


def _alike(tokens: Tensor, thing: Tensor, usual: Tensor) -> Tensor:
    """(B, N): how alike (B, N, C) are to the thing (B, 1, C), beyond what both are to the usual one (C)."""
    return 10 * ((tokens * thing).sum(-1) - ((tokens * usual).sum(-1) + (thing * usual).sum(-1)) / 2)


def _similarity(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """How much closer a query token is to the foreground's mean than to the background's: (B, h, w)."""
    ahead, behind = (F.normalize((key * side.unsqueeze(-1)).sum(1), dim=-1) for side in value.unbind(-1))
    unit = F.normalize(query, dim=-1)
    return ((unit * ahead.unsqueeze(1)).sum(-1) - (unit * behind.unsqueeze(1)).sum(-1)).unflatten(1, size)
