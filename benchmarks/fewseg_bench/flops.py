"""Floating-point operations that a query needs when nothing is computed twice.

Multiplications and additions of convolutions and matrix products, two for each pair; what the exponentials, norms and
resizing cost is not among them. The support is encoded, so nothing that depends on it alone counts.

DCAMA is counted in closed form, by the fewest operations of an exact computation that we know: the support's share of
the decoder comes ready, and a convolution over an upsampled map is counted at the map's own size (a 3 x 3 convolution
is nine shifted 1 x 1 ones, and those commute with the upsampling). SCCAN and HSNet are counted by torch's
`FlopCounterMode` as they run: SCCAN with the support's stream ready; HSNet's baseline, all correlations once, but
those with the support's background, which are zero, where our first convolutions do with less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fewseg.models.backbones.tiny import ConvNorm
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.methods.dcama_light.method import DCAMALight
from fewseg.models.methods.dcama_light.prototypes import INPUTS_PER_BLOCK
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.tools.bench_options import Level
from fewseg_bench.baseline import baseline_maps
from fewseg_bench.baseline_others import baseline_hsnet, baseline_sccan
from fewseg_bench.models import noise
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.variants import prepare_variant

Size = tuple[int, int]


@dataclass(frozen=True)
class Flops:
    """Of one query."""

    backbone: float
    attention: float
    """What compares query and support."""
    rest: float
    """Projections of the query and the decoder."""

    def at(self, level: Level) -> float:
        """What a level needs."""
        return {
            "op": self.attention,
            "head": self.attention + self.rest,
            "query": self.attention + self.rest + self.backbone,
        }[level]


def counted_flops(run: Callable[[], object]) -> float:
    """Operations of a computation as torch counts them, attention in full: no fused kernel, whose padding counts."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


