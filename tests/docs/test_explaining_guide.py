"""The Python block of docs/guides/explaining.md runs, and gives what its comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

GUIDE = Path(__file__).parents[2] / "docs/guides/explaining.md"


def test_the_python_block_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[12:36, 16:48] = 255
    for name, array in (("q0.jpg", pixels), ("shuttle.jpg", pixels[::-1]), ("shuttle.png", mask)):
        Image.fromarray(array).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    *statements, last = block.rstrip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join([*statements, f"scales = {last}"]), names)
    for one in names["blocks"]:
        assert one.weights.shape[:2] == (1, 1)
        assert one.weights.sum().item() == pytest.approx(1, abs=1e-4)
        assert one.aggregated.shape == (1,)
    assert all(masks.ndim == 3 and len(masks) == 1 for masks in names["scales"].values())
