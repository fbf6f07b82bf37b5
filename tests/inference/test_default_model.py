"""The model in the package: small enough, whole, and the one that the documentation describes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from fewseg.models.checkpoints.native import EMBEDDED, load_method
from fewseg.models.methods.dcama_light import DCAMALight

PAGE = Path(__file__).parents[2] / "docs" / "default-model.md"


def test_size_and_checksum() -> None:
    content = EMBEDDED["default"].read_bytes()
    assert len(content) <= 15_000_000
    assert hashlib.sha256(content).hexdigest() in PAGE.read_text("utf-8")


def test_it_loads_and_brings_what_is_fitted_after_training() -> None:
    method = load_method("default")
    assert (method.name, method.backbone.name, method.config.image_size) == ("dcama_light", "tiny", 384)
    assert 0 < method.extra["presence_threshold"] < 1
    assert {"presence_slope", "presence_offset"} <= method.extra.keys()
    assert isinstance(method, DCAMALight)
    assert all(fitted.any() for fitted in method.calibration.buffers())
    assert all(p.isfinite().all() for p in method.parameters())
    assert method.dtype == torch.float32
