"""The guided filter, against a regression for every window written out."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.ops.guided_filter import _inverse, follow_guide, guide
from fewseg.ops.resize import shrink


def windows_written_out(picture: np.ndarray, values: np.ndarray, radius: int, tolerance: float) -> np.ndarray:
    """(H, W) from a picture (3, H, W) and values (H, W): every pixel's mean over the windows that hold it."""
    height, width = values.shape
    total, count = np.zeros_like(values), np.zeros_like(values)
    for y in range(height):
        for x in range(width):
            box = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            colours, wanted = picture[:, *box].reshape(3, -1), values[box].reshape(-1)
            around = colours - colours.mean(1, keepdims=True)
            covariance = around @ around.T / len(wanted) + tolerance * np.eye(3)
            slope = np.linalg.solve(covariance, around @ (wanted - wanted.mean()) / len(wanted))
            fitted = slope @ (picture[:, *box].reshape(3, -1) - colours.mean(1, keepdims=True)) + wanted.mean()
            total[box] += fitted.reshape(total[box].shape)
            count[box] += 1
    return total / count


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_regressions(seed: int) -> None:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    # Sizes at which every pixel's windows are those of the formula: means of window means weigh borders alike only if
    # all windows are of one size, so the middle is compared.
    height, width, radius = rng.randint(9, 14), rng.randint(9, 14), rng.randint(1, 2)
    picture, values = numbers.normal(size=(3, height, width)), numbers.normal(size=(height, width))
    wanted = windows_written_out(picture, values, radius, 0.1)
    pictures = torch.from_numpy(picture)[None].float()
    found = follow_guide(torch.from_numpy(values)[None, None].float(), guide(pictures, (height, width), radius, 0.1))
    inner = np.s_[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    np.testing.assert_allclose(found[0, 0].numpy()[inner], wanted[inner], atol=2e-5)


def test_an_outline_moves_to_the_edge() -> None:
    picture = torch.zeros(1, 3, 48, 48)
    picture[..., 24:] = torch.tensor([1.0, -1.0, 0.5])[:, None, None]
    values = ((torch.arange(48.0) - 21) / 4).clamp(-2, 2).expand(1, 1, 48, 48)  # crosses 0 three pixels too early
    found = follow_guide(values, guide(picture, (24, 24), 3, 0.003))
    assert (values[0, 0, 24] > 0).nonzero()[0] == 22
    assert abs(int((found[0, 0, 24] > 0).nonzero()[0]) - 24) <= 1


def test_an_even_picture_only_smooths() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 1, 20, 20)
    found = follow_guide(values, guide(torch.ones(1, 3, 20, 20), (20, 20), 1, 0.01))
    twice = F.avg_pool2d(F.avg_pool2d(values, 3, 1), 3, 1)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], twice)


def test_columns_of_a_picture_do_not_mix() -> None:
    torch.manual_seed(0)
    pictures, values = torch.randn(2, 3, 21, 17), torch.randn(2, 3, 21, 17)
    together = follow_guide(values, guide(pictures, (10, 8), 2, 0.01))
    assert together.shape == values.shape
    for batch in range(2):
        one = guide(pictures[batch : batch + 1], (10, 8), 2, 0.01)
        for column in range(3):
            alone = follow_guide(values[batch, column][None, None], one)[0, 0]
            torch.testing.assert_close(together[batch, column], alone)


def test_matrices_are_inverted() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 4, 6)
    symmetric = torch.einsum("biyxk,bjyxk->bijyx", x.movedim(2, 4), x.movedim(2, 4)) + torch.eye(3)[:, :, None, None]
    wanted = torch.linalg.inv(symmetric.movedim((1, 2), (3, 4))).movedim((3, 4), (1, 2))
    torch.testing.assert_close(_inverse(symmetric), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "wanted"), [((24, 24), (12, 12)), ((23, 40), (11, 20)), ((8, 8), (8, 8))])
def test_shrinking_keeps_means(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    x: Tensor = torch.zeros(1, 1, *size)
    x[..., ::2, ::2] = 1  # thin dots, which every second sample would see all or none of
    small = shrink(x, wanted)
    assert small.shape[-2:] == wanted
    if size != wanted:
        torch.testing.assert_close(small[..., 1:-1, 1:-1], torch.full_like(small[..., 1:-1, 1:-1], 0.25))
