"""What a query costs: the straightforward way against fewseg's, interleaved in one run, with ratios.

    python benchmarks/dcama_query.py [--backbone resnet50] [--size 384] [--shots 1 5] [--repeats 3]

The straightforward way encodes the support again for each query and materialises the attention scores (as the paper's
released model does); ours encodes the support once and streams the softmax. Same weights, same numbers (the largest
difference of the logits is printed). Times are medians. Memory is what the peak of a
process of its own rises above what it holds after encoding the support; memory that the allocator kept from the
encoding does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewseg import create_method
from fewseg.methods.dcama import DCAMA


def build(backbone: str, size: int) -> DCAMA:
    torch.manual_seed(0)
    method = create_method("dcama", backbone=backbone, image_size=size)
    assert isinstance(method, DCAMA)
    return method


def episode(size: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, shots, size, size)
    masks[..., size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
    return torch.randn(1, 3, size, size, generator=rng), torch.randn(1, shots, 3, size, size, generator=rng), masks


def straightforward(method: DCAMA, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    ours = method.config
    method.config = replace(ours, implementation="reference")  # the attention reads it at every call
    try:
        return method(query, images, masks)
    finally:
        method.config = ours


def peak(backbone: str, size: int, shots: int, cached: bool, answer: multiprocessing.Queue[float]) -> None:
    method, (query, images, masks) = build(backbone, size), episode(size, shots)
    with torch.inference_mode():
        support = method.encode_support(images, masks)
        before = _high_water("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        _ = method.segment(query, support) if cached else straightforward(method, query, images, masks)
    answer.put((_high_water("VmHWM") - before) / 1024)


def _high_water(field: str) -> int:
    """KiB of resident memory: now (`VmRSS`) or at most (`VmHWM`). Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(backbone: str, size: int, shots: int, cached: bool) -> float:
    """MiB that one query adds to the process's peak."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak, args=(backbone, size, shots, cached, answer))
    process.start()
    process.join()
    return float(answer.get())


@torch.inference_mode()
def compare(backbone: str, size: int, shots: int, repeats: int) -> str:
    method, (query, images, masks) = build(backbone, size), episode(size, shots)
    support = method.encode_support(images, masks)
    difference = (straightforward(method, query, images, masks) - method.segment(query, support)).abs().max().item()
    plain, ours = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        straightforward(method, query, images, masks)
        middle = time.perf_counter()
        method.segment(query, support)
        plain.append(middle - started)
        ours.append(time.perf_counter() - middle)
    a, b = statistics.median(plain), statistics.median(ours)
    ma, mb = (memory(backbone, size, shots, cached) for cached in (False, True))
    return (
        f"| {backbone} | {size} | {shots} | {a:.3f} | {b:.3f} | {a / b:.1f}x | {ma:.0f} | {mb:.0f} | {difference:.1e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"float32, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print(
        "| backbone | size | shots | straightforward s | fewseg s | ratio |"
        " straightforward MiB | fewseg MiB | difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for shots in args.shots:
        print(compare(args.backbone, args.size, shots, args.repeats), flush=True)


if __name__ == "__main__":
    main()
