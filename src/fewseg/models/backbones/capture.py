"""Captures the feature maps that a backbone gives while something else runs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def maps_seen(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the maps that a backbone gives when this thread first runs it; stays empty where there are none."""
    maps: list[Tensor] = []
    mine = threading.get_ident()  # a server's other requests run the same backbone

    def capture(module: Any, inputs: Any, output: Any) -> None:
        if maps or threading.get_ident() != mine:
            return
        if isinstance(output, (list, tuple)) and all(isinstance(m, Tensor) for m in output):
            maps.extend(output)

    handle = backbone.register_forward_hook(capture)
    try:
        yield maps
    finally:
        handle.remove()
