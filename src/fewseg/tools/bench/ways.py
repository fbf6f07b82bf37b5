"""The same work done two ways, at three levels: what takes turns in the measurements."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewseg.core.types import SupportSet
from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama_light.method import DCAMALight
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.models.ops.correlation import convolve_correlation
from fewseg.models.ops.cosine import unit
from fewseg.models.ops.window_attention import self_calibrated_attention
from fewseg.tools.bench.cases import noise
from fewseg.tools.bench.reference import PlainDCAMA, plain_maps
from fewseg.tools.bench.reference_others import plain_hsnet, plain_pivot, plain_sccan, plain_windows

WAYS: Final = ("reference", "ours")
"""`reference` is the straightforward way."""

Work = dict[str, Callable[[], Tensor]]
"""Level to a call that does the work and returns its result."""


@dataclass(frozen=True)
class Prepared:
    """One way of one model, ready to be measured."""

    work: Work
    teach: Callable[[], object]
    """What is done once for any number of queries."""
    support_bytes: int
    """What is kept of the support between queries."""


@torch.inference_mode()
def prepare(method: FewShotMethod, way: str, shots: int, device: torch.device, dtype: torch.dtype) -> Prepared:
    """One way of working on noise: `method` stays as it is. Inputs are on the device already."""
    query, images, masks = (t.to(device) for t in noise(method.config.image_size, shots))
    if way == "ours":
        return _ours(copy.deepcopy(method), query, images, masks, device, dtype)
    return _reference(copy.deepcopy(method), query.to(dtype), images.to(dtype), masks, device, dtype)


def _ours(
    method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype
) -> Prepared:
    precision = str(dtype).removeprefix("torch.")
    ours = Segmenter(method, device=device, precision=precision).method  # as users have it: whatever it prepares counts
    query = query.to(dtype)
    support = ours.encode_support(images, masks)
    maps = ours.backbone(query)
    size = (query.shape[-2], query.shape[-1])

    def head() -> Tensor:
        features = ours.query_from_maps(maps, size)
        return ours.segment(ours.with_guide(features, query) if isinstance(ours, DCAMALight) else features, support)

    work: Work = {"op": _op(ours, maps, size, support), "head": head, "query": lambda: ours.segment(query, support)}
    kept = [*support.tensors.values(), *support.shared.values()]
    return Prepared(work, lambda: ours.encode_support(images, masks), sum(t.nbytes for t in kept))


def _reference(
    method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype
) -> Prepared:
    if isinstance(method, MaskAggregation):
        plain = PlainDCAMA(method, device, dtype)
        maps, support_maps = plain.maps(query), plain.maps(images.flatten(0, 1))
        projected = plain.projected(maps, support_maps, masks)
        work: Work = {
            "op": lambda: _flat(plain.aggregate(projected)),
            "head": lambda: plain.head(maps, support_maps, masks, query),
            "query": lambda: plain(query, images, masks),
        }
        return Prepared(work, lambda: None, 0)
    copied: FewShotMethod = method
    if isinstance(method, (HSNet, SCCAN)):
        copied = plain_hsnet(method) if isinstance(method, HSNet) else plain_sccan(method)
    return _encode_again(copied.to(device, dtype), query, images, masks)


def _encode_again(method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor) -> Prepared:
    """The contract's own calls, for every query all of them."""
    maps, support_maps = plain_maps(method.backbone, query), plain_maps(method.backbone, images.flatten(0, 1))
    size = (query.shape[-2], query.shape[-1])

    def head() -> Tensor:
        return method.segment(method.query_from_maps(maps, size), method.support_from_maps(support_maps, masks))

    def whole() -> Tensor:
        found, shown = plain_maps(method.backbone, query), plain_maps(method.backbone, images.flatten(0, 1))
        return method.segment(method.query_from_maps(found, size), method.support_from_maps(shown, masks))

    support = method.support_from_maps(support_maps, masks)
    work: Work = {
        "op": _plain_op(method, maps, size, support),
        "head": head,
        "query": whole,
    }
    return Prepared(work, lambda: None, 0)


# ------------------------------------------------------------------------------------ what compares query and support


def _op(method: FewShotMethod, maps: list[Tensor], size: tuple[int, int], support: SupportSet) -> Callable[[], Tensor]:
    query = method.query_from_maps(maps, size)
    if isinstance(method, MaskAggregation):
        return lambda: _flat(method.aggregated_masks(query, support))
    if isinstance(method, HSNet):
        hsnet, shots = method, range(support.shots)
        return lambda: _flat([_consumed(hsnet, query.tensors, _shot(support, n)) for n in shots])
    if isinstance(method, SCCAN):
        windows = _windows(method, query.batch)
        return lambda: _flat([self_calibrated_attention(q, own, other) for q, own, other in windows])
    return lambda: method.segment(query, support)


def _plain_op(
    method: FewShotMethod, maps: list[Tensor], size: tuple[int, int], support: SupportSet
) -> Callable[[], Tensor]:
    query = method.query_from_maps(maps, size)
    if isinstance(method, HSNet):
        plain: Any = method

        def held() -> Tensor:
            found = []
            for n in range(support.shots):
                for scale, whole in plain.correlations(query, _shot(support, n)).items():
                    x = plain_pivot(plain.squeeze[str(scale)][0], whole, activate=False)
                    found.append(x.permute(0, 2, 3, 4, 5, 1).flatten())
            return torch.cat(found)

        return held
    if isinstance(method, SCCAN):
        windows = _windows(method, query.batch)
        return lambda: _flat([plain_windows(q, own, other) for q, own, other in windows])
    return lambda: method.segment(query, support)


def _shot(support: SupportSet, number: int) -> dict[str, Tensor]:
    return {name: tensor[:, number] for name, tensor in support.tensors.items()}


def _consumed(method: HSNet, query: dict[str, Tensor], support: dict[str, Tensor]) -> Tensor:
    """The first convolutions over all correlations of a shot, channels last, flat."""
    found = []
    for scale in method.scales:
        names = [f"map.{index}" for index in method.compared[scale]]
        first: Any = method.squeeze[str(scale)][0]  # type: ignore[index]
        out = convolve_correlation([query[n] for n in names], [support[n] for n in names], first.kernel)
        found.append(out.flatten())
    return torch.cat(found)


def _windows(method: SCCAN, batch: int) -> list[tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Query windows, their own keys and values, and the support's, for every block; noise of the right shapes."""
    config, rng = method.config, torch.Generator().manual_seed(0)
    found = []
    for index in range(config.blocks):
        padding = config.window // 2 if config.shift and index % 2 else 0
        across = (method.grid[0] + 2 * padding) // config.window
        shape = (batch, across**2, config.heads, config.window**2, config.width // config.heads)
        q, *kv = (torch.randn(shape, generator=rng).to(method.device, method.dtype) for _ in range(5))
        found.append((q, (kv[0], kv[1]), (unit(kv[2], -1), kv[3])))
    return found


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
