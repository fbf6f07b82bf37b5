"""What was fitted to a label's examples, as a value that predicts, moves between devices and is saved."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewseg.inference.adaptation.features import ImageMaps, MapBasis, described_blocks, described_by_input
from fewseg.inference.adaptation.filters import CHANNELS, LEVELS
from fewseg.inference.adaptation.network import Parameters, map_logits, pixel_logits
from fewseg.inference.adaptation.report import Adaptation
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.ops.resize import resize

FROZEN_LIMIT = 6.0
"""Logits of the frozen model are clamped to +/- this."""

PARTS: Mapping[str, slice] = {
    "all": slice(None),
    "backbone": slice(LEVELS, None),
    "filters": slice(LEVELS),
}
"""Which maps of `PixelFeatures` each network sees."""


def part_columns(part: str, width: int) -> slice:
    """The columns, of descriptions (N, width), that the network of a part sees."""
    filters = LEVELS * CHANNELS
    return {"all": slice(0, width), "backbone": slice(filters, width), "filters": slice(0, filters)}[part]


@dataclass(frozen=True)
class AdaptedLabel:
    """Networks whose logits are averaged; the maps they see are projected by `basis`."""

    basis: tuple[MapBasis, ...]
    networks: Mapping[str, Parameters]
    """By the part of the description that they see, a key of `PARTS`."""
    peaks: tuple[float, ...]
    """Of every example, by the networks that have not seen it: mean probability of its most confident pixels, which
    presence is judged by."""
    report: Adaptation

    @torch.no_grad()
    def probabilities(self, maps: ImageMaps, frozen: Tensor) -> Tensor:
        """Foreground probabilities (H, W), float32, of an image, given the frozen model's (s, s)."""
        features = maps.project(self.basis)
        logits = frozen_logits(frozen.to(features.device), features.size)
        parts = [map_logits(network, features.part(PARTS[part]), logits) for part, network in self.networks.items()]
        return torch.stack(parts).mean(0).sigmoid()

    def to(self, device: torch.device) -> AdaptedLabel:
        """A copy on `device`."""
        basis = tuple(replace(b, weight=b.weight.to(device), bias=b.bias.to(device)) for b in self.basis)
        networks = {part: {k: t.to(device) for k, t in own.items()} for part, own in self.networks.items()}
        return replace(self, basis=basis, networks=networks)

    def misfit(self, backbone: FeaturePyramid) -> str:
        """What is wrong with the weights for maps of a backbone; empty where nothing is."""
        if [b.block for b in self.basis] != described_blocks(backbone):
            return "fitted to maps of another backbone"
        basis = {b.block: b for b in self.basis}
        used = [basis[block] for blocks in described_by_input(backbone) for block in blocks]
        width = LEVELS * CHANNELS + sum(len(b.weight) for b in used)
        try:
            for b in self.basis:
                b.project(b.weight.new_zeros(backbone.blocks[b.block].channels, 1, 1))
            for part, network in self.networks.items():
                columns = part_columns(part, width)
                pixel_logits(network, torch.zeros(1, columns.stop - columns.start), torch.zeros(1))
        except (LookupError, RuntimeError):
            return "weights have another shape"
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors().values()):
            return "weights are no numbers"
        return ""

    @property
    def digest(self) -> str:
        """A short hash of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, to be saved; `from_tensors` reads them."""
        own = {f"basis.{b.block}.{name}": getattr(b, name) for b in self.basis for name in ("weight", "bias")}
        return own | {f"{part}.{name}": t for part, network in self.networks.items() for name, t in network.items()}

    @property
    def about(self) -> dict[str, Any]:
        """All else, as JSON values."""
        return {"report": dataclasses.asdict(self.report), "peaks": list(self.peaks)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> AdaptedLabel:
        """What `tensors` and `about` gave; raises `LookupError`, `TypeError` or `ValueError` for anything else."""
        blocks = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("basis.")})
        basis = tuple(MapBasis(b, tensors[f"basis.{b}.weight"], tensors[f"basis.{b}.bias"]) for b in blocks)
        networks: dict[str, Parameters] = {}
        for name, tensor in tensors.items():
            part, _, parameter = name.partition(".")
            if part in PARTS:
                networks.setdefault(part, {})[parameter] = tensor
        if not networks:
            raise ValueError("an adaptation without networks")
        peaks = tuple(float(peak) for peak in about["peaks"])
        return cls(basis, networks, peaks, Adaptation.from_json(about["report"]))


def frozen_logits(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (H, W) at `size`, clamped to `FROZEN_LIMIT`, of probabilities (s, s) as the frozen model gives them."""
    limit = torch.tensor(FROZEN_LIMIT, device=probabilities.device).sigmoid()
    return resize(probabilities.float().clamp(1 - limit, limit).logit()[None, None], size)[0, 0]
