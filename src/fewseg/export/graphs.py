"""The three graphs that a method comes to: shots from images, what all shots share, logits from a query.

==========  ========================================  ==================================================
Graph       Takes                                     Gives
==========  ========================================  ==================================================
`support`   `images` (1, n, 3, H, W), `masks`         the tensors of every shot, (1, n, ...)
            (1, n, H, W)
`join`      some tensors of every shot, n open        what is derived from all shots of a label together,
                                                      `joined.*`; methods without any have no such graph
`query`     `image` (B, 3, H, W), B open, and some    `logits` (B, 2, H, W): background, foreground
            of what the others gave
==========  ========================================  ==================================================

Shots are joined along their second dimension, whoever encoded them: new shots need `join` again and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from fewseg.core.types import SupportSet
from fewseg.models.methods import FewShotMethod

IMAGE: Final = "image"
IMAGES: Final = "images"
MASKS: Final = "masks"
LOGITS: Final = "logits"
JOINED: Final = "joined."
"""Begins the names of tensors that are derived from all shots together."""

SHOTS: Final = "shots"
BATCH: Final = "batch"
_EXAMPLE_SHOTS: Final = 3
_EXAMPLE_BATCH: Final = 2


@dataclass(frozen=True)
class Graph:
    """One graph before it is written: what computes, with what it is traced."""

    name: str
    """`support`, `join` or `query`; `segmenter` for all in one."""
    module: nn.Module
    """Takes a dict of tensors by name, gives one."""
    inputs: dict[str, Tensor]
    """Examples, in the order of the inputs."""
    open_dimensions: dict[str, dict[int, str]]
    """Of each input: which dimensions are open, and what they count (`shots` or `batch`)."""
    outputs: tuple[str, ...]


class _SupportSide(nn.Module):
    def __init__(self, method: FewShotMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(self.method.encode_support(inputs[IMAGES], inputs[MASKS]).tensors)


class _JoinSide(nn.Module):
    """Lets the method segment a blank image: what it keeps with the support set meanwhile is what it derives.

    Tracing leaves out the segmenting itself; tensors that nothing is derived from are zeros meanwhile.
    """

    blank: Tensor

    def __init__(self, method: FewShotMethod, shapes: dict[str, torch.Size], outputs: tuple[str, ...]) -> None:
        """`shapes`: of every tensor of one shot."""
        super().__init__()
        self.method, self.shapes, self.outputs = method, shapes, outputs
        side = method.config.image_size
        self.register_buffer("blank", torch.zeros(1, 3, side, side), persistent=False)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        shots = next(iter(inputs.values())).shape[1]
        rest = {name: self.blank.new_zeros(1, shots, *shape) for name, shape in self.shapes.items()}
        support = support_set(self.method, {**rest, **inputs})
        self.method.segment(self.blank, support)
        return {name: support.shared[name.removeprefix(JOINED)] for name in self.outputs}


class _QuerySide(nn.Module):
    def __init__(self, method: FewShotMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = {name: tensor for name, tensor in inputs.items() if name != IMAGE}
        return {LOGITS: self.method.segment(inputs[IMAGE], support_set(self.method, tensors))}


class _Watched(dict[str, Tensor]):
    """Tensors of a support set that note which of them are computed with (not only looked at)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return super().__getitem__(name)

    def items(self) -> Any:
        self.used.update(self)
        return super().items()


def support_set(method: FewShotMethod, tensors: dict[str, Tensor]) -> SupportSet:
    """The support set of tensors by name, `joined.*` among them or not."""
    side = method.config.image_size
    shots = {name: tensor for name, tensor in tensors.items() if not name.startswith(JOINED)}
    joined = {name.removeprefix(JOINED): tensor for name, tensor in tensors.items() if name.startswith(JOINED)}
    return SupportSet(method.name, (side, side), shots, method.support_key, joined)


