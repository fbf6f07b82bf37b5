"""Frozen feature pyramids: every block's map, with its channels and stride."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_by_centres
from fewseg.models.backbones.folding import FoldedNet
from fewseg.models.ops.layout import convolution_order


@dataclass(frozen=True)
class BackboneSpec:
    """What builds a backbone's architecture again, without its weights; stored in every checkpoint."""

    name: str
    """`resnet50`, `resnet101`, `swin_b`, `resnet50_deep_dilated`, `tiny` or a timm model name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments for the model's constructor."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Scaling of the pixels in [0, 1] that the weights were trained with."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BackboneSpec:
        fields = dict(values)
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


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

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), ImageNet-normalised, to a map (B, C, h, w) per block, in the order of `blocks`."""
        if self.spec.mean != IMAGENET_MEAN or self.spec.std != IMAGENET_STD:
            images = images * self.gain + self.shift
        if self.fixed_size is not None and tuple(images.shape[-2:]) != (self.fixed_size, self.fixed_size):
            images = resize_by_centres(images, (self.fixed_size, self.fixed_size))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._run_features(convolution_order(images))

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
        side = self.fixed_size or 64
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
