"""A convolution over an upsampled map, computed before the upsampling, equals the plain one, borders included."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fewseg.models.ops.resize import resize
from fewseg.models.ops.upsampled_convolution import convolve_low, low_resolution_pays

sides = st.integers(1, 9)
to_sides = st.integers(1, 23)


@settings(max_examples=60, deadline=None)
@given(b=st.integers(1, 3), c=st.integers(1, 5), o=st.integers(1, 4), h=sides, w=sides, height=to_sides, width=to_sides)
def test_equals_the_plain_convolution(b: int, c: int, o: int, h: int, w: int, height: int, width: int) -> None:
    """Upwards and downwards, whole and odd ratios, one pixel included."""
    rng = torch.Generator().manual_seed(b * 1000 + c * 100 + o)
    x, weight = torch.randn(b, c, h, w, generator=rng), torch.randn(o, c, 3, 3, generator=rng)
    wanted = F.conv2d(resize(x, (height, width)), weight, padding=1)
    torch.testing.assert_close(convolve_low(x, weight, (height, width)), wanted, atol=1e-4, rtol=1e-5)


def test_chosen_where_it_saves_multiplications() -> None:
    x = torch.randn(1, 160, 16, 16)
    assert not low_resolution_pays(x, 32, (32, 32))  # gradients are on
    with torch.no_grad():
        assert low_resolution_pays(x, 32, (32, 32))
        assert not low_resolution_pays(x, 32, (16, 16))  # nothing to upsample
        assert not low_resolution_pays(x[:, :2], 32, (32, 32))  # few channels: the plain one is less work
        assert not low_resolution_pays(x.half(), 32, (32, 32))


@torch.inference_mode()
def test_bfloat16_is_as_near_as_the_plain_one() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 128, 12, 12), torch.randn(64, 128, 3, 3) / 34
    exact = F.conv2d(resize(x, (24, 24)), weight, padding=1)
    rounded = (x.bfloat16(), weight.bfloat16())
    ours = (convolve_low(*rounded, (24, 24)).float() - exact).square().mean().sqrt()
    plain = (F.conv2d(resize(rounded[0], (24, 24)), rounded[1], padding=1).float() - exact).square().mean().sqrt()
    assert ours < 2 * plain
