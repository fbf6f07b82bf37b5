"""The work that is measured: by the baseline implementation and by fewseg, at three levels."""

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
from fewseg_bench.baseline import baseline_maps
from fewseg_bench.baseline_light import baseline_dcama
from fewseg_bench.baseline_others import baseline_hsnet, baseline_pivot, baseline_sccan, baseline_windows
from fewseg_bench.models import noise
from fewseg_bench.names import BASELINE, OPTIMISED

VARIANTS: Final = (BASELINE, OPTIMISED)
"""`reference` is the baseline implementation."""

Work = dict[str, Callable[[], Tensor]]
"""Level to a call that does the work and returns its result."""


@dataclass(frozen=True)
class Prepared:
    """One variant of one model, ready to be measured."""

    work: Work
    teach: Callable[[], object]
    """What is done once for any number of queries."""
    support_bytes: int
    """What is kept of the support between queries."""


@torch.inference_mode()
def prepare_variant(
    method: FewShotMethod, variant: str, shots: int, device: torch.device, dtype: torch.dtype
) -> Prepared:
    """A variant's work on noise; `method` stays as it is, inputs are on the device already."""
    query, images, masks = (t.to(device) for t in noise(method.config.image_size, shots))
    if variant == OPTIMISED:
        return _optimised(copy.deepcopy(method), query, images, masks, device, dtype)
    return _baseline(copy.deepcopy(method), query.to(dtype), images.to(dtype), masks, device, dtype)


def _optimised(
    method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype
) -> Prepared:
    # As users have it: whatever a segmenter prepares counts.
    used = Segmenter(method, device=device, precision=str(dtype).removeprefix("torch.")).method
    query = query.to(dtype)
    support = used.encode_support(images, masks)
    maps = used.backbone(query)
    size = (query.shape[-2], query.shape[-1])

    def head() -> Tensor:
        features = used.query_from_maps(maps, size)
        return used.segment(used.with_guide(features, query) if isinstance(used, DCAMALight) else features, support)

    work: Work = {"op": _op(used, maps, size, support), "head": head, "query": lambda: used.segment(query, support)}
    kept = [*support.tensors.values(), *support.shared.values()]
    return Prepared(work, lambda: used.encode_support(images, masks), sum(t.nbytes for t in kept))


def _baseline(
    method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype
) -> Prepared:
    if isinstance(method, MaskAggregation):
        baseline = baseline_dcama(method, device, dtype)
        maps, support_maps = baseline.maps(query), baseline.maps(images.flatten(0, 1))
        projected = baseline.projected(maps, support_maps, masks)
        work: Work = {
            "op": lambda: _flat(baseline.aggregate(projected)),
            "head": lambda: baseline.head(maps, support_maps, masks, query),
            "query": lambda: baseline(query, images, masks),
        }
        return Prepared(work, lambda: None, 0)
    copied: FewShotMethod = method
    if isinstance(method, (HSNet, SCCAN)):
        copied = baseline_hsnet(method) if isinstance(method, HSNet) else baseline_sccan(method)
    return _encode_again(copied.to(device, dtype), query, images, masks)


def _encode_again(method: FewShotMethod, query: Tensor, images: Tensor, masks: Tensor) -> Prepared:
    """The contract's own calls, for every query all of them."""
    maps, support_maps = baseline_maps(method.backbone, query), baseline_maps(method.backbone, images.flatten(0, 1))
    size = (query.shape[-2], query.shape[-1])

    def head() -> Tensor:
        return method.segment(method.query_from_maps(maps, size), method.support_from_maps(support_maps, masks))

    def whole() -> Tensor:
        found, shown = baseline_maps(method.backbone, query), baseline_maps(method.backbone, images.flatten(0, 1))
        return method.segment(method.query_from_maps(found, size), method.support_from_maps(shown, masks))

    support = method.support_from_maps(support_maps, masks)
    work: Work = {
        "op": _baseline_op(method, maps, size, support),
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


def _baseline_op(
    method: FewShotMethod, maps: list[Tensor], size: tuple[int, int], support: SupportSet
) -> Callable[[], Tensor]:
    query = method.query_from_maps(maps, size)
    if isinstance(method, HSNet):
        baseline: Any = method

        def held() -> Tensor:
            found = []
            for n in range(support.shots):
                for scale, whole in baseline.correlations(query, _shot(support, n)).items():
                    x = baseline_pivot(baseline.squeeze[str(scale)][0], whole, activate=False)
                    found.append(x.permute(0, 2, 3, 4, 5, 1).flatten())
            return torch.cat(found)

        return held
    if isinstance(method, SCCAN):
        windows = _windows(method, query.batch)
        return lambda: _flat([baseline_windows(q, own, other) for q, own, other in windows])
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
