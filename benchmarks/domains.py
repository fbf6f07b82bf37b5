"""Learning curves on a user's own kind of images: IoU against the number of taught examples, over folders of domains.

    python benchmarks/domains.py FOLDER --ways frozen adapted --out domains.jsonl
    python benchmarks/domains.py FOLDER --ways forest-filters logistic-maps boosted-all --out domains.jsonl
    python benchmarks/domains.py --plot domains.jsonl --out docs/img/learning-curves.svg

FOLDER holds a folder for each set: `images/ID.jpg|png`, `masks/ID.png` (value = class index + 1, 0 background, 255
ignored), `classes.txt`. For each class with at least 8 images where it covers `--least-share` or more, these are
shuffled by the seed, a third (4 to 12) set aside as queries, and nested sets of the rest taught. The IoU of a class is
its intersections over its unions, summed over the queries at their own size; a set's is the mean over classes. Each
line that is written is one class with one number of examples; a run that is started again goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg_bench.domain_ways import WAYS, LabelledImage, set_threads

LEAST_IMAGES = 8
"""Images that a class has to cover its least share of to be measured."""

KEYS = ("set", "label", "way", "examples", "seed")
"""What names a measurement."""

QUERIES = (4, 12)
"""Least and most images that are set aside."""


@dataclass(frozen=True)
class Task:
    """A class of a set, with its images in the order of the seed."""

    name: str
    label: str
    value: int
    queries: tuple[int, ...]
    pool: tuple[int, ...]


def read_set(folder: Path) -> list[tuple[Image.Image, NDArray[np.uint8]]]:
    """Every image with its mask."""
    pairs = []
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image, Image.open(folder / "masks" / f"{path.stem}.png") as mask:
            pairs.append((image.convert("RGB"), np.asarray(mask)))
    return pairs


def tasks_of(folder: Path, masks: Sequence[NDArray[np.uint8]], seed: int, least_share: float) -> Iterator[Task]:
    """The classes with enough images that they cover `least_share` of."""
    for index, label in enumerate((folder / "classes.txt").read_text().split("\n")):
        having = [i for i, mask in enumerate(masks) if (mask == index + 1).mean() >= least_share]
        if label and len(having) >= LEAST_IMAGES:
            random.Random(str(seed)).shuffle(having)
            count = min(QUERIES[1], max(QUERIES[0], len(having) // 3))
            yield Task(folder.name, label, index + 1, tuple(having[:count]), tuple(having[count:]))


def measure(task: Task, pairs: Sequence[Any], way: str, examples: int, seed: int) -> dict[str, Any]:
    """One class, one way, one number of examples."""

    def labelled(index: int) -> LabelledImage:
        image, mask = pairs[index]
        return LabelledImage(image, np.where(mask == 255, 255, mask == task.value).astype(np.uint8))

    began = time.perf_counter()
    predict, about = WAYS[way]([labelled(i) for i in task.pool[:examples]], seed)
    fitted = time.perf_counter()
    intersection = union = 0
    each = []
    for index in task.queries:
        query = labelled(index)
        found, counted, truth = predict(query.image), query.mask != 255, query.mask == 1
        inter, both = int((found & truth & counted).sum()), int(((found | truth) & counted).sum())
        intersection, union = intersection + inter, union + both
        each.append(round(inter / both, 4) if both else 1.0)
    queried = (time.perf_counter() - fitted) / len(task.queries)
    return {
        **dict(zip(KEYS, (task.name, task.label, way, examples, seed), strict=True)),
        "iou": intersection / max(1, union),
        "each": each,
        "fit_s": round(fitted - began, 2),
        "query_s": round(queried, 3),
        **about,
    }


def run(args: argparse.Namespace) -> None:
    """Measure what the output file does not have yet."""
    done = {tuple(r[key] for key in KEYS) for r in read_results([args.out])} if args.out.exists() else set()
    folders = [f for f in sorted(args.folder.iterdir()) if (f / "classes.txt").is_file()]
    for folder in [f for f in folders if not args.sets or f.name in args.sets]:
        pairs = read_set(folder)
        for seed in args.seeds:
            tasks = tasks_of(folder, [mask for _, mask in pairs], seed, args.least_share)
            for task in [t for t in tasks if not args.labels or t.label in args.labels]:
                for way in args.ways:
                    for examples in [n for n in args.examples if n <= len(task.pool)]:
                        if (task.name, task.label, way, examples, seed) in done:
                            continue
                        result = measure(task, pairs, way, examples, seed)
                        with args.out.open("a") as file:
                            file.write(json.dumps(result) + "\n")
                        print({k: v for k, v in result.items() if k not in ("each", "per_image")}, flush=True)


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of several files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def mean_over_sets(results: Sequence[dict[str, Any]], way: str, examples: int) -> dict[str, NDArray[np.float64]]:
    """By set that reaches that number of examples: the mean over classes for every seed, in per cent."""
    seeds = sorted({r["seed"] for r in results})
    means: dict[str, NDArray[np.float64]] = {}
    for name in sorted({r["set"] for r in results}):
        own = [r for r in results if (r["set"], r["way"], r["examples"]) == (name, way, examples)]
        by_seed = [[r["iou"] for r in own if r["seed"] == seed] for seed in seeds]
        if all(by_seed):
            means[name] = np.array([100 * np.mean(values) for values in by_seed])
    return means


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a set, a column a way and number of examples; the interval is that of the mean over seeds."""
    counts = sorted({r["examples"] for r in results})
    ways = list(dict.fromkeys(r["way"] for r in results))
    columns = [(way, n) for n in counts for way in ways]
    values = {column: mean_over_sets(results, *column) for column in columns}
    columns = [column for column in columns if values[column]]
    lines = ["| set | " + " | ".join(f"{way}, {n}" for way, n in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in sorted({r["set"] for r in results}):
        cells = [f"{values[c][name].mean():.1f}" if name in values[c] else "-" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = []
    for column in columns:
        over_sets = np.mean(list(values[column].values()), 0)
        half = 1.96 * over_sets.std(ddof=1) / len(over_sets) ** 0.5 if len(over_sets) > 1 else None
        means.append(f"{over_sets.mean():.1f}" + ("" if half is None else f" ± {half:.1f}"))
    return "\n".join([*lines, "| mean | " + " | ".join(means) + " |"])


def plot(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Curves of every set and of the mean, to an image."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, ways = sorted({r["set"] for r in results}), list(dict.fromkeys(r["way"] for r in results))
    counts = sorted({r["examples"] for r in results})
    figure, axes = plt.subplots(3, 5, figsize=(15, 8.5), sharex=True, squeeze=False)
    for axis, name in zip(axes.flat, ["mean of the sets", *names], strict=False):
        for way in ways:
            points = []
            for n in counts:
                means = mean_over_sets(results, way, n)
                chosen = [means[name]] if name in means else list(means.values()) if name not in names else []
                if chosen:
                    points.append((n, float(np.mean(chosen))))
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, label=way) if points else None
        axis.set_title(name, fontsize=10)
        axis.set_ylim(0, 100)
        axis.set_xscale("log")
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    for axis in list(axes.flat)[len(names) + 1 :]:
        axis.axis("off")
    figure.supxlabel("examples")
    figure.supylabel("IoU, %")
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of sets; not needed with --table and --plot")
    parser.add_argument("--ways", nargs="+", default=["frozen", "adapted"], choices=list(WAYS))
    parser.add_argument("--examples", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="names of sets; all by default")
    parser.add_argument("--labels", nargs="+", help="names of classes; all by default")
    parser.add_argument("--least-share", type=float, default=0.005, help="of an image that a class has to cover")
    parser.add_argument("--threads", type=int, default=0, help="of every library; 0: as many as there are cores")
    parser.add_argument("--out", type=Path, required=True, help="results (JSON lines), or the plot")
    parser.add_argument("--table", type=Path, nargs="+", help="print a table of such results, written to --out as well")
    parser.add_argument("--plot", type=Path, nargs="+", help="draw the curves of such results into --out")
    args = parser.parse_args()
    if args.table:
        args.out.write_text(table(read_results(args.table)) + "\n")
        print(args.out.read_text())
    elif args.plot:
        plot(read_results(args.plot), args.out)
    elif args.folder:
        set_threads(args.threads)
        run(args)
    else:
        parser.error("give the folder of the sets, --table or --plot")


if __name__ == "__main__":
    main()
