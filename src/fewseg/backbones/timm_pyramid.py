"""Any timm model as a frozen feature pyramid that yields every block's map.

ResNets yield the residual sums before their last ReLU, as the papers' checkpoints expect; other families yield what
their blocks return. In-place activations are switched off: they would overwrite maps already collected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.backbones.base import BackboneSpec, BlockInfo, FeaturePyramid
from fewseg.errors import InvalidOption

SIZE_FREE_OPTIONS: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""What lets a transformer take any input size (ViT-like, Swin-like, everything else); the first accepted wins."""


def create_timm_model(name: str, **options: Any) -> nn.Module:
    """A timm model that takes any input size where it can.

    Raises `InvalidOption` where timm refuses the options.
    """
    error: Exception | None = None
    for extra in SIZE_FREE_OPTIONS:
        try:
            return timm.create_model(name, pretrained=False, **{**extra, **options})
        except TypeError as refused:
            error = refused
    raise InvalidOption(f"backbone {name} does not take the options {options}: {error}")


def switch_off_inplace(model: nn.Module) -> None:
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


class ResNetPyramid(FeaturePyramid):
    """Residual networks of timm's `ResNet` class: sums before the last ReLU of every block."""

    def __init__(self, spec: BackboneSpec, model: ResNet) -> None:
        super().__init__(spec)
        model.reset_classifier(0)
        self.net = model
        for stage in self._stages():
            for block in stage:
                # The ReLU moves to the entry of the next block (`features`), so that the block returns the plain sum.
                setattr(block, "act2" if isinstance(block, BasicBlock) else "act3", nn.Identity())
        self.blocks = self._measure(64)
        self.freeze().eval()

    def _stages(self) -> tuple[nn.Module, ...]:
        return self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4

    def features(self, images: Tensor) -> list[Tensor]:
        x = self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(images))))
        maps: list[Tensor] = []
        for stage in self._stages():
            for block in stage:  # type: ignore[attr-defined]
                x = block(F.relu(x) if maps else x)
                maps.append(x)
        return maps


class HookedPyramid(FeaturePyramid):
    """Networks whose blocks can be named: hooks collect what each block returns."""

    def __init__(self, spec: BackboneSpec, model: nn.Module, size: int) -> None:
        super().__init__(spec)
        for unused in ("conv_head", "bn2", "norm"):  # after the last block: costly and never looked at
            if isinstance(getattr(model, unused, None), nn.Module):
                setattr(model, unused, nn.Identity())
        self.net = model
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._collected = threading.local()
        taps = list(block_names(model))
        handles = {name: model.get_submodule(name).register_forward_hook(self._collector(name)) for name in taps}
        shapes = self._probe(size)
        self._taps = tuple(name for name in taps if name in shapes)
        for name in set(taps) - set(self._taps):
            handles[name].remove()
        self.blocks = tuple(BlockInfo(shapes[name][1], size / shapes[name][-1]) for name in self._taps)
        self.freeze().eval()

    def _collector(self, name: str) -> Any:
        def collect(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._collected.maps[name] = output

        return collect

    @torch.no_grad()
    def _probe(self, size: int) -> dict[str, torch.Size]:
        self.eval()
        maps = self._run(torch.zeros(1, 3, size, size))
        return {
            name: m.shape for name, m in maps.items() if isinstance(m, Tensor) and m.ndim == 4 and 1 < m.shape[-1] < size
        }

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        self._collected.maps = {}
        try:
            self.net.forward_features(images)  # type: ignore[operator]
            maps: dict[str, Tensor] = self._collected.maps
        finally:
            self._collected.maps = {}
        if self._channels_last:
            maps = {name: m.permute(0, 3, 1, 2) if m.ndim == 4 else m for name, m in maps.items()}
        return maps

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self._run(images)
        return [maps[name] for name in self._taps]

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedPyramid:
        # Hooks are bound to this pyramid and thread-local storage cannot be copied: build the copy's own.
        from fewseg.backbones import build_pyramid

        copy = build_pyramid(self.spec)
        copy.load_state_dict(self.state_dict())
        weight = next(self.parameters())
        return copy.to(weight.device, weight.dtype).freeze(self.frozen)  # type: ignore[return-value]


class TransformerPyramid(FeaturePyramid):
    """Plain vision transformers: every block's tokens as a map, all of one stride; inputs resized to whole patches."""

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec)
        self.net = model
        self.patch: int = model.patch_embed.patch_size[0]  # type: ignore[union-attr, index, assignment]
        self.blocks = self._measure(8 * self.patch)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        whole = tuple(max(1, round(side / self.patch)) * self.patch for side in images.shape[-2:])
        if whole != tuple(images.shape[-2:]):
            images = F.interpolate(images, whole, mode="bilinear", align_corners=False)
        maps: list[Tensor] = self.net.forward_intermediates(  # type: ignore[operator]
            images, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class StagePyramid(FeaturePyramid):
    """Fallback for networks without nameable blocks: timm's one map per stage."""

    def __init__(self, spec: BackboneSpec, model: nn.Module, size: int) -> None:
        super().__init__(spec)
        self.net = model
        with torch.no_grad():
            maps = model.eval()(torch.zeros(1, 3, size, size))
        self.blocks = tuple(BlockInfo(m.shape[1], size / m.shape[-1]) for m in maps)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        return self.net(images)  # type: ignore[no-any-return]


def block_names(model: nn.Module) -> Iterator[str]:
    """Dotted names of the blocks, in order: children of containers called `blocks`, else of the stages timm lists."""
    containers = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] == "blocks"]
    if not containers:
        containers = [info["module"] for info in getattr(model, "feature_info", [])]
    for container in containers:
        module = model.get_submodule(container)
        children = list(module.named_children())
        if not children:
            yield container
        for child, block in children:
            if isinstance(block, nn.Sequential):  # EfficientNet-like: stages within `blocks`
                yield from (f"{container}.{child}.{inner}" for inner, _ in block.named_children())
            else:
                yield f"{container}.{child}"


def build_timm_pyramid(spec: BackboneSpec, name: str) -> FeaturePyramid:
    """The pyramid class that fits a timm model; `name` is timm's, `spec.name` may be a paper's."""
    options = dict(spec.options)
    model = create_timm_model(name, **options)
    switch_off_inplace(model)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    fixed = bool(config.get("fixed_input_size")) and "strict_img_size" not in options
    size = int(config["input_size"][-1]) if fixed or "window" in name else 128
    if options.get("features_only"):
        return StagePyramid(spec, model, max(size, 299))
    if isinstance(model, ResNet):
        return ResNetPyramid(spec, model)
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    if hasattr(model, "forward_intermediates") and _is_flat_transformer(model):
        return TransformerPyramid(spec, model)
    try:
        pyramid = HookedPyramid(spec, model, size)
        if len(pyramid.blocks) > 1:
            return pyramid
    except (RuntimeError, AttributeError, KeyError, AssertionError):
        pass  # blocks that cannot be named or run on their own: fall back to timm's stages
    try:
        staged = timm.create_model(name, pretrained=False, features_only=True, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise InvalidOption(f"backbone {name} has no spatial features that fewseg can use: {error}") from error
    switch_off_inplace(staged)
    return StagePyramid(BackboneSpec(spec.name, {**options, "features_only": True}, spec.mean, spec.std), staged, size)


def _is_flat_transformer(model: nn.Module) -> bool:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    blocks = getattr(model, "blocks", None)
    return patch is not None and isinstance(blocks, (nn.Sequential, nn.ModuleList)) and hasattr(model, "num_prefix_tokens")
