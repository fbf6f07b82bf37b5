"""What a pixel is described by: filters at full size, and the frozen backbone's maps at several input sizes.

Maps of the backbone are projected to their principal components over the label's own examples, so any backbone will do
and a fit is small. All descriptions of a pixel are bilinear in its place, which lets a linear layer be applied before
maps are enlarged (`PixelFeatures.linear`): the same values at a tenth of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.images.transforms import normalise
from fewseg.inference.adaptation.filters import filter_pyramid
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import map_size

INPUT_FACTORS: Final = (2 / 3, 1.0, 5 / 3)
"""Longest sides of the backbone's inputs, relative to the method's input size."""

CONTEXT_ONLY: Final = 0
"""Place in `INPUT_FACTORS` of the input of which only the coarse maps count: it is there for context."""

COARSE: Final = 16
"""Scale from which a map is coarse."""

COMPONENTS: Final = 48
"""Principal components of a map that are kept."""


@dataclass(frozen=True)
class MapBasis:
    """The projection of one of the backbone's maps to its principal components."""

    block: int
    """Place of the map in the backbone."""
    weight: Tensor
    """(D, C)."""
    bias: Tensor
    """(D)."""

    def project(self, features: Tensor) -> Tensor:
        """(C, h, w) to (D, h, w)."""
        return torch.einsum("dc,chw->dhw", self.weight, features) + self.bias[:, None, None]


@dataclass(frozen=True)
class LinearMaps:
    """A linear layer of every pixel's description, to be had row by row: (O, H, W) at once would be large."""

    height: int
    bias: Tensor
    """(O)."""
    fine: tuple[tuple[Tensor, Tensor], ...]
    """Weights (O, C) and maps (C, H, W)."""
    coarse: tuple[Tensor, ...]
    """Outputs (O, h, W) of smaller maps, to be enlarged downwards."""

    def rows(self, start: int, stop: int) -> Tensor:
        """The outputs (O, N) of the pixels of some rows."""
        outputs = len(self.bias)
        out = self.bias[:, None].expand(-1, (stop - start) * self._width).clone()
        for weight, features in self.fine:
            out.addmm_(weight, features[:, start:stop].flatten(1))
        for features in self.coarse:
            shares, near = _shares(start, stop, self.height, features.shape[1], self.bias.device)
            out.view(outputs, stop - start, -1).baddbmm_(shares.expand(outputs, -1, -1), features[:, near])
        return out

    @property
    def _width(self) -> int:
        return self.fine[0][1].shape[2] if self.fine else self.coarse[0].shape[2]


