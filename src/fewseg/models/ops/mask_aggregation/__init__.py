"""Attention whose value is a mask: softmax(Q Kᵀ) V with one value (or a few) a token, averaged over heads.

DCAMA equation 3. The scores of all query and support tokens are what costs memory (B x heads x Nq x Nk), and the
exponentials of them, besides the products, what costs time. Nothing needs the scores whole: every implementation but
the definition holds some of them at a time.

=============  =====================================================  ==========================================
Name           How                                                    Where
=============  =====================================================  ==========================================
``reference``  the definition, scores materialised                    anywhere
``streaming``  torch's fused attention, values padded to its width    anywhere; without attention dropout on CPUs
``tiled``      plain torch, some scores at a time (`tiled`)           anywhere
``native``     C, scores never leave the registers (`native`)         CPUs, where a C compiler is found
``triton``     a Triton kernel (`gpu`)                                CUDA
=============  =====================================================  ==========================================

`choose_implementation` says which is the fastest where.

One support may serve a batch of queries: leave its batch at 1 (nothing is copied, and nothing need be expanded).
Several masks over the same keys (labels taught on the same images; foreground and background in class-balanced
attention) are columns of one call: up to about 16 they cost little more than one. Values keep their own precision; they
may be float32 where the tokens are bfloat16, and a column `1 - mask` is then as exact as the mask. Inputs may be
strided views; heads lie side by side in C. `memory` bounds the scores of `tiled`, and of the gradients of `tiled`,
`native` and `triton`, whatever the number of keys, but holds at least one query's.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.ops.mask_aggregation import native, tiled
from fewseg.models.ops.mask_aggregation.arguments import Arguments, prepare

log = logging.getLogger(__name__)

Implementation = Literal["auto", "reference", "streaming", "tiled", "native", "triton"]


def aggregate_masks(
    query: Tensor,
    key: Tensor,
    values: Tensor,
    *,
    heads: int,
    scale: float | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
    memory: int | None = None,
) -> Tensor:
    """Attention-weighted mean of mask values, averaged over the heads; the module says what one call can share.

    Args:
        query: (B, Nq, C) projected query tokens.
        key: (B or 1, Nk, C) projected support tokens of all shots.
        values: (B or 1, Nk) one mask value a support token, or (B or 1, Nk, V) several masks at once.
        heads: attention heads; divides C.
        scale: factor on the dot products; 1/sqrt(C / heads) if not given.
        dropout: probability of dropping an attention weight (training only).
        implementation: see the module; `auto` asks `choose_implementation`. With dropout only `reference`, `streaming`
            on CUDA, and `tiled` differ: the others compute as `tiled` does.
        memory: bytes of scores that `tiled` and gradients hold at once; 4 MiB on CPUs, else 256 MiB, if not given.

    Returns:
        (B, Nq) or (B, Nq, V), like `values`; in the queries' precision. Equal to the definition in float64 within 1e-5
        in float32; in bfloat16 within 2e-2 (`native` and `triton`: the result's own rounding, 4e-3).

    Raises:
        InvalidOption: unknown implementation, or one that cannot run here; shapes, heads or dropout that cannot be.
        InvalidSupport: no keys, or another number of values or supports.
    """
    if implementation not in get_args(Implementation):
        raise unknown("aggregation implementation", implementation, get_args(Implementation))
    a = prepare(query, key, values, heads, scale, dropout)
    if implementation == "auto":
        implementation = choose_implementation(
            a.query.device, a.query.dtype, dropout=dropout > 0, gradients=a.needs_gradients
        )
    else:
        _check_available(implementation, a.query.device, a.query.dtype)
    if dropout > 0 and implementation != "reference" and not (implementation == "streaming" and a.query.is_cuda):
        implementation = "tiled"
    out = _run(implementation, a, memory).to(a.query.dtype)
    return out.squeeze(-1) if values.ndim == 2 else out


def choose_implementation(
    device: torch.device, dtype: torch.dtype, *, dropout: bool = False, gradients: bool = False
) -> Implementation:
    """The fastest implementation that runs there.

    ==================  ==========================  =====================  =======================================
    Device              without gradients           with gradients         with attention dropout
    ==================  ==========================  =====================  =======================================
    CPU                 native, else streaming      native, else tiled     tiled
    CUDA                triton, else streaming      streaming              streaming
    others              streaming                   streaming              tiled
    ==================  ==========================  =====================  =======================================

    `native` and `triton` take float32, bfloat16 and float16, and are chosen only once their results on a small example
    were those of the definition; float64 is `tiled` on CPUs. Inside `torch.compile` and exports it is `streaming`
    (`tiled` with dropout on CPUs), whose operations compilers know; in ONNX `reference`, some queries at a time, since
    runtimes there hold the scores whole and pay for padded values.
    """
    if dropout:
        return "streaming" if device.type == "cuda" else "tiled"
    if torch.onnx.is_in_onnx_export():
        return "reference"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return "streaming"
    exact = dtype == torch.float64
    if device.type == "cpu":
        if not exact and _trusted("native", device.type, dtype):
            return "native"
        return "tiled" if gradients or exact else "streaming"
    if device.type == "cuda" and not gradients and not exact and _trusted("triton", device.type, dtype):
        return "triton"
    return "streaming"


def implementations_for(device: torch.device, dtype: torch.dtype) -> tuple[Implementation, ...]:
    """All implementations that run there, the definition first; what a benchmark would compare."""
    names: list[Implementation] = ["reference", "streaming", "tiled"]
    compiled: tuple[Implementation, ...] = ("native", "triton")
    return (*names, *(name for name in compiled if _why_not(name, device, dtype) is None))


def _check_available(name: str, device: torch.device, dtype: torch.dtype) -> None:
    reason = _why_not(name, device, dtype)
    if reason:
        raise InvalidOption(f"aggregation {name} cannot run on {device.type} in {dtype}: {reason}; choose auto")


def _why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why an implementation cannot run; None where it can."""
    if name not in ("native", "triton"):
        return None
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return "it computes float32, bfloat16 and float16"
    if name == "native":
        if device.type != "cpu":
            return "it is for CPUs"
        return None if native.available() else native.why_not()
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it is for CUDA devices"
    return None


@functools.cache
def _trusted(name: Implementation, device: str, dtype: torch.dtype) -> bool:
    """Whether an implementation made by a compiler on this machine runs and gives the definition's results."""
    where = torch.device(device)
    if _why_not(name, where, dtype) is not None:
        return False
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.autocast(device, enabled=False):
        q, k = (torch.randn(1, n, 2 * 72, generator=rng).to(where, dtype) * 2 for n in (70, 150))
        for values in (torch.rand(1, 150, 1, generator=rng), torch.rand(1, 150, 3, generator=rng)):
            exact = _run("reference", prepare(q.double(), k.double(), values.to(where).double(), 2, None, 0.0), None)
            try:
                got = _run(name, prepare(q, k, values.to(where), 2, None, 0.0), None)
            except Exception as error:  # compilers and drivers have errors of their own
                log.warning("aggregation %s does not run on this %s and is left out: %s", name, device, error)
                return False
            wrong = (got - exact).abs().amax().item()
            if not wrong < (1e-5 if dtype == torch.float32 else 1e-2):
                log.warning("aggregation %s is wrong by %.1e on this %s and is left out", name, wrong, device)
                return False
    return True


def _run(name: Implementation, a: Arguments, memory: int | None) -> Tensor:
    """(B, Nq, V), in any precision."""
    if name == "reference":
        return _reference(a)
    if name == "streaming":
        return _fused(a)
    if name == "native":
        return tiled.aggregate(a, native.forward, memory)
    if name == "triton":
        from fewseg.models.ops.mask_aggregation import gpu

        return tiled.aggregate(a, gpu.forward, memory)
    return tiled.aggregate(a, None, memory)


ONNX_QUERIES = 256
"""Queries whose scores an ONNX graph holds at once; the number of keys is open there."""


def _reference(a: Arguments) -> Tensor:
    """The definition, scores materialised; in an ONNX graph those of `ONNX_QUERIES` queries at a time."""
    if torch.onnx.is_in_onnx_export() and a.query.shape[2] > ONNX_QUERIES:
        return torch.cat([_definition(a._replace(query=q)) for q in a.query.split(ONNX_QUERIES, 2)], 1)
    return _definition(a)


def _definition(a: Arguments) -> Tensor:
    weights = torch.softmax((a.query * a.scale) @ a.key.mT, dim=-1)
    weights = F.dropout(weights, a.dropout, training=a.dropout > 0)
    return (weights @ a.values.to(a.query.dtype).unsqueeze(1)).mean(1)


def _fused(a: Arguments) -> Tensor:
    """A fused kernel over values zero-padded to the head width (the kernels want equal widths)."""
    q, k, v = a.shared()[:3]
    width, masks = q.shape[-1], v.shape[-1]
    if masks > width:
        q, k = F.pad(q, (0, masks - width)), F.pad(k, (0, masks - width))
    padded = F.pad(v.to(q.dtype), (0, max(width - masks, 0))).unsqueeze(1).expand(-1, q.shape[1], -1, -1)
    out = F.scaled_dot_product_attention(q, k, padded, scale=a.scale, dropout_p=a.dropout)
    return out[..., :masks].mean(1)