def joined_tensors(method: FewShotMethod, support: SupportSet) -> dict[str, Tensor]:
    """What the method derives from all shots of a support set together, as `joined.*`; empty where there is none."""
    tensors = support_set(method, dict(support.tensors))
    side = method.config.image_size
    method.segment(torch.zeros(1, 3, side, side), tensors)
    return {JOINED + name: tensor for name, tensor in tensors.shared.items()}


@torch.no_grad()
def method_graphs(method: FewShotMethod, *, query_only: bool = False) -> Iterator[Graph]:
    """The graphs of a method in eval mode on the CPU; without the support's with `query_only`."""
    images, masks = random_support(method, _EXAMPLE_SHOTS, seed=0)
    support = method.encode_support(images, masks)
    if not query_only:
        inputs = {IMAGES: images, MASKS: masks}
        open_shots = {name: {1: SHOTS} for name in inputs}
        yield Graph("support", _SupportSide(method), inputs, open_shots, tuple(support.tensors))
    shots = {name: tensor.contiguous() for name, tensor in support.tensors.items()}
    watched = _Watched(shots)
    bare = SupportSet(method.name, support.image_size, watched, method.support_key)
    query = random_query(method, _EXAMPLE_BATCH, seed=0)
    method.segment(query, bare)
    joined = {JOINED + name: tensor.contiguous() for name, tensor in bare.shared.items()}
    if joined:
        watched.used.clear()
        method.segment(query, bare)  # again, with what it derived: what it still looks at are the query's inputs
        still = watched.used or {next(iter(shots))}  # it asks one of them for the batch
        wanted = _joined_from(method, shots)
        shapes = {name: tensor.shape[2:] for name, tensor in shots.items()}
        yield Graph("join", _JoinSide(method, shapes, tuple(joined)), wanted, _open(wanted), tuple(joined))
        shots = {name: tensor for name, tensor in shots.items() if name in still}
    inputs = {IMAGE: query, **shots, **joined}
    yield Graph("query", _QuerySide(method), inputs, {IMAGE: {0: BATCH}, **_open(inputs)}, (LOGITS,))


def _joined_from(method: FewShotMethod, shots: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that what is joined depends on: NaN in one of them arrives. Those of one kind (`key.*`) together."""
    needed: dict[str, Tensor] = {}
    for kind in dict.fromkeys(name.split(".")[0] for name in shots):
        group = {name for name in shots if name.split(".")[0] == kind}
        spoilt = {k: torch.full_like(t, torch.nan) if k in group else t for k, t in shots.items()}
        derived = joined_tensors(method, support_set(method, spoilt))
        if any(t.isnan().any() for t in derived.values()):
            needed |= {name: shots[name] for name in group}
    return {name: shots[name] for name in shots if name in needed}


def _open(inputs: dict[str, Tensor]) -> dict[str, dict[int, str]]:
    """Open dimensions of support tensors: the shots' second."""
    return {name: {} if name.startswith(JOINED) else {1: SHOTS} for name in inputs if name != IMAGE}


def random_query(method: FewShotMethod, batch: int, seed: int) -> Tensor:
    """(batch, 3, H, W) of smooth noise, as normalised images are."""
    rng = torch.Generator().manual_seed(seed)
    side = method.config.image_size
    coarse = torch.randn(batch, 3, 12, 12, generator=rng)
    fine = torch.randn(batch, 3, side, side, generator=rng)
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear") + 0.3 * fine


def random_support(method: FewShotMethod, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (1, shots, 3, H, W) and masks (1, shots, H, W) of one rectangle each."""
    images = random_query(method, shots, seed + 1).unsqueeze(0)
    side = method.config.image_size
    masks = torch.zeros(1, shots, side, side)
    for shot in range(shots):
        top, left = side * (shot % 3) // 6, side * (shot % 4) // 8
        masks[0, shot, top : top + side // 2, left : left + side // 2] = 1
    return images, masks
