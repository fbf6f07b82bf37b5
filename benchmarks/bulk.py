"""Speed of `fewseg segment` over a folder, beside a loop over `Segmenter.segment`, and its peak memory.

    python benchmarks/bulk.py [FOLDER]

Without FOLDER, the demo's photographs are taken, over and over, at the size of thumbnails.

Loop and bulk take turns over chunks of the same images, so that both meet the same machine; rates are totals over all
chunks. The loop is what one would write first: `segmenter.segment(path)`, then write the same files; as it is, and with
a single thread of torch, whose label maps and masks are compared with the others' byte for byte. Memory is the peak of
a fresh process for each number of images.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fewseg import Segmenter
from fewseg.batch import BatchOptions, find_images, segment_files
from fewseg.batch.output_folder import OutputFolder, file_identity
from fewseg.images import read_image
from fewseg.images.draw import overlay
from fewseg.tools.demo.photographs import sources

SINGLE = "loop, one thread"
"""The variant whose files the others' are compared with."""
SIDE = 300
"""Longest side in pixels of the images that are made."""


def main() -> None:
    options = parsed()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = made(Path(folder), max(options.count, *options.memory, 0))
            sys.argv.insert(1, folder)  # for the processes that measure memory
            run(options)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    images = find_images([options.folder], "none")
    if options.memory_of:
        measure_here(options, images[: options.memory_of])
        return
    images = images[: options.count]
    print(f"{len(images)} images, model {options.checkpoint}, {torch.get_num_threads()} threads of torch")
    compare(options, images)
    if options.memory:
        memory(options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=2000, help="images for the comparison")
    parser.add_argument("--chunk", type=int, default=100, help="images before the other one has its turn")
    parser.add_argument("--memory", type=int, nargs="*", default=[500, 2000], help="images of each memory run")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--model-threads", type=int, nargs="*", default=[0], help="bulk with each of these; 0 chooses")
    parser.add_argument("--no-overlays", action="store_true")
    parser.add_argument("--memory-of", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def made(folder: Path, count: int) -> Path:
    """The folder with `count` small images, copies of the demo's few photographs."""
    several = []
    for path in sorted({source.path for source in sources().values()}):
        image = read_image(path).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        several.append(image)
    for number in range(count):
        several[number % len(several)].save(folder / f"{number:05}.jpg")
    return folder


def taught(options: argparse.Namespace, image: Path) -> Segmenter:
    """A segmenter that has learnt the middle of an image: what it learns does not matter to speed."""
    segmenter = Segmenter.from_pretrained(options.checkpoint, device=options.device)
    width, height = read_image(image).size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 255
    segmenter.teach("middle", image, mask)
    return segmenter


def loop(segmenter: Segmenter, images: Sequence[Path], out: Path, overlays: bool) -> None:
    """One image after the other, in one thread but for torch's own."""
    folder = OutputFolder(out, segmenter)
    for image in images:
        prediction = segmenter.segment(image, probabilities=False)
        drawn = overlay(image, prediction) if overlays else None
        folder.write(image, folder.names.of(image), file_identity(image), prediction, drawn)
    folder.finish(images, [])


def compare(options: argparse.Namespace, images: Sequence[Path]) -> None:
    """Run all variants in turns; print rates and whether they wrote the same."""
    segmenter = taught(options, images[0])
    variants: dict[str, Callable[[Sequence[Path], Path], object]] = {
        "loop": lambda part, out: loop(segmenter, part, out, not options.no_overlays),
        SINGLE: lambda part, out: in_one_thread(loop, segmenter, part, out, not options.no_overlays),
    }
    for threads in options.model_threads:
        chosen = batch_options(options, threads)
        variants[f"bulk, model threads {threads or 'chosen'}"] = lambda part, out, chosen=chosen: segment_files(  # type: ignore[misc]
            segmenter, part, out, options=chosen
        )
    wall: dict[str, list[float]] = {variant: [] for variant in variants}
    busy: dict[str, list[float]] = {variant: [] for variant in variants}
    differing = dict.fromkeys(variants, 0)
    segmenter.segment(images[0])
    for turn, start in enumerate(range(0, len(images), options.chunk)):
        part = images[start : start + options.chunk]
        with tempfile.TemporaryDirectory() as folder:
            order = list(variants) if turn % 2 == 0 else list(variants)[::-1]
            for variant in order:
                before, cpu = time.perf_counter(), time.process_time()
                variants[variant](part, Path(folder, variant))
                wall[variant].append((time.perf_counter() - before) / len(part))
                busy[variant].append((time.process_time() - cpu) / len(part))
            for variant in variants:
                differing[variant] += differences(Path(folder, SINGLE), Path(folder, variant))
    report(wall, busy, differing)


def in_one_thread(call: Callable[..., None], *arguments: object) -> None:
    """Call with a single thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        call(*arguments)
    finally:
        torch.set_num_threads(threads)


def differences(one: Path, other: Path) -> int:
    """How many label maps and masks differ in any byte."""
    files = [file for file in one.rglob("*.png") if file.is_file()]
    return sum(not filecmp.cmp(file, other / file.relative_to(one), shallow=False) for file in files)


def report(wall: dict[str, list[float]], busy: dict[str, list[float]], differing: dict[str, int]) -> None:
    """A table: rate over all, ratio to the loop as the median of the turns, processor time, differing files."""
    print(f"{'':28} {'images/s':>10} {'times loop':>10} {'CPU ms each':>11} {'files differ':>12}")
    for variant, seconds in wall.items():
        ratios = [a / b for a, b in zip(wall["loop"], seconds, strict=True)]
        rate, cpu = 1 / statistics.mean(seconds), 1e3 * statistics.mean(busy[variant])
        print(f"{variant:28} {rate:10.2f} {statistics.median(ratios):10.2f} {cpu:11.1f} {differing[variant]:12d}")


def batch_options(options: argparse.Namespace, model_threads: int) -> BatchOptions:
    return BatchOptions(
        overlays=not options.no_overlays,
        workers=options.workers,
        batch_size=options.batch_size,
        model_threads=model_threads,
    )


def memory(options: argparse.Namespace) -> None:
    """The peak memory of `segment_files` over each number of images, in processes of their own."""
    for count in options.memory:
        done = subprocess.run(
            [sys.executable, *sys.argv, "--memory-of", str(count)], check=True, stdout=subprocess.PIPE, text=True
        )
        measured = json.loads(done.stdout)
        print(
            f"{measured['images']:6d} images: peak {measured['peak']:.0f} MiB, of which {measured['before']:.0f} MiB "
            f"before the first image; {measured['rate']:.2f} images/s"
        )


def measure_here(options: argparse.Namespace, images: Sequence[Path]) -> None:
    segmenter = taught(options, images[0])
    segmenter.segment(images[0])
    before = peak()
    with tempfile.TemporaryDirectory() as out:
        done = segment_files(segmenter, images, out, options=batch_options(options, options.model_threads[0]))
    print(json.dumps({"images": done.done, "before": before, "peak": peak(), "rate": done.rate}))


def peak() -> float:
    """The most memory this process has had so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts a parent's memory in ru_maxrss
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**10
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
