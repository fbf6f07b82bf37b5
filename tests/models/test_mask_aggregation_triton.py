"""The Triton kernel: on a GPU where there is one, and in Triton's interpreter on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fewseg.models.ops.mask_aggregation import aggregate_masks
from fewseg.models.ops.mask_aggregation.arguments import prepare

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter, in a process of its own")
on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")

CASES = [
    # batch, queries, keys, heads, width, columns, size
    (1, 5, 7, 1, 16, 1, 1.0),
    (2, 70, 150, 2, 24, 1, 3.0),
    (1, 64, 64, 1, 64, 3, 1.0),
    (1, 33, 65, 2, 130, 2, 10.0),
    (2, 20, 130, 1, 40, 18, 1.0),
]


def test_in_the_interpreter() -> None:
    """The tests below marked `interpreted`, in a process whose Triton has interpreted from its start."""
    if INTERPRETED:
        pytest.skip("this is that process")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "interpreted"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def check(case: tuple[float, ...], dtype: torch.dtype, device: str) -> None:
    from fewseg.models.ops.mask_aggregation import gpu

    *sizes, size = case
    b, nq, nk, heads, width, columns = map(int, sizes)
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(b, n, heads * width, generator=rng).mul(size).to(device, dtype) for n in (nq, nk))
    v = torch.rand(1, nk, columns, generator=rng).to(device)
    plain = prepare(q.double(), k[:1].double(), v.double(), heads, None, 0.0)
    scores = (plain.query @ plain.key.mT) * plain.scale
    found = gpu.forward(prepare(q, k[:1], v, heads, None, 0.0))
    exact = scores.softmax(-1) @ plain.values.unsqueeze(1)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.out.double(), exact, atol=tolerance * max(1, size**2 / 20), rtol=0)
    torch.testing.assert_close(found.lse.double(), scores.logsumexp(-1), atol=1e-3, rtol=1e-5)


@interpreted
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_interpreted(case: tuple[float, ...], dtype: torch.dtype) -> None:
    check(case, dtype, "cpu")


@interpreted
def test_interpreted_gradient_and_entry_point() -> None:
    rng = torch.Generator().manual_seed(0)
    gradients = []
    for name in ("reference", "triton"):
        q, k = (torch.randn(1, n, 32, generator=rng.manual_seed(n)).requires_grad_() for n in (20, 30))
        out = aggregate_masks(q, k, torch.rand(1, 30, generator=rng.manual_seed(5)), heads=2, implementation=name)
        out.square().sum().backward()
        gradients.append((out.detach(), q.grad, k.grad))
    for plain, lean in zip(*gradients, strict=True):
        torch.testing.assert_close(lean, plain, atol=1e-5, rtol=1e-4)


@on_gpu
@pytest.mark.parametrize("case", [*CASES, (2, 2304, 11520, 8, 64, 1, 1.0), (1, 576, 2880, 8, 128, 4, 3.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(case: tuple[float, ...], dtype: torch.dtype) -> None:
    check(case, dtype, "cuda")
