"""Frozen feature pyramids: every block's map, with its channels and stride."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_by_centres
from fewseg.models.backbones.folding import FoldedNet
from fewseg.models.ops.layout import convolution_order
from fewseg.models.ops.resize import map_size


@dataclass(frozen=True)
class MapChoice:
    """Which of a network's maps a pyramid gives, and how."""

    layers: tuple[int, ...] = ()
    """Blocks whose maps are given, in this order, counted from 0, or with -1 from the last; none named: all."""
    parts: int = 0
    """In place of layers: the last block of each of so many equal parts of the network, whatever its depth."""
    strides: tuple[int, ...] = ()
    """Strides, in input pixels, that the maps are resampled to, one each, where those are not their own already: makes
    a pyramid of a plain transformer without learnt parameters (as the simple pyramid of ViTDet, Li et al., ECCV 2022,
    does with some)."""
    final_norm: bool = False
    """Apply the network's last norm to every map: what DINO's own accessor of blocks gives. Of plain transformers only;
    of SAM's it is the neck, which narrows the maps to 256 channels."""

    def __post_init__(self) -> None:
        chosen = len(self.layers) or self.parts
        if (self.layers and self.parts) or self.parts < 0:
            raise InvalidOption(f"layers {self.layers} and {self.parts} parts: give one of the two")
        if self.strides and len(self.strides) != chosen:
            raise InvalidOption(f"{len(self.strides)} strides for {chosen} maps: give one each")

    def places(self, count: int, name: str) -> list[int]:
        """The chosen places among `count` maps; raises `InvalidOption` where one is beyond them."""
        if wrong := [layer for layer in self.layers if not -count <= layer < count]:
            raise InvalidOption(f"backbone {name} has no layer {wrong[0]}: choose from 0 to {count - 1}")
        if self.parts:
            return [max(0, round(count * (part + 1) / self.parts) - 1) for part in range(self.parts)]
        return [layer % count for layer in self.layers] if self.layers else list(range(count))


ALL_MAPS: Final = MapChoice()
"""Every block's map, as it is."""


