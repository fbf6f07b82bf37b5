"""The memory-lean aggregation against the plain one, and both against arithmetic in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.errors import InvalidOption
from fewseg.ops import mask_aggregation
from fewseg.ops.mask_aggregation import aggregate_masks

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 90), st.sampled_from([1, 2, 4, 8]), st.integers(1, 12)
)


def case(shape: tuple[int, ...], masks: int, dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    b, nq, nk, heads, width = shape
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(b, nq, heads * width, generator=rng, dtype=torch.float64)
    k = torch.randn(b, nk, heads * width, generator=rng, dtype=torch.float64)
    v = torch.rand(b, nk, masks, generator=rng, dtype=torch.float64)
    return [x.to(dtype) for x in (q, k, v)]


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 14), st.sampled_from(list(TOLERANCE)), st.integers(0, 1000))
def test_streaming_equals_reference(shape: tuple[int, ...], masks: int, dtype: torch.dtype, seed: int) -> None:
    q, k, v = case(shape, masks, dtype, seed)
    exact = aggregate_masks(q.double(), k.double(), v.double(), heads=shape[3], implementation="reference")
    for implementation in ("reference", "streaming", "auto"):
        out = aggregate_masks(q, k, v, heads=shape[3], implementation=implementation)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@settings(max_examples=20, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 1000))
def test_gradients_agree(shape: tuple[int, ...], masks: int, seed: int) -> None:
    gradients = []
    for implementation in ("reference", "streaming"):
        inputs = [x.requires_grad_() for x in case(shape, masks, torch.float32, seed)]
        out = aggregate_masks(*inputs, heads=shape[3], implementation=implementation)
        out.square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for plain, lean in zip(*gradients, strict=True):
        torch.testing.assert_close(lean, plain, atol=2e-5, rtol=1e-4)


def test_against_a_loop() -> None:
    """Written out head by head and token by token in numpy."""
    q, k, v = (x.numpy() for x in case((2, 3, 5, 2, 4), 1, torch.float64, 0))
    expected = np.zeros((2, 3))
    for b in range(2):
        for i in range(3):
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                scores = np.array([q[b, i, part] @ k[b, j, part] / math.sqrt(4) for j in range(5)])
                weights = np.exp(scores) / np.exp(scores).sum()
                expected[b, i] += (weights @ v[b, :, 0]) / 2
    for implementation in ("reference", "streaming"):
        out = aggregate_masks(*map(torch.tensor, (q, k, v[..., 0])), heads=2, implementation=implementation)
        np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "streaming"])
def test_dropout_is_unbiased_and_chunks_agree(implementation, monkeypatch) -> None:
    monkeypatch.setattr(mask_aggregation, "CHUNK_SCORES", 300)
    q, k, v = case((1, 40, 60, 2, 8), 1, torch.float32, 3)
    exact = aggregate_masks(q, k, v, heads=2)
    torch.manual_seed(0)
    drawn = torch.stack(
        [aggregate_masks(q, k, v, heads=2, dropout=0.5, implementation=implementation) for _ in range(300)]
    )
    assert drawn.std(0).mean() > 0.01
    torch.testing.assert_close(drawn.mean(0), exact, atol=0.05, rtol=0)


def test_dropout_has_gradients_through_chunks(monkeypatch) -> None:
    q, k, v = (x.requires_grad_() for x in case((1, 40, 60, 2, 8), 1, torch.float32, 3))
    grads = []
    for chunk in (2**24, 2 * 60 * 10):
        monkeypatch.setattr(mask_aggregation, "CHUNK_SCORES", chunk)
        torch.manual_seed(1)
        out = aggregate_masks(q, k, v, heads=2, dropout=1e-9)
        grads.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    for one, many in zip(*grads, strict=True):
        torch.testing.assert_close(many, one, atol=1e-5, rtol=1e-4)


def test_unknown_implementation_is_named() -> None:
    q, k, v = case((1, 2, 2, 1, 2), 1, torch.float32, 0)
    with pytest.raises(InvalidOption, match="streaming"):
        aggregate_masks(q, k, v, heads=1, implementation="streamin")  # type: ignore[arg-type]
