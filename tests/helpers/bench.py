"""Settings and matrices with which benchmarks take no time."""

from __future__ import annotations

import pytest
import torch

from fewseg_bench import roofline
from fewseg_bench.models import QUICK_NAME
from fewseg_bench.settings import BenchSettings

CPU = torch.device("cpu")

SMALL = BenchSettings(
    models=(QUICK_NAME,), shots=(2,), precisions=("float32",), size=64, repeats=2, memory=False, clock="cpu"
)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roofline is measured on small matrices, in every test of a module that imports this."""
    monkeypatch.setitem(roofline.SIDES, "cpu", (128, 256))
