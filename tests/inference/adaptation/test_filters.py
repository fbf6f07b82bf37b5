"""The filters against scipy and numpy, in double precision and written another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.inference.adaptation.filters import CHANNELS, LEVELS, blur, filter_pyramid, filter_responses

pytestmark = pytest.mark.usefixtures("one_thread")


def gaussian(plane: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(plane, sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))


def derivative(plane: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return ndimage.correlate1d(plane, [-0.5, 0, 0.5], axis, mode="nearest")


def eigenvalues(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The larger, then the smaller, at every pixel."""
    matrices = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -1)
    values = np.linalg.eigvalsh(matrices)
    return [values[..., 1], values[..., 0]]


def by_scipy(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(12, H, W) of an image (3, H, W)."""
    colours = [gaussian(plane, 0.8) for plane in image]
    grey, level = image.mean(0), np.mean(colours, 0)
    dx, dy = derivative(level, 1), derivative(level, 0)
    corners = np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]) / 4
    second = [ndimage.correlate1d(level, [1, -2, 1], axis, mode="nearest") for axis in (1, 0)]
    hessian = eigenvalues(*second, ndimage.correlate(level, corners, mode="nearest"))
    tensor = [gaussian(product, 1.6) for product in (dx * dx, dy * dy, dx * dy)]
    texture = [np.sqrt(value.clip(0) + 1e-10) for value in eigenvalues(*tensor)]
    mean = gaussian(grey, 1.6)
    deviation = np.sqrt((gaussian(grey * grey, 1.6) - mean * mean).clip(1e-8))
    strengths = [np.hypot(dx, dy), *hessian, *texture, deviation, level - mean]
    return np.stack([*colours, grey, *(4 * s for s in strengths), (level - mean) / (deviation + 0.02)])


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_filters_are_those_of_scipy(size: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).random((3, *size))
    found = filter_responses(torch.from_numpy(image).float()).numpy()
    assert found.shape == (CHANNELS, *size)
    # Square roots of what is nearly zero, as of an image of one pixel, keep half the digits.
    np.testing.assert_allclose(found, by_scipy(image), atol=5e-3)
    if min(size) > 10:
        np.testing.assert_allclose(found, by_scipy(image), atol=2e-4)


def test_blur_keeps_the_mean_and_one_colour() -> None:
    assert torch.allclose(blur(torch.full((2, 9, 5), 0.3), 1.6), torch.full((2, 9, 5), 0.3))
    spot = torch.zeros(1, 31, 31)
    spot[0, 15, 15] = 1
    assert float(blur(spot, 0.8).sum()) == pytest.approx(1)


def test_a_dark_line_and_a_bright_one_are_told_apart() -> None:
    image = torch.full((3, 21, 21), 0.5)
    image[:, 10] = 0.2
    dark = filter_responses(image)[:, 10, 10]
    bright = filter_responses(1 - image)[:, 10, 10]
    assert dark[5] > 0.2  # the larger eigenvalue of the Hessian
    assert bright[6] < -0.2  # the smaller one
    assert dark[4] < 1e-3  # no gradient on the line itself


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (37, 5), (64, 64), (100, 33)])
def test_pyramid_halves_down_to_four(size: tuple[int, int]) -> None:
    levels = filter_pyramid(torch.zeros(3, *size))
    assert len(levels) == LEVELS
    expected = size
    for level in levels:
        assert level.shape == (CHANNELS, *expected)
        assert torch.isfinite(level).all()
        expected = tuple(max(4, -(-side // 2)) for side in expected)  # type: ignore[assignment]
