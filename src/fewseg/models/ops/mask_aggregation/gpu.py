"""The aggregation as a Triton kernel: a running softmax over blocks of keys, and products with the value columns alone.

One value column is a sum along the scores, without a matrix product; more are a product 16 wide, whatever the width of
the head. Import this module only where triton is installed.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewseg.models.ops.mask_aggregation.arguments import Arguments
from fewseg.models.ops.mask_aggregation.tiled import Forward

_COLUMNS: Final = 16
"""Value columns of one launch; more take several."""

_DEPTH: Final = 128
"""Numbers of the width that one product takes at most."""


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    values,
    out,
    lse,
    scale,
    heads,
    queries,
    keys,
    width,
    columns,
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_token,
    value_batch,
    value_token,
    value_column,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    DEPTH: tl.constexpr,
    STEPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of queries of one head; scale has log2(e) in it, the last stride of query and key is 1.

    One long function: its loop carries the running softmax in registers, and a Triton function in its place would have
    to be handed, and to return, every pointer, mask and sum.
    """
    head = tl.program_id(1)
    item = (head // heads).to(tl.int64)
    query += item * query_batch + (head % heads) * query_head
    key += item * key_batch + (head % heads) * key_head
    values += item * value_batch
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    deep = tl.arange(0, DEPTH)
    cols = tl.arange(0, COLUMNS)
    most = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, COLUMNS), tl.float32)
    at_query = query + rows[:, None].to(tl.int64) * query_token
    q = tl.load(at_query + deep[None, :], (rows[:, None] < queries) & (deep[None, :] < width), 0.0)
    for first in range(0, keys, KEYS):
        tokens = first + tl.arange(0, KEYS)
        there = tokens < keys
        at_key = key + tokens[None, :].to(tl.int64) * key_token
        k = tl.load(at_key + deep[:, None], there[None, :] & (deep[:, None] < width), 0.0)
        scores = tl.dot(q, k, input_precision=PRECISION)
        for step in tl.static_range(1, STEPS):
            more = step * DEPTH + deep
            q_more = tl.load(at_query + more[None, :], (rows[:, None] < queries) & (more[None, :] < width), 0.0)
            k_more = tl.load(at_key + more[:, None], there[None, :] & (more[:, None] < width), 0.0)
            scores = tl.dot(q_more, k_more, scores, input_precision=PRECISION)
        scores = tl.where(there[None, :], scores * scale, -float("inf"))
        new = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - new[:, None])
        shrink = tl.exp2(most - new)
        total = total * shrink + tl.sum(weights, 1)
        at_value = values + tokens[:, None].to(tl.int64) * value_token + cols[None, :] * value_column
        v = tl.load(at_value, there[:, None] & (cols[None, :] < columns), 0.0)
        if COLUMNS == 1:
            sums = sums * shrink[:, None] + tl.sum(weights * tl.reshape(v, (1, KEYS)), 1)[:, None]
        else:
            sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        most = new
    row = head.to(tl.int64) * queries + rows
    place = row[:, None] * columns + cols[None, :]
    tl.store(out + place, sums / total[:, None], (rows[:, None] < queries) & (cols[None, :] < columns))
    tl.store(lse + row, (most + tl.log2(total)) * 0.6931471805599453, rows < queries)


def forward(a: Arguments) -> Forward:
    """Results and denominators, without a graph; float32, bfloat16 and float16."""
    q, k = (t.detach() if t.stride(-1) == 1 else t.detach().contiguous() for t in (a.query, a.key))
    values = a.values.detach().to(q.dtype if a.values.shape[2] > 1 else torch.float32)
    parts = [_launch(q, k, some, a.scale) for some in values.split(_COLUMNS, -1)]
    return Forward(torch.cat([p.out for p in parts], -1), parts[0].lse)


def _launch(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Forward:
    b, heads, nq, width = q.shape
    columns = v.shape[2]
    out = q.new_empty(b, heads, nq, columns, dtype=torch.float32)
    lse = q.new_empty(b, heads, nq, dtype=torch.float32)
    if out.numel() == 0:
        return Forward(out, lse)
    k_batch, v_batch = (t.stride(0) if t.shape[0] > 1 else 0 for t in (k, v))
    strides = (*q.stride()[:3], k_batch, *k.stride()[1:3], v_batch, *v.stride()[1:])
    rows, depth = 64, max(16, min(_DEPTH, triton.next_power_of_2(width)))
    meta: dict[str, Any] = {
        "QUERIES": rows,
        "KEYS": 64,
        "DEPTH": depth,
        "STEPS": math.ceil(width / depth),
        "COLUMNS": 1 if columns == 1 else _COLUMNS,
        "PRECISION": "ieee",  # TF32's ten bits would show in float32 masks
        "num_warps": 4,
        "num_stages": 2,
    }
    grid = (triton.cdiv(nq, rows), b * heads)
    sizes = (scale * math.log2(math.e), heads, nq, k.shape[2], width, columns)
    with torch.cuda.device_of(q):  # nothing where Triton's interpreter works on the CPU
        _kernel[grid](q, k, v, out, lse, *sizes, *strides, **meta)
    return Forward(out, lse)
