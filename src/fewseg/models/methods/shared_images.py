"""Which labels were taught on the same images, read off what was encoded of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from fewseg.core.types import SupportSet

_SHARED = "images"
_GLANCE = 16


def same_images(supports: Sequence[SupportSet], prefix: str) -> list[list[int]]:
    """Indices of `supports`, grouped: in a group the tensors whose names begin with `prefix` are equal, to the bit.

    Groups are in the order of their first members. What is compared is kept with the support sets (16 bytes each), so
    only the first comparison reads whole tensors, and only of those that look alike.
    """
    if len(supports) == 1:
        return [[0]]
    alike: dict[bytes, list[int]] = {}
    for index, support in enumerate(supports):
        alike.setdefault(_glance(support, prefix), []).append(index)
    groups: dict[bytes, list[int]] = {}
    for glance, members in alike.items():
        for index in members:
            groups.setdefault(glance + (_digest(supports[index], prefix) if len(members) > 1 else b""), []).append(
                index
            )
    return sorted(groups.values())


def _glance(support: SupportSet, prefix: str) -> bytes:
    """Shapes and a few values: different for different images, almost always."""
    name = f"{_SHARED}.glance.{prefix}"
    if name not in support.shared:
        tensors = _chosen(support, prefix)
        shapes = repr([(str(t.dtype), tuple(t.shape)) for t in tensors]).encode()
        few = b"".join(_bytes(t.flatten()[:: max(1, t.numel() // _GLANCE)]) for t in tensors)
        _keep(support, name, hashlib.md5(shapes + few, usedforsecurity=False).digest())
    return bytes(support.shared[name].tolist())


def _digest(support: SupportSet, prefix: str) -> bytes:
    name = f"{_SHARED}.digest.{prefix}"
    if name not in support.shared:
        digest = hashlib.sha256()
        for tensor in _chosen(support, prefix):
            digest.update(_bytes(tensor))
        _keep(support, name, digest.digest()[:16])
    return bytes(support.shared[name].tolist())


def _chosen(support: SupportSet, prefix: str) -> list[Tensor]:
    return [support.tensors[name].detach() for name in sorted(support.tensors) if name.startswith(prefix)]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _keep(support: SupportSet, name: str, value: bytes) -> None:
    support.shared[name] = torch.tensor(list(value), dtype=torch.uint8)
