"""Every implementation of the aggregation against the definition in float64, and the definition against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.models.ops import mask_aggregation
from fewseg.models.ops.mask_aggregation import aggregate_masks, choose_implementation, implementations_for

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
OWN_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}
"""What `native` promises: the inputs' and the result's rounding and nothing else."""

shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 130), st.integers(1, 150), st.sampled_from([1, 2, 4, 8]), st.integers(1, 70)
)
native_only = pytest.mark.skipif(
    "native" not in implementations_for(CPU, torch.float32), reason="no C compiler that compiles the aggregation"
)


def case(shape: tuple[int, ...], masks: int, dtype: torch.dtype, seed: int, size: float = 1.0) -> list[torch.Tensor]:
    b, nq, nk, heads, width = shape
    rng = torch.Generator().manual_seed(seed)
    q = torch.randn(b, nq, heads * width, generator=rng, dtype=torch.float64) * size
    k = torch.randn(b, nk, heads * width, generator=rng, dtype=torch.float64) * size
    v = torch.rand(b, nk, masks, generator=rng, dtype=torch.float64)
    return [x.to(dtype) for x in (q, k, v)]


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **options: float) -> torch.Tensor:
    return aggregate_masks(q.double(), k.double(), v.double(), heads=heads, implementation="reference", **options)


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(1, 18), st.sampled_from(list(TOLERANCE)), st.sampled_from([0.1, 1, 3]), st.integers(0, 1000))
def test_all_equal_the_definition(
    shape: tuple[int, ...], masks: int, dtype: torch.dtype, size: float, seed: int
) -> None:
    q, k, v = case(shape, masks, dtype, seed, size)
    exact = definition(q, k, v, shape[3])
    for implementation in ("auto", *implementations_for(CPU, dtype)):
        out = aggregate_masks(q, k, v, heads=shape[3], implementation=implementation)
        assert out.dtype == dtype
        assert out.shape == (*q.shape[:2], masks)
        if implementation in ("reference", "streaming") and dtype.itemsize == 2 and size > 1:
            continue  # scores or weights rounded to half precision: as good as the fashion allows, not bounded
        tolerance = OWN_ROUNDING[dtype] if implementation == "native" else TOLERANCE[dtype]
        if implementation == "tiled" and dtype.itemsize == 2:
            tolerance *= 1 + 4 * size**2  # on CPUs torch rounds the scores
        torch.testing.assert_close(out.double(), exact, atol=tolerance, rtol=tolerance)


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
    for implementation in implementations_for(CPU, torch.float64):
        out = aggregate_masks(*map(torch.tensor, (q, k, v[..., 0])), heads=2, implementation=implementation)
        np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-20, 20.0, 300.0])
def test_extreme_scores(dtype: torch.dtype, size: float) -> None:
    """All equal, and so far apart that one key takes all (up to a million): finite and right."""
    q, k, v = case((2, 37, 210, 2, 40), 2, dtype, 7, size)
    exact = definition(q, k, v, 2)
    for implementation in ("streaming", *(set(implementations_for(CPU, dtype)) & {"tiled", "native"})):
        out = aggregate_masks(q, k, v, heads=2, implementation=implementation).double()
        assert out.isfinite().all()
        if dtype == torch.float32 or implementation == "native" or size < 1:
            # float32 scores near 1e6 are themselves rounded by 0.06: where the best two are that close, anything goes.
            close = (out - exact).abs() < 1e-2
            assert close.double().mean() > (0.99 if size > 100 else 0.999)


@native_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shifts_move_with_the_scores(dtype: torch.dtype) -> None:
    """Later keys that lie far above all earlier ones (and far below) take over from them (and do not)."""
    q = torch.ones(1, 50, 64, dtype=dtype)
    levels = torch.tensor([-300.0, -200, -100, 3, 250, 240, -50, 260, 259.5, 100]).repeat_interleave(171)
    k = (levels / 64).to(dtype)[None, :, None].expand(1, -1, 64)
    v = torch.rand(1, len(levels), generator=torch.Generator().manual_seed(1))
    for order in (torch.arange(len(levels)), torch.arange(len(levels)).flip(0)):
        inputs = (q, k[:, order], v[:, order])
        out = aggregate_masks(*inputs, heads=1, scale=1.0, implementation="native")
        exact = definition(*inputs, 1, scale=1.0)
        torch.testing.assert_close(out.double(), exact, atol=OWN_ROUNDING[dtype], rtol=0)
        out = aggregate_masks(inputs[0], inputs[1], inputs[2], heads=1, scale=-1.0, implementation="native")
        exact = definition(*inputs, 1, scale=-1.0)
        torch.testing.assert_close(out.double(), exact, atol=OWN_ROUNDING[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_number_stays_one(dtype: torch.dtype) -> None:
    q, k, v = case((1, 5, 30, 1, 8), 1, dtype, 3)
    q[0, 2, 1] = math.nan
    for implementation in implementations_for(CPU, dtype):
        out = aggregate_masks(q, k, v[..., 0], heads=1, implementation=implementation)
        assert out.isnan()[0].tolist() == [False, False, True, False, False], implementation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_support_serves_a_batch_and_views_do(dtype: torch.dtype) -> None:
    q, k, v = case((3, 45, 60, 2, 40), 3, dtype, 5)
    k, v = k[:1], v[:1]
    exact = definition(q, k.expand(3, -1, -1), v.expand(3, -1, -1), 2)
    views = (
        q.transpose(1, 2).contiguous().transpose(1, 2),  # the width is not the innermost dimension
        torch.cat([k, k], 2)[..., : k.shape[2]],
        v.transpose(1, 2).contiguous().transpose(1, 2),
    )
    for implementation in implementations_for(CPU, dtype):
        for inputs in ((q, k, v), views, (q, k.expand(3, -1, -1), v.expand(3, -1, -1)), (q, k.expand(3, -1, -1), v)):
            out = aggregate_masks(*inputs, heads=2, implementation=implementation)
            torch.testing.assert_close(out.double(), exact, atol=TOLERANCE[dtype], rtol=0)


@native_only
def test_native_keeps_small_shares_exact() -> None:
    """A background share of 1e-6 beside bfloat16 tokens: `1 - mask` as a column, not as one minus the result."""
    q, k, _ = case((1, 20, 400, 2, 32), 1, torch.bfloat16, 2)
    foreground = torch.ones(1, 400)
    foreground[0, 7] = 1 - 1e-4
    values = torch.stack([foreground, 1 - foreground], -1)
    out = aggregate_masks(q, k, values, heads=2, implementation="native").double()
    torch.testing.assert_close(out, definition(q, k, values, 2), atol=0, rtol=5e-3)


@settings(max_examples=20, deadline=None)
@given(shapes, st.integers(1, 3), st.sampled_from([4, 4000, 2**24]), st.integers(0, 1000))
def test_gradients_agree(shape: tuple[int, ...], masks: int, memory: int, seed: int) -> None:
    gradients = {}
    for implementation in implementations_for(CPU, torch.float32):
        q, k, v = (x.requires_grad_() for x in case(shape, masks, torch.float32, seed))
        out = aggregate_masks(q, k, v[:1], heads=shape[3], implementation=implementation, memory=memory)
        out.square().sum().backward()
        gradients[implementation] = [x.grad for x in (q, k, v)]
    for found in gradients.values():
        for plain, lean in zip(gradients["reference"], found, strict=True):
            torch.testing.assert_close(lean, plain, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shared", [False, True])
def test_gradient_by_differences(dropout: float, shared: bool) -> None:
    q, k, v = (x.requires_grad_() for x in case((2, 2, 5, 2, 2), 2, torch.float64, 1))

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        q, k, v = inputs
        if shared:
            k, v = k[:1], v[:1]
        return aggregate_masks(q, k, v, heads=2, dropout=dropout, implementation="tiled", memory=2 * 5 * 8)

    assert torch.autograd.gradcheck(run, (q, k, v), check_undefined_grad=False, check_batched_grad=False)


@pytest.mark.parametrize("implementation", implementations_for(CPU, torch.float32))
def test_dropout_is_unbiased(implementation: str) -> None:
    q, k, v = case((1, 40, 60, 2, 8), 1, torch.float32, 3)
    exact = aggregate_masks(q, k, v, heads=2)
    torch.manual_seed(0)
    options = {"heads": 2, "dropout": 0.3, "implementation": implementation, "memory": 1200}
    drawn = torch.stack([aggregate_masks(q, k, v, **options) for _ in range(300)])
    assert drawn.std(0).mean() > 0.01
    torch.testing.assert_close(drawn.mean(0), exact, atol=0.03, rtol=0)


def test_dropped_weights_are_as_many_as_asked() -> None:
    """Equal scores and the values 0 and 1 for one key each: the result counts the weights that stayed."""
    q, k = torch.zeros(1, 4, 8), torch.zeros(1, 5000, 8)
    torch.manual_seed(1)
    for dropout in (0.05, 0.5, 0.9):
        out = aggregate_masks(q, k, torch.ones(1, 5000), heads=2, dropout=dropout, implementation="tiled")
        kept = out * (1 - dropout)
        assert abs(kept.mean() - (1 - dropout)) < 0.01
        assert kept.unique().numel() == 4  # every query and head draws its own


def test_gradient_under_autocast() -> None:
    q, k, v = (x.requires_grad_() for x in case((2, 33, 40, 2, 16), 1, torch.float32, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = aggregate_masks(q, k, v.detach(), heads=2)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    mixed = q.grad.clone(), k.grad.clone()
    q.grad = k.grad = None
    aggregate_masks(q, k, v.detach(), heads=2, implementation="reference").square().sum().backward()
    for got, exact in zip(mixed, (q.grad, k.grad), strict=True):
        assert got.dtype == torch.float32
        assert (got - exact).norm() < 0.03 * exact.norm()


def test_scores_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of a forward and backward pass is larger than the budget or the inputs, however many keys."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.itemsize)
            return out

    q, k, v = (x.requires_grad_() for x in case((1, 300, 1000, 4, 4), 1, torch.float32, 1))
    for dropout in (0.0, 0.5):
        largest = 0
        with Watch():
            out = aggregate_masks(q, k, v, heads=4, dropout=dropout, implementation="tiled", memory=2**16)
            out.sum().backward()
        assert largest <= max(2**16, k.numel() * 4)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"implementation": "streamin"}, InvalidOption, "streaming"),
        ({"implementation": "triton"}, InvalidOption, "choose auto"),
        ({"heads": 3}, InvalidOption, "heads divide"),
        ({"heads": 0}, InvalidOption, "heads divide"),
        ({"dropout": 1.0}, InvalidOption, "below 1"),
        ({"key": torch.zeros(2, 0, 4), "values": torch.zeros(2, 0)}, InvalidSupport, "at least one key"),
        ({"values": torch.zeros(2, 4)}, InvalidSupport, "for every key"),
        ({"values": torch.zeros(2, 3, 0)}, InvalidSupport, "a value or more"),
        ({"values": torch.zeros(3)}, InvalidOption, "(B, Nk)"),
        ({"key": torch.zeros(3, 3, 4)}, InvalidSupport, "as many supports"),
        ({"key": torch.zeros(2, 3, 4).bfloat16()}, InvalidOption, "one precision"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    good = {"query": torch.zeros(2, 5, 4), "key": torch.zeros(2, 3, 4), "values": torch.zeros(2, 3), "heads": 2}
    with pytest.raises(error, match=said.replace("(", r"\(").replace(")", r"\)")):
        aggregate_masks(**{**good, **change})


def test_no_queries_is_no_error() -> None:
    for implementation in implementations_for(CPU, torch.float32):
        out = aggregate_masks(
            torch.zeros(2, 0, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3), heads=1, implementation=implementation
        )
        assert out.shape == (2, 0)


def test_compilers_see_torch_operations() -> None:
    """One graph without breaks, also for an export; the same numbers."""
    q, k, v = case((2, 20, 30, 2, 8), 2, torch.float32, 4)

    class Model(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return aggregate_masks(q, k, v, heads=2)

    expected = definition(q, k[:1], v[:1], 2).float()
    compiled = torch.compile(Model(), backend="eager", fullgraph=True)
    exported = torch.export.export(Model(), (q, k[:1], v[:1])).module()
    for run in (compiled, exported):
        torch.testing.assert_close(run(q, k[:1], v[:1]), expected, atol=1e-5, rtol=0)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_implementation(CPU, torch.float64) == "tiled"
    assert choose_implementation(CPU, torch.float32, dropout=True) == "tiled"
    assert choose_implementation(torch.device("cuda"), torch.float32, dropout=True) == "streaming"
    assert choose_implementation(torch.device("mps"), torch.float32) == "streaming"
    for trusted, plain, gradients in ((True, "native", "native"), (False, "streaming", "tiled")):
        monkeypatch.setattr(mask_aggregation, "_trusted", lambda *_, trusted=trusted: trusted)
        assert choose_implementation(CPU, torch.bfloat16) == plain
        assert choose_implementation(CPU, torch.float32, gradients=True) == gradients


def test_wrong_machine_code_is_not_trusted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What compiles but computes something else is left out, with a warning."""
    right = mask_aggregation.tiled.forward
    monkeypatch.setattr(mask_aggregation.native, "available", lambda: True)
    for fake, said in (
        (lambda a: right(a._replace(scale=2 * a.scale)), "is wrong by"),
        (lambda a: 1 / 0, "does not run"),
    ):
        monkeypatch.setattr(mask_aggregation.native, "forward", fake)
        assert not mask_aggregation._trusted.__wrapped__("native", "cpu", torch.float32)
        assert said in caplog.text
