"""Models with the deterministic weights, and the inputs, behind the golden vectors in `golden/`."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
NATURAL = ("num_batches_tracked", "relative_position_index", "attn_mask", ".pe")

_spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
assert _spec is not None
assert _spec.loader is not None
fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fill)


def released_state(keys: str, seed: int, prefix: str = "module.") -> dict[str, Tensor]:
    """A state dict with the names, shapes and dtypes of a release."""
    state = {}
    for line in (GOLDEN / keys).read_text().splitlines():
        name, size, dtype = line.split("\t")
        shape = () if size == "scalar" else tuple(int(n) for n in size.split("x"))
        if name.endswith(NATURAL):
            state[prefix + name] = torch.zeros(shape, dtype=getattr(torch, dtype))
        else:
            state[prefix + name] = torch.from_numpy(fill.parameter(seed, name, shape))
    return state


def inputs(seed: int, size: int, shots: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Query (B, 3, s, s), support images (B, n, 3, s, s), support masks (B, n, s, s)."""
    query = np.stack([fill.image(seed, f"query.{b}", size) for b in range(batch)])
    images = np.stack([[fill.image(seed, f"support.{b}.{k}", size) for k in range(shots)] for b in range(batch)])
    masks = np.stack([[fill.mask(seed, f"mask.{b}.{k}", size) for k in range(shots)] for b in range(batch)])
    return torch.from_numpy(query), torch.from_numpy(images), torch.from_numpy(masks)


def golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a golden file and its meta words."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    words = re.sub(r"\(.*?\)", "", str(arrays.pop("meta"))).split()  # brackets hold free text
    meta = dict(word.split("=", 1) for word in words)
    return arrays, meta
