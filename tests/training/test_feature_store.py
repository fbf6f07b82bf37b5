"""Cached maps in files: those that were written, or an error, and a damaged file is computed anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fewseg.core.errors import InvalidOption
from fewseg.training.feature_store import CachedView, FolderStore


def view() -> CachedView:
    maps = tuple(torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(2))
    return CachedView(maps, (maps[0][0] > 0).to(torch.uint8))


def store(folder: Path) -> FolderStore:
    return FolderStore(folder, "a backbone", str)


def same(one: CachedView, other: CachedView) -> bool:
    assert one.mask is not None
    assert other.mask is not None
    return all(map(torch.equal, one.maps, other.maps)) and torch.equal(one.mask, other.mask)


def test_maps_are_those_that_were_stored(tmp_path: Path) -> None:
    first = store(tmp_path)
    assert "a" not in first
    first.put("a", view())
    for reader in (first, store(tmp_path)):
        assert "a" in reader
        for _ in range(2):  # compared the first time, mapped into memory the second
            assert same(reader.get("a"), view())


def test_a_flipped_bit_never_gives_other_maps(tmp_path: Path) -> None:
    store(tmp_path).put("a", view())
    (path,) = tmp_path.rglob("*.safetensors")
    whole, told = path.read_bytes(), 0
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 200):
        path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        reader = store(tmp_path)
        try:
            assert same(reader.get("a"), view())
        except InvalidOption as error:
            told += 1
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right
            assert "\n" not in str(error)  # noqa: PT017
            assert "a" not in reader  # it is removed, and computed anew by the next run
    assert told > 150
