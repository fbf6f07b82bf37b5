"""Any timm model as a frozen feature pyramid that yields every block's map.

ResNets of plain blocks yield the residual sums before their last ReLU, as the papers' checkpoints expect; all others
(Res2Net, SKNet and the like among them) yield what their blocks return. In-place activations are switched off: they
would overwrite maps already collected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self, cast

import timm
import torch
from timm.models.hieradet_sam2 import HieraDet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.backbones.base import BackboneSpec, BlockInfo, FeaturePyramid, MapChoice

SIZE_FREE_OPTIONS: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
"""What lets a transformer take any input size (ViT-like, Swin-like); the first that is accepted wins."""

MEASURE_SIZE = 320
"""Side of the image that channels and strides are measured with, where the model takes any: a multiple of 64, large
enough that unpadded convolutions round to their nominal strides."""


def create_timm_model(name: str, **options: Any) -> tuple[nn.Module, bool]:
    """A timm model, random weights, and whether it takes images of one size only.

    Raises `InvalidOption` where timm refuses the options.
    """
    config = pretrained_config(name)
    fixed = bool(config is not None and config.fixed_input_size)
    for extra in SIZE_FREE_OPTIONS if fixed else ():
        try:
            return timm.create_model(name, pretrained=False, **{**extra, **options}), False
        except TypeError:
            continue  # this family does not know the option
    try:
        model = timm.create_model(name, pretrained=False, **options)
        return model, fixed and not isinstance(model, VisionTransformerSAM)  # SAM's takes any size as it is
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error) or type(error).__name__
        raise InvalidOption(f"backbone {name} does not take the options {options}: {reason}") from error


def pretrained_config(name: str) -> Any:
    """What timm knows of a model's weights, None where it has none; raises `InvalidOption` for an unknown tag."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        base = name.partition(".")[0]
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        raise unknown(f"weights of {base}", name.partition(".")[2], tags) from error


def switch_off_inplace(model: nn.Module) -> None:
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


LAST_RELU: dict[type[nn.Module], str] = {BasicBlock: "act2", Bottleneck: "act3"}
"""Where a residual block keeps its last ReLU."""


def resnet_stages(model: nn.Module) -> list[nn.Sequential]:
    return [getattr(model, f"layer{number}") for number in (1, 2, 3, 4)]


class ResNetPyramid(FeaturePyramid):
    """Residual networks of basic and bottleneck blocks: sums before the last ReLU of every block."""

    def __init__(self, spec: BackboneSpec, model: ResNet) -> None:
        super().__init__(spec)
        model.reset_classifier(0)
        self.net = model
        for stage in resnet_stages(self.net):
            for block in stage:
                # The ReLU moves to the entry of the next block (`features`), so that the block returns the plain sum.
                setattr(block, LAST_RELU[type(block)], nn.Identity())
        self.blocks = self._measure(64)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        net: Any = self.net
        x = net.maxpool(net.act1(net.bn1(net.conv1(images))))
        maps: list[Tensor] = []
        for stage in resnet_stages(self.net):
            for block in stage:
                x = block(F.relu(x) if maps else x)
                maps.append(x)
        return maps


