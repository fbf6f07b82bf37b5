"""Values of more than 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import InvalidOption
from fewseg.images import depth as depths
from fewseg.images import get_range, read_image, set_range


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    depths._said.cache_clear()
    yield
    set_range(None)


def ramp() -> np.ndarray:
    return np.linspace(0, 255, 24).astype(np.uint8).reshape(4, 6)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_data_choose_the_depth(tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int) -> None:
    values = np.round(ramp().astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        for source in (tmp_path / "a.tif", tmp_path / "a.png", values):
            found = np.asarray(read_image(source))[..., 0].astype(int)
            assert np.abs(found - ramp()).max() <= 1
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (0 if bits == 16 else 2)  # once for the folder, once for arrays
    assert all(f"{bits} bits" in line and "--range" in line for line in told)


def test_a_range_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = ramp().astype(np.uint16) * 4 + 1000
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values.astype(np.float32) - 3000).save(tmp_path / "f.tif")
    set_range((1000, 2020))
    assert get_range() == (1000, 2020)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.tif"))[..., 0], ramp())
        np.testing.assert_array_equal(np.asarray(read_image(ramp()))[..., 0], ramp())  # 8 bits stay
        set_range((-2000, -980))
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "f.tif"))[..., 0], ramp())
        set_range((1500, 1600))
        found = np.asarray(read_image(tmp_path / "a.tif"))[..., 0]
        assert (found[values <= 1500].max(), found[values >= 1600].min()) == (0, 255)
    assert not caplog.records


@pytest.mark.parametrize("values", [(1.0, 1.0), (5.0, 2.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_impossible_ranges(values: tuple[float, float]) -> None:
    with pytest.raises(InvalidOption, match="values of black and white"):
        set_range(values)