def enlarge(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned, (C, h, w) to (C, *size): as two products of matrices, several times as fast."""
    for axis, length in ((2, size[1]), (1, size[0])):
        if features.shape[axis] != length:
            shares, near = _shares(0, length, length, features.shape[axis], features.device)
            features = features[:, :, near] @ shares.T if axis == 2 else shares @ features[:, near]
    return features


def _shares(start: int, stop: int, length: int, samples: int, device: torch.device) -> tuple[Tensor, slice]:
    """Bilinear shares (stop - start, m) that the named m of `samples` have in some of `length` values."""
    places = ((torch.arange(start, stop) + 0.5) * (samples / length) - 0.5).clamp(0, samples - 1)
    # In numbers, not tensors: exported graphs have slices of fixed sizes.
    first, last = (int(max(0.0, (place + 0.5) * samples / length - 0.5)) for place in (start, stop - 1))
    last = min(samples - 1, last + 1)
    distances = (places[:, None] - torch.arange(first, last + 1)).abs()
    return (1 - distances).clamp_min(0).to(device), slice(first, last + 1)


@dataclass(frozen=True)
class PixelFeatures:
    """The description of every pixel of an image, as maps of several sizes over the same field of view."""

    maps: tuple[Tensor, ...]
    """(C, h, w), float32."""
    size: tuple[int, int]
    """Height and width of the image."""
    middle: tuple[int, int]
    """Maps up to this size are enlarged to it first."""

    @property
    def width(self) -> int:
        """Numbers that describe a pixel."""
        return sum(m.shape[0] for m in self.maps)

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.maps[0].device

    def part(self, maps: slice) -> PixelFeatures:
        """The description by some of the maps."""
        return replace(self, maps=self.maps[maps])

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The descriptions (N, width) of the pixels in `rows` and `columns` (N)."""
        height, width = self.size
        grid = torch.stack([(columns + 0.5) / width * 2 - 1, (rows + 0.5) / height * 2 - 1], -1)[None, None].float()
        maps = [self._enlarged(m) if self._is_small(m) else m for m in self.maps]
        parts = [F.grid_sample(m[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T for m in maps]
        return torch.cat(parts, 1)

    def linear(self, weight: Tensor, bias: Tensor) -> LinearMaps:
        """A linear layer of every pixel's description; `weight` is (O, width), `bias` (O)."""
        height, width = self.size
        fine: list[tuple[Tensor, Tensor]] = []
        mapped: dict[tuple[int, int], Tensor] = {}
        for part, features in zip(weight.split([m.shape[0] for m in self.maps], 1), self.maps, strict=True):
            size = map_size(features)
            if size == self.size:
                fine.append((part, features))
            else:
                own = torch.einsum("oc,chw->ohw", part, features)
                mapped[size] = mapped[size] + own if size in mapped else own
        coarse: dict[tuple[int, int], Tensor] = {}
        for own in mapped.values():
            own = self._enlarged(own) if self._is_small(own) else own
            size = map_size(own)
            coarse[size] = coarse[size] + own if size in coarse else own
        # Enlarged sideways at once, downwards as rows are asked for.
        wide = tuple(enlarge(own, (own.shape[1], width)) for own in coarse.values())
        return LinearMaps(height, bias, tuple(fine), wide)

    def _is_small(self, features: Tensor) -> bool:
        size = map_size(features)
        return size != self.size and all(side <= most for side, most in zip(size, self.middle, strict=True))

    def _enlarged(self, features: Tensor) -> Tensor:
        return enlarge(features, self.middle)


def described_blocks(backbone: FeaturePyramid) -> list[int]:
    """Places of the maps that describe pixels: the last of every scale, and of coarse scales one halfway as well."""
    chosen: list[int] = []
    scales = [block.scale for block in backbone.blocks]
    for scale in sorted(set(scales)):
        places = [i for i, own in enumerate(scales) if own == scale]
        chosen += [places[len(places) // 2], places[-1]] if scale >= COARSE else [places[-1]]
    return sorted(set(chosen))


def described_by_input(backbone: FeaturePyramid) -> list[list[int]]:
    """By place in `INPUT_FACTORS`: the places of the maps that describe pixels."""
    blocks = described_blocks(backbone)
    coarse = [block for block in blocks if backbone.blocks[block].scale >= COARSE] or blocks[-1:]
    return [coarse if place == CONTEXT_ONLY else blocks for place in range(len(INPUT_FACTORS))]


@dataclass(frozen=True)
class ImageMaps:
    """What an image is described by before maps are projected: it depends on the image and the backbone alone."""

    filters: tuple[Tensor, ...]
    """Filter responses, full size first."""
    deep: tuple[Mapping[int, Tensor], ...]
    """By place in `INPUT_FACTORS`: the backbone's maps (C, h, w) by block."""

    def project(self, basis: Sequence[MapBasis]) -> PixelFeatures:
        """The pixels' descriptions, each map of the backbone projected by its basis."""
        deep = [b.project(maps[b.block]) for maps in self.deep for b in basis if b.block in maps]
        finest = max((map_size(m) for m in deep), key=math.prod)
        height, width = map_size(self.filters[0])
        middle = max(finest, (-(-height // 4), -(-width // 4)), key=math.prod)
        return PixelFeatures((*self.filters, *deep), (height, width), middle)


@torch.no_grad()
def image_maps(method: FewShotMethod, image: Tensor, zoom: float = 1.0) -> ImageMaps:
    """The maps of an image (3, H, W), uint8; `zoom` is a factor on the size of the backbone's inputs."""
    filters = filter_pyramid(image.to(method.device).float() / 255)
    inputs = zip(INPUT_FACTORS, described_by_input(method.backbone), strict=True)
    deep = [_backbone_maps(method, image, factor * zoom, blocks) for factor, blocks in inputs]
    return ImageMaps(tuple(filters), tuple(deep))


def _backbone_maps(method: FewShotMethod, image: Tensor, factor: float, blocks: Sequence[int]) -> dict[int, Tensor]:
    """Some of the backbone's maps (C, h, w), float32, for an image (3, H, W), uint8, its proportions kept.

    The longest side of the input is `factor` times the method's input size.
    """
    scale = method.config.image_size * factor / max(map_size(image))
    size = tuple(max(64, round(side * scale / 32) * 32) for side in map_size(image))
    x = F.interpolate(image[None].to(method.device).float() / 255, size, mode="bilinear", antialias=True)
    maps = method.backbone(normalise(x).to(method.dtype))
    return {block: maps[block][0].float() for block in blocks}


@torch.no_grad()
def fit_basis(method: FewShotMethod, images: Iterable[Tensor]) -> tuple[MapBasis, ...]:
    """The principal components of the backbone's maps over images (3, H, W), uint8, one basis a described block."""
    blocks = described_blocks(method.backbone)
    collected: dict[int, list[Tensor]] = {block: [] for block in blocks}
    for image in images:
        for block, features in _backbone_maps(method, image, 1.0, blocks).items():
            collected[block].append(features.flatten(1).T)
    return tuple(_principal(block, torch.cat(tokens)) for block, tokens in collected.items())


def _principal(block: int, tokens: Tensor) -> MapBasis:
    """The basis of tokens (N, C): standardised, then projected."""
    mean, scale = tokens.mean(0), tokens.std(0, correction=0) + 1e-3
    standard = ((tokens - mean) / scale).double()
    _, vectors = torch.linalg.eigh(standard.T @ standard)
    weight = (vectors.flip(1)[:, :COMPONENTS].T.float() / scale).contiguous()
    return MapBasis(block, weight, -(weight @ mean))