class HookedPyramid(FeaturePyramid):
    """Networks whose blocks can be named: hooks collect what each block returns."""

    def __init__(self, spec: BackboneSpec, model: nn.Module, name: str, size: int, fixed: bool) -> None:
        """`name`: timm's; `size`: side of the image that maps are measured with; `fixed`: the model takes no other."""
        super().__init__(spec, size if fixed else None)
        self.timm_name = name
        for unused in ("conv_head", "bn2", "norm"):  # after the last block: costly and never looked at
            if isinstance(getattr(model, unused, None), nn.Module):
                setattr(model, unused, nn.Identity())
        self.net = model
        self._channels_last: frozenset[str] = frozenset()
        self._collected = threading.local()
        taps = list(block_names(model))
        handles = {name: model.get_submodule(name).register_forward_hook(self._collector(name)) for name in taps}
        shapes = self._probe(size)
        self._channels_last = frozenset(name for name, shape in shapes.items() if _is_channels_last(shape, model))
        shapes = {k: torch.Size([s[0], s[3], *s[1:3]]) if k in self._channels_last else s for k, s in shapes.items()}
        self.taps = tuple(name for name in taps if name in shapes and 1 < shapes[name][-1] < size)
        for name in set(taps) - set(self.taps):
            handles[name].remove()
        self._check(model, {name: shapes[name] for name in self.taps}, size)
        self._own_hooks = len(self.taps)
        self.multiple = 32 if isinstance(model, HieraDet) else 1  # whose pooled and plain paths have to meet
        self.blocks = tuple(BlockInfo(shapes[name][1], size / shapes[name][-1]) for name in self.taps)
        self.freeze().eval()

    @staticmethod
    def _check(model: nn.Module, shapes: dict[str, torch.Size], size: int) -> None:
        """Raise `RuntimeError` where blocks return something else than maps: tokens, or windows of them."""
        stages: Any = getattr(model, "feature_info", None) or ()
        deepest = max([stage["reduction"] for stage in stages if "reduction" in stage], default=1)
        oblong = [name for name, shape in shapes.items() if shape[2] != shape[3]]  # of a square image
        if oblong or not any(size / shape[-1] > 0.75 * deepest for shape in shapes.values()):
            raise RuntimeError(f"the blocks of {type(model).__name__} give no maps of every stage")

    def _collector(self, name: str) -> Any:
        def collect(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._collected.maps[name] = output

        return collect

    @torch.no_grad()
    def _probe(self, size: int) -> dict[str, torch.Size]:
        self.eval()
        maps = self._run(torch.zeros(1, 3, size, size))
        return {name: m.shape for name, m in maps.items() if isinstance(m, Tensor) and m.ndim == 4}

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        self._collected.maps = {}
        try:
            self.net.forward_features(images)  # type: ignore[operator]
            maps: dict[str, Tensor] = self._collected.maps
        finally:
            self._collected.maps = {}
        return maps

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self._run(images)
        return [maps[n].permute(0, 3, 1, 2) if n in self._channels_last else maps[n] for n in self.taps]

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedPyramid:
        # Hooks are bound to this pyramid and thread-local storage cannot be copied: build the copy's own.
        copy = build_timm_pyramid(self.spec, self.timm_name).choose_maps(self.spec.maps)
        copy.load_state_dict(self.state_dict())
        weight = next(self.parameters())
        return copy.to(weight.device, weight.dtype).freeze(self.frozen)  # type: ignore[return-value]


class TransformerPyramid(FeaturePyramid):
    """Plain vision transformers: the blocks' patch tokens as maps, all of one stride, class and register tokens left
    out; inputs are resized to whole patches."""

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__(spec)
        self.net = model
        self.multiple = int(model.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
        self.layers: list[int] | None = None
        """Blocks whose maps are computed; None: all."""
        self.blocks = self._measure(8 * self.multiple)
        self.freeze().eval()

    def choose_maps(self, maps: MapChoice) -> Self:
        self.spec = replace(self.spec, maps=maps)
        places = maps.places(len(self.blocks), self.name)
        self.layers = sorted(set(places))
        self._order = [self.layers.index(place) for place in places]
        computed = self._measure(8 * self.multiple)
        self._set_blocks([computed[place] for place in self._order])
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net.forward_intermediates(  # type: ignore[operator]
            images,
            indices=self.layers,
            norm=self.spec.maps.final_norm,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps

    def final_norm(self, tokens: Tensor) -> Tensor:
        norm = getattr(self.net, "norm", None)
        if norm is None or self.spec.maps.final_norm:  # SAM has a neck instead, which is no norm; or it is done already
            return tokens
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return cast("Tensor", norm(tokens))


class StagePyramid(FeaturePyramid):
    """Fallback for networks without nameable blocks: timm's one map per stage."""

    def __init__(self, spec: BackboneSpec, model: nn.Module, size: int, fixed: bool) -> None:
        super().__init__(spec, size if fixed else None)
        self.net = model
        with torch.no_grad():
            maps = model.eval()(torch.zeros(1, 3, size, size))
        self.blocks = tuple(BlockInfo(m.shape[1], size / m.shape[-1]) for m in maps)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(images)
        return maps


def _is_channels_last(shape: torch.Size, model: nn.Module) -> bool:
    """Whether a map of a square image is (B, H, W, C)."""
    if shape[1] == shape[2] != shape[3]:
        return True
    return shape[1] == shape[2] == shape[3] and getattr(model, "output_fmt", "NCHW") == "NHWC"


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
    model, fixed = create_timm_model(name, **options)
    switch_off_inplace(model)
    if options.get("features_only"):
        return StagePyramid(spec, model, MEASURE_SIZE, fixed=False)
    if isinstance(model, ResNet) and all(
        type(b) in LAST_RELU for n in (1, 2, 3, 4) for b in getattr(model, f"layer{n}")
    ):
        return ResNetPyramid(spec, model)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = int(config["input_size"][-1]) if config.get("fixed_input_size") else MEASURE_SIZE
    drop_classifier: Any = getattr(model, "reset_classifier", None)
    if drop_classifier is not None:
        drop_classifier(0)
    if _is_flat_transformer(model) and not fixed:
        return TransformerPyramid(spec, model)
    try:
        pyramid = HookedPyramid(spec, model, name, size, fixed)
        if len(pyramid.blocks) > 1:
            return pyramid
    except (RuntimeError, AttributeError, KeyError, AssertionError, TypeError):
        pass  # blocks that cannot be named or run on their own: fall back to timm's stages
    try:
        staged = timm.create_model(name, pretrained=False, features_only=True, **options)
        switch_off_inplace(staged)
        staged_spec = replace(spec, options={**options, "features_only": True})
        return StagePyramid(staged_spec, staged, size, fixed)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise InvalidOption(f"backbone {name} has no spatial features that fewseg can use: {error}") from error


def _is_flat_transformer(model: nn.Module) -> bool:
    if isinstance(model, VisionTransformerSAM):
        return True
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    blocks = getattr(model, "blocks", None)
    return (
        patch is not None and isinstance(blocks, (nn.Sequential, nn.ModuleList)) and hasattr(model, "num_prefix_tokens")
    )