@contextmanager
def _counted_zeros(backbone: nn.Module) -> Iterator[list[float]]:
    """Collects what multiplying by zeros adds: the embedded backbone pads kernels where others pad maps."""
    zeros: list[float] = []

    def note(layer: ConvNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        if layer.conv.stride != (1, 1):
            size = (output.shape[2], output.shape[3])
            multiplied, own = layer.strided_kernel(inputs[0]).shape, layer.conv.weight.shape
            more = convolution_flops(multiplied, size) - convolution_flops(own, size)
            zeros.append(more * output.shape[0])

    hooks = [m.register_forward_hook(note) for m in backbone.modules() if isinstance(m, ConvNorm)]
    try:
        yield zeros
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def needed_flops(method: FewShotMethod, shots: int) -> Flops:
    """What a query of a method (on the CPU) with so many shots needs."""
    query, images, masks = noise(method.config.image_size, shots)
    query = query.to(method.dtype)
    with _counted_zeros(method.backbone) as zeros:
        backbone = counted_flops(lambda: baseline_maps(method.backbone, query)) - sum(zeros)
    if isinstance(method, MaskAggregation):
        sizes = [(m.shape[-2], m.shape[-1]) for m in baseline_maps(method.backbone, query)]
        attention = dcama_attention(method, sizes, shots)
        return Flops(backbone, attention, dcama_projections(method, sizes) + dcama_decoder(method, sizes))
    baseline = method
    if isinstance(method, (HSNet, SCCAN)):
        baseline = baseline_hsnet(method) if isinstance(method, HSNet) else baseline_sccan(method)
    features, support = baseline.encode_query(query), baseline.encode_support(images, masks)
    baseline.segment(features, support)  # what is kept with the support is there now
    maps, size = baseline_maps(baseline.backbone, query), features.image_size
    head = counted_flops(lambda: baseline.segment(baseline.query_from_maps(maps, size), support))
    attention = _counted_op(method, BASELINE, shots)
    rest = head - attention
    if isinstance(method, HSNet):
        attention = min(attention, _counted_op(method, OPTIMISED, shots))
    return Flops(backbone, attention, rest)


def _counted_op(method: FewShotMethod, variant: str, shots: int) -> float:
    """Of what compares query and support, as one variant does it."""
    return counted_flops(prepare_variant(method, variant, shots, torch.device("cpu"), method.dtype).work["op"])


def attention_flops(queries: int, keys: int, width: int, heads: int, values: int) -> float:
    """Q Kᵀ over all heads together, and P V of so many values a token."""
    return 2.0 * queries * keys * (width + heads * values)


def convolution_flops(weight: Sequence[int], size: Size) -> float:
    """A convolution with a weight of that shape (O, I, k, k) and so large an output."""
    return 2.0 * math.prod(weight) * size[0] * size[1]


def dcama_attention(method: MaskAggregation, sizes: Sequence[Size], shots: int) -> float:
    """Of all attended blocks."""
    config, total = method.config, 0.0
    for index, _ in _attended(method):
        positions = sizes[index][0] * sizes[index][1]
        keys = shots * (2 * config.support_pixel_budget if config.support_pixel_budget else positions)
        width = method.token_width(index)
        total += attention_flops(positions, keys, width, config.heads, 2 if method.class_balanced else 1)
    return total


def dcama_projections(method: MaskAggregation, sizes: Sequence[Size]) -> float:
    """Of the query's tokens."""
    total = 0.0
    for index, _ in _attended(method):
        channels = method.backbone.blocks[index].channels
        total += 2.0 * sizes[index][0] * sizes[index][1] * channels * method.token_width(index)
    return total


def dcama_decoder(method: MaskAggregation, sizes: Sequence[Size], *, as_published: bool = False) -> float:
    """Of the decoder; `as_published`: as the paper writes it, the support's maps and upsampled maps in full."""
    if isinstance(method, DCAMALight):
        return _light_decoder(method, sizes)
    assert isinstance(method, DCAMA)
    config = method.config
    blocks: dict[int, int] = {}
    place: dict[int, Size] = {}
    for index, scale in _attended(method):
        blocks[scale] = blocks.get(scale, 0) + 1
        place[scale] = sizes[index]
    total, scales = 0.0, sorted(blocks, reverse=True)
    shapes = {k.removesuffix(".weight"): v.shape for k, v in method.decoder.state_dict().items() if v.ndim == 4}
    for scale in scales:
        names = [f"vote.{scale}.{number}" for number in (0, 3, 6)]
        if scale != scales[0]:
            names += [f"merge.{scale}.{number}" for number in (0, 3, 6)]
        total += sum(convolution_flops(shapes[name], place[scale]) for name in names)
    have = {block.scale: index for index, block in enumerate(method.backbone.blocks)}
    skips = sorted((s for s in set(config.skip_scales) if s in have), reverse=True)
    mix = sizes[have[4]] if 4 in skips else _double(place[scales[-1]])
    # What mixer1 sees: channels and the size of the map that they come from.
    groups = [(shapes[f"vote.{scales[-1]}.6"][0], place[scales[-1]])]
    copies = 2 if as_published and config.skip_support else 1
    groups += [(copies * method.backbone.blocks[have[s]].channels, sizes[have[s]]) for s in skips]
    if config.class_balanced:
        groups += [(blocks[scale], place[scale]) for scale in scales]
    outputs, _, *kernel = shapes["mixer1.0"]
    for channels, own in groups:
        total += convolution_flops((outputs, channels, *kernel), mix if as_published else min(own, mix))
    double, quadruple = _double(mix), _double(_double(mix))
    for name, size in (
        ("mixer1.2", mix),
        ("mixer2.0", double if as_published else mix),
        ("mixer2.2", double),
        ("mixer3.0", quadruple if as_published else double),
        ("mixer3.2", quadruple),
    ):
        total += convolution_flops(shapes[name], size)
    return total


def _light_decoder(method: DCAMALight, sizes: Sequence[Size]) -> float:
    """Counted as it runs: it does nothing twice."""
    seen = {
        s: torch.zeros(1, INPUTS_PER_BLOCK * len(p), *sizes[p[0]], dtype=method.dtype) for s, p in method.places.items()
    }
    maps = [
        torch.zeros(1, block.channels, *size, dtype=method.dtype)
        for block, size in zip(method.backbone.blocks, sizes, strict=True)
    ]
    skips = {s: maps[i] for s, i in method.skip_blocks.items()}
    tokens = {
        s: [torch.zeros(1, *sizes[i], method.token_width(i), dtype=method.dtype) for i in places]
        for s, places in method.places.items()
    }
    prototypes = {s: [block.flatten(1, 2)[:, :1] for block in blocks] for s, blocks in tokens.items()}
    return counted_flops(lambda: method.decode(seen, method.decoder.query_share(skips), tokens, prototypes))


def _attended(method: MaskAggregation) -> list[tuple[int, int]]:
    wanted = method.config.attention_scales
    return [(index, block.scale) for index, block in enumerate(method.backbone.blocks) if block.scale in wanted]


def _double(size: Size) -> Size:
    return 2 * size[0], 2 * size[1]


def flops_by_level(method: FewShotMethod, shots: int) -> dict[str, float]:
    """`needed`, level by level."""
    operations = needed_flops(method, shots)
    return {"op": operations.at("op"), "head": operations.at("head"), "query": operations.at("query")}