@dataclass(frozen=True)
class BackboneSpec:
    """What builds a backbone's architecture again, without its weights; stored in every checkpoint."""

    name: str
    """`resnet50`, `swin_b`, `dinov2-small` (`NAMED_BACKBONES` has all), `tiny` or a timm model name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the model's constructor."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Scaling of the pixels in [0, 1] that the weights were trained with."""
    maps: MapChoice = ALL_MAPS
    """Which maps the pyramid gives."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; without the choice of maps where it is all of them, for fingerprints to stay what they were."""
        values = asdict(self)
        if self.maps == ALL_MAPS:
            del values["maps"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BackboneSpec:
        fields = dict(values)
        chosen: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in fields.pop("maps", {}).items()
        }
        pixels = {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
        return cls(**{**fields, **pixels, "maps": MapChoice(**chosen)})


@dataclass(frozen=True)
class BlockInfo:
    """One block's map."""

    channels: int
    stride: float
    """Input pixels per map pixel; not whole for some networks (patches of 14, unpadded convolutions)."""

    @property
    def scale(self) -> int:
        """The nearest power of two: blocks of one scale are treated together."""
        return int(2 ** round(math.log2(self.stride)))


class FeaturePyramid(nn.Module):
    """Base of the pyramids: frozen, always in eval mode, fed with ImageNet-normalised images.

    Subclasses set `blocks` and implement `features`. `freeze(False)` lets gradients through for fine-tuning; batch norm
    statistics stay as they are even then.

    While it is frozen, batch norms are folded into the convolutions, in a copy that follows every change of the weights
    (`fewseg.models.backbones.folding`); `net` and the state dict never change. What is traced or exported is `net`
    itself."""

    blocks: tuple[BlockInfo, ...]
    net: nn.Module
    """The network; its own names are those of its published weights."""
    multiple: int = 1
    """Images whose sides are no multiples of it are resized to the nearest: patches, or windows, are whole."""
    gain: Tensor
    shift: Tensor

    def __init__(self, spec: BackboneSpec, fixed_size: int | None = None) -> None:
        """`fixed_size`: side of the only images the network takes; others are resized to it."""
        super().__init__()
        self.spec, self.fixed_size = spec, fixed_size
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        gain, shift = torch.tensor(IMAGENET_STD) / std, (torch.tensor(IMAGENET_MEAN) - mean) / std
        self.register_buffer("gain", gain.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self._order: list[int] | None = None
        """Places of the chosen maps among those of `features`; None: all as they are."""
        self.frozen = True
        self._folded = FoldedNet()
        self._own_hooks = 0
        self.compiled = False
        """Whether `torch.compile` translates the network where it is frozen; not those whose maps hooks collect."""
        self._translated: tuple[nn.Module, Callable[[Tensor], list[Tensor]]] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales that have at least one block, finest first."""
        return tuple(sorted({block.scale for block in self.blocks}))

    def features(self, images: Tensor) -> list[Tensor]:
        """Every block's map for images in the weights' own scaling."""
        raise NotImplementedError

    def final_norm(self, tokens: Tensor) -> Tensor:
        """(..., C): features of the last block after the norm that the network applies behind it.

        Maps of `forward` are without it. Networks that have none give back what they are given.
        """
        return tokens

    def choose_maps(self, maps: MapChoice) -> Self:
        """Give these maps from now on, in place of all blocks'; `blocks` tells of them. Once, after construction."""
        if maps.final_norm:
            raise InvalidOption(f"backbone {self.name} is no plain transformer: leave out final_norm")
        self.spec = replace(self.spec, maps=maps)
        if maps.layers or maps.parts:
            self._order = maps.places(len(self.blocks), self.name)
            self._set_blocks([self.blocks[place] for place in self._order])
        return self

    def _set_blocks(self, blocks: Sequence[BlockInfo]) -> None:
        strides = self.spec.maps.strides or [block.stride for block in blocks]
        self.blocks = tuple(BlockInfo(b.channels, s) for b, s in zip(blocks, strides, strict=True))

    def _chosen(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """The chosen ones of the maps of `features`, at their strides in an image of that size."""
        maps = maps if self._order is None else [maps[place] for place in self._order]
        if not self.spec.maps.strides:
            return maps
        return [_at_stride(m, size, stride) for m, stride in zip(maps, self.spec.maps.strides, strict=True)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), ImageNet-normalised, to a map (B, C, h, w) per block, in the order of `blocks`."""
        if self.spec.mean != IMAGENET_MEAN or self.spec.std != IMAGENET_STD:
            images = images * self.gain + self.shift
        size = self.input_size(map_size(images))
        if size != map_size(images):
            images = resize_by_centres(images, size)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._chosen(self._run_features(convolution_order(images)), size)

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that images of this size are resized to for the network."""
        if self.fixed_size is not None:
            return self.fixed_size, self.fixed_size
        height, width = (max(1, round(side / self.multiple)) * self.multiple for side in size)
        return height, width

    def _run_features(self, images: Tensor) -> list[Tensor]:
        fast = self.fast_self()
        if not self.compiled or self._own_hooks or fast.training or torch.is_grad_enabled():
            return fast.features(images)
        if self._translated is None or self._translated[0] is not fast.net:
            self._translated = (fast.net, torch.compile(fast.features, dynamic=False))
        return self._translated[1](images)

    def fast_self(self) -> FeaturePyramid:
        """This pyramid with batch norms folded into the convolutions; itself where that cannot be, or must not."""
        if not self.frozen or torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
            return self
        if sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.net.modules()) != self._own_hooks:
            return self  # somebody is watching the modules: let them run
        net = self._folded.get(self.net, self._probe_run)
        if net is None:
            return self
        fast = copy.copy(self)
        fast.__dict__["_modules"] = {**self._modules, "net": net}
        return fast

    def _probe_run(self) -> list[Tensor]:
        weight = next(self.net.parameters())
        side = self.fixed_size or self.input_size((64, 64))[0]
        return self.features(torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype))

    def freeze(self, frozen: bool = True) -> Self:
        """Stop (or let through) gradients to the backbone's weights."""
        self.frozen = frozen
        self._drop_derived()
        return self.requires_grad_(not frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._drop_derived()  # moved or converted: its memory is given back now, not at the next image
        return super()._apply(fn, recurse)

    def _drop_derived(self) -> None:
        self._folded.drop()
        self._translated = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_translated": None}  # a copy or pickle translates its own

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def _measure(self, size: int) -> tuple[BlockInfo, ...]:
        """Channels and strides, read off one small image."""
        self.eval()  # batch norm must not learn from this image, nor refuse it
        maps = self.features(torch.zeros(1, 3, size, size))
        return tuple(BlockInfo(m.shape[1], size / m.shape[-1]) for m in maps)


def _at_stride(x: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """A map (B, C, h, w) of an image of that size at another stride: means of whole cells, or bilinear in between."""
    height, width = (max(1, round(side / stride)) for side in size)
    if map_size(x) == (height, width):
        return x
    cells = [max(1, own // new) for own, new in zip(map_size(x), (height, width), strict=True)]
    return resize_by_centres(F.avg_pool2d(x, (cells[0], cells[1])), (height, width))
