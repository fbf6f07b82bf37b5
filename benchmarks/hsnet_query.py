"""What comparing an encoded query with an encoded support costs: the plain way against fewseg's, with ratios.

    python benchmarks/hsnet_query.py [--backbone resnet50] [--size 400] [--shots 1 5] [--repeats 3]

The plain way holds the 4-D correlation of every scale whole, channels first, and convolves whole tensors; ours consumes
it in parts. Same weights, same numbers: the largest difference of the logits is printed, in their standard deviations.
A third of each support is foreground. Times are medians of interleaved runs. Memory is what the peak of a process of
its own rises above what it holds before, with an allocator that returns every large block at once; `training` is
forward and backward of one episode.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg import create_method
from fewseg.methods.hsnet import HSNet, PivotBlock
from fewseg.ops.resize import resize
from fewseg.types import QueryFeatures, SupportSet


class PlainHSNet(HSNet):
    """The same network with nothing saved: tensors (B, C, hq, wq, hs, ws)."""

    def _one_shot(self, query: QueryFeatures, support: dict[str, Tensor]) -> Tensor:
        correlations = {}
        for scale in self.scales:
            blocks = []
            for name in (f"map.{i}" for i in self.compared[scale]):
                q, s = query.tensors[name], support[name]
                cosines = torch.bmm(q.flatten(2).transpose(1, 2), s.flatten(2)).clamp(min=0)
                blocks.append(cosines.view(q.shape[0], *q.shape[2:], *s.shape[2:]))
            correlations[scale] = torch.stack(blocks, 1)
        x = None
        for scale in self.scales:
            finer = correlations[scale]
            for block in self.squeeze[str(scale)]:
                finer = plain_block(block, finer)
            if x is not None:
                (hq, wq), (hs, ws) = finer.shape[2:4], x.shape[4:]
                x = resize(x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2), (hq, wq))
                x = x.unflatten(0, (-1, hs, ws)).permute(0, 3, 4, 5, 1, 2)
                finer = x + finer
                for block in self.mix[str(scale)]:
                    finer = plain_block(block, finer)
            x = finer
        decoded = self.decoder1(x.mean((4, 5)))
        return resize(self.decoder2(resize(decoded, tuple(2 * n for n in decoded.shape[2:]))), query.image_size)


def plain_block(block: PivotBlock, x: Tensor) -> Tensor:
    b, _, hq, wq = x.shape[:4]
    over_support = block.support(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    kept = x[..., :: block.stride, :: block.stride]
    hs, ws = kept.shape[4:]
    over_query = block.query(kept.permute(0, 4, 5, 1, 2, 3).flatten(0, 2))
    over_support = over_support.unflatten(0, (b, hq, wq)).permute(0, 3, 1, 2, 4, 5)
    over_query = over_query.unflatten(0, (b, hs, ws)).permute(0, 3, 4, 5, 1, 2)
    return F.relu(block.norm(over_support + over_query))


def build(plain: bool, backbone: str, size: int, shots: int) -> tuple[HSNet, QueryFeatures, SupportSet]:
    """The method with a query and a support, a third of it foreground, encoded."""
    torch.manual_seed(0)
    method = create_method("hsnet", backbone=backbone, image_size=size)
    assert isinstance(method, HSNet)
    if plain:
        method.__class__ = PlainHSNet
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(1, 1 + shots, 3, size, size, generator=rng)
    masks = torch.zeros(1, shots, size, size)
    masks[..., size // 4 : 3 * size // 4, size // 6 : 5 * size // 6] = 1
    with torch.no_grad():
        return method, method.encode_query(images[:, 0]), method.encode_support(images[:, 1:], masks)


def work(method: HSNet, query: QueryFeatures, support: SupportSet, training: bool) -> Tensor:
    with torch.set_grad_enabled(training):
        logits = method.train(training).segment(query, support)
        if training:
            logits.square().mean().backward()
    return logits.detach()


def peak(
    plain: bool, backbone: str, size: int, shots: int, training: bool, answer: multiprocessing.Queue[float]
) -> None:
    inputs = build(plain, backbone, size, shots)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work(*inputs, training)
    answer.put((_memory("VmHWM") - before) / 1024)


def _memory(field: str) -> int:
    """KiB of resident memory: now (`VmRSS`) or at most (`VmHWM`). Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory(*case: object) -> float:
    """MiB that the case adds to its process's peak."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak, args=(*case, answer))
    process.start()
    process.join()
    return float(answer.get())


def seconds(run: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(backbone: str, size: int, shots: int, training: bool, repeats: int) -> str:
    cases = {plain: build(plain, backbone, size, shots) for plain in (True, False)}
    logits = {plain: work(*case, training) for plain, case in cases.items()}
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for plain, case in cases.items():
            times[plain].append(seconds(lambda case=case: work(*case, training)))
    slow, fast = (statistics.median(times[plain]) for plain in (True, False))
    high, low = (memory(plain, backbone, size, shots, training) for plain in (True, False))
    difference = ((logits[True] - logits[False]).abs().max() / logits[True].std()).item()
    what = "training" if training else "inference"
    return (
        f"| {backbone} | {size} | {shots} | {what} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f}x |"
        f" {high:.0f} | {low:.0f} | {high / low:.1f}x | {difference:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**18)  # of the processes whose memory is measured
    print(f"float32, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print("| backbone | size | shots | | plain s | fewseg s | ratio | plain MiB | fewseg MiB | ratio | difference |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for shots in args.shots:
        for training in (False, True):
            print(compare(args.backbone, args.size, shots, training, args.repeats), flush=True)


if __name__ == "__main__":
    main()
