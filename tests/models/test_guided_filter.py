"""The guided filter, against a regression for every window written out."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.guided_filter import follow_guide, make_guide, solve_factored, symmetric_factors
from fewseg.models.ops.resize import shrink


def windows_written_out(image: np.ndarray, values: np.ndarray, radius: int, tolerance: float) -> np.ndarray:
    """(H, W) from an image (3, H, W) and values (H, W): every pixel's mean over the windows that hold it."""
    height, width = values.shape
    total, count = np.zeros_like(values), np.zeros_like(values)
    for y in range(height):
        for x in range(width):
            box = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            colours, wanted = image[:, *box].reshape(3, -1), values[box].reshape(-1)
            around = colours - colours.mean(1, keepdims=True)
            covariance = around @ around.T / len(wanted) + tolerance * np.eye(3)
            slope = np.linalg.solve(covariance, around @ (wanted - wanted.mean()) / len(wanted))
            fitted = slope @ (image[:, *box].reshape(3, -1) - colours.mean(1, keepdims=True)) + wanted.mean()
            total[box] += fitted.reshape(total[box].shape)
            count[box] += 1
    return total / count


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_regressions(seed: int) -> None:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    # Sizes at which every pixel's windows are those of the formula: means of window means weigh borders alike only if
    # all windows are of one size, so the middle is compared.
    height, width, radius = rng.randint(9, 14), rng.randint(9, 14), rng.randint(1, 2)
    image, values = numbers.normal(size=(3, height, width)), numbers.normal(size=(height, width))
    wanted = windows_written_out(image, values, radius, 0.1)
    images = torch.from_numpy(image)[None].float()
    guide = make_guide(images, (height, width), radius, 0.1)
    found = follow_guide(torch.from_numpy(values)[None, None].float(), guide, radius)
    inner = np.s_[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    np.testing.assert_allclose(found[0, 0].numpy()[inner], wanted[inner], atol=2e-5)


def test_an_outline_moves_to_the_edge() -> None:
    image = torch.zeros(1, 3, 48, 48)
    image[..., 24:] = torch.tensor([1.0, -1.0, 0.5])[:, None, None]
    for early in (-3, 3):
        values = ((torch.arange(48.0) - 24 + early + 0.5) / 4).clamp(-2, 2).expand(1, 1, 48, 48)
        found = follow_guide(values, make_guide(image, (24, 24), 3, 0.003), 3)
        first = [int((x[0, 0, 24] > 0).nonzero()[0]) for x in (values, found)]
        assert first == [24 - early, 24]


def test_an_even_image_only_smooths() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 1, 20, 20)
    found = follow_guide(values, make_guide(torch.ones(1, 3, 20, 20), (20, 20), 1, 0.01), 1)
    twice = F.avg_pool2d(F.avg_pool2d(values, 3, 1), 3, 1)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], twice)


def test_columns_of_an_image_do_not_mix() -> None:
    torch.manual_seed(0)
    images, values = torch.randn(2, 3, 21, 17), torch.randn(2, 3, 21, 17)
    together = follow_guide(values, make_guide(images, (10, 8), 2, 0.01), 2)
    assert together.shape == values.shape
    for batch in range(2):
        one = make_guide(images[batch : batch + 1], (10, 8), 2, 0.01)
        for column in range(3):
            alone = follow_guide(values[batch, column][None, None], one, 2)[0, 0]
            torch.testing.assert_close(together[batch, column], alone)


@pytest.mark.parametrize("colours", ["random", "grey", "nearly one hue"])
def test_factored_matrices_are_solved_whatever_the_colours(colours: str) -> None:
    torch.manual_seed(0)
    seen = torch.randn(4, 3, 49)  # a window's pixels
    if colours != "random":
        seen = torch.randn(4, 1, 49) * torch.tensor([1.0, 1.0, 1.0] if colours == "grey" else [1.3, 0.4, -0.9])[:, None]
        seen = seen + (0.01 * torch.randn(4, 3, 49) if colours != "grey" else 0)
    matrices = (seen @ seen.mT / 49).double() + 0.003 * torch.eye(3)
    wanted = torch.linalg.solve(matrices, (seen @ seen[:, :1].mT / 49).double())[..., 0].float()
    factors = symmetric_factors(matrices.float()[..., None, None])
    found = solve_factored(factors, (seen @ seen[:, :1].mT / 49)[..., None])
    torch.testing.assert_close(found[..., 0, 0], wanted, atol=2e-3, rtol=2e-3)


def test_shrinking_keeps_means() -> None:
    for size, small in (((24, 24), (12, 12)), ((23, 40), (11, 20)), ((27, 31), (12, 14))):
        x: Tensor = torch.zeros(1, 1, *size)
        x[..., ::2, ::2] = 1  # thin dots, which every second sample would see all or none of
        means = shrink(x, small)
        assert means.shape[-2:] == small
        torch.testing.assert_close(means, torch.full_like(means, 0.25))
    assert torch.equal(shrink(x, (27, 31)), x)
