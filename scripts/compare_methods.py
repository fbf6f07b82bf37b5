"""Train every method on the same episodes over the same frozen backbones, and put their scores side by side.

    python scripts/compare_methods.py DATA WEIGHTS [--out runs/compare] [--tiny runs/default/tiny.safetensors]

DATA holds `coco_mini/` and `caltech101_24/`, WEIGHTS `mobilenetv2_100.safetensors` and a file for every other backbone
that is asked for; `--tiny` is what distill.py wrote. Rows 7 and 8 train SCCAN differently: `--rows 8 --epochs 5`.
Trains on base classes, chooses the checkpoint on validation classes carved out of them, scores the novel classes. Every
row is a run of its own that is left alone when it is finished: call again to go on. Prints the table and writes
OUT/table.md. Times and memory are measured in the end, each in a process of its own, one query at a time, on the CPU:
`--costs` measures them again, which asks for a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.evaluation.evaluate import evaluate
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import create_method
from fewseg.training.config import TrainConfig
from fewseg.training.log import read_metrics
from fewseg.training.train import train
from split import MIN_AREA, sources, training  # the script beside this one

log = logging.getLogger("compare_methods")


@dataclass(frozen=True)
class Row:
    """One method with its options; what is not said is the same for all."""

    title: str
    method: str
    options: tuple[str, ...] = ()
    trained: bool = True
    recipe: tuple[tuple[str, Any], ...] = ()
    """Fields of `TrainConfig` that differ from the other rows'."""


ROWS = (
    Row("prototypes, training-free", "prototype", trained=False),
    Row("prototypes, learned", "prototype", ("learned=True",)),
    Row("HSNet", "hsnet"),
    Row("SCCAN", "sccan"),
    Row("DCAMA, published attention", "dcama", ("dropout=0.0",)),
    Row(
        "DCAMA, cosine",
        "dcama",
        ("attention=cosine", "heads=1", "identity_start=True", "position_weight=0.0", "dropout=0.0"),
    ),
    Row(
        "DCAMA, cosine, balanced (ours)",
        "dcama",
        (
            "attention=cosine",
            "heads=1",
            "identity_start=True",
            "position_weight=0.0",
            "dropout=0.0",
            "class_balanced=True",
        ),
    ),
    Row(
        "SCCAN, some queries without the class",
        "sccan",
        recipe=(("lr", 2e-4), ("batch_size", 4), ("negative_episodes", 0.25)),
    ),
    Row(
        "SCCAN, alike start, spliced images",
        "sccan",
        ("width=128", "blocks=4", "heads=4", "dropout=0.0", "head_dropout=0.0", "alike_start=True"),
        recipe=(("lr", 1e-3), ("batch_size", 8), ("splice", 0.5)),
    ),
)
BY_DEFAULT = 7
"""So many rows, the first, are one comparison; what follows is trained differently, and run when asked for."""
HEAD = "| Backbone | Method | COCO 1 | COCO 5 | Caltech 1 | Caltech 5 | Parameters | ms a query | Peak MB | Best at |"


def recipe(row: Row, backbone: str, weights: Path, args: argparse.Namespace) -> TrainConfig:
    """The same for every method but for its options."""
    settings: dict[str, Any] = {
        "method": row.method,
        "model_kwargs": row.options,
        "image_size": args.size,
        "epochs": args.epochs,
        "lr": 5e-4,
        "amp": not args.no_amp,
        "log_every": 10,
        "device": "cpu",
        "workers": 0,
        "threads": args.threads,
        "tensorboard": False,
    }
    return training(args.data, backbone, weights, **{**settings, **dict(row.recipe)})


def trained(row: Row, backbone: str, weights: Path, folder: Path, args: argparse.Namespace) -> tuple[Path, str]:
    """The checkpoint of a row, and in words when it was best."""
    if not row.trained:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.safetensors"
        save_method(create_method(row.method, backbone=backbone, backbone_weights=weights, image_size=args.size), path)
        return path, "-"
    config = recipe(row, backbone, weights, args)

    def tell(step: int, total: int, last: str) -> None:
        if step % 25 == 0:
            log.info("%s: %d/%d %s", folder.name, step, total, last)

    report = train(config, folder, progress=tell)
    lines = [line for line in read_metrics(folder) if "seconds_per_step" in line and line["step"] <= report.best_step]
    minutes = sum(line["seconds_per_step"] for line in lines) * config.log_every / 60
    return report.best, f"{minutes:.0f} min (step {report.best_step})"


def scores(checkpoint: Path, opened: Sequence[OpenSource], per_class: int) -> dict[str, Any]:
    """mIoU and FB-IoU on the novel classes."""
    method = load_method(checkpoint)
    found: dict[str, Any] = {}
    for source in opened:
        for shots in (1, 5):
            episodes = draw_test_episodes(source.dataset, source.novel, shots, per_class, 0, min_images=6)
            result = evaluate(method, source.dataset, episodes)
            found[f"{source.dataset.name}.{shots}"] = [round(result.miou, 1), round(result.fb_iou, 1)]
            log.info("%s %d-shot: mIoU %.1f, FB-IoU %.1f", source.dataset.name, shots, result.miou, result.fb_iou)
    return found


def resident(field: str) -> int:
    """Memory of this process in KiB: `VmRSS` now, `VmHWM` its peak (ru_maxrss would begin at the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(next(text for text in status.splitlines() if text.startswith(field)).split()[1])


def cost(checkpoint: Path, threads: int) -> dict[str, Any]:
    """Parameters, seconds of a 1-shot query with the support cached, and what memory rose to; in this process."""
    torch.set_num_threads(threads)
    before = resident("VmRSS")
    method = load_method(checkpoint)
    side, seconds = method.config.image_size, []
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side, side, generator=rng)
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    with torch.inference_mode():
        support = method.encode_support(image[None], mask)
        for _ in range(12):
            started = time.perf_counter()
            method.segment(image, support)
            seconds.append(time.perf_counter() - started)
    peak = resident("VmHWM")
    own = sum(p.numel() for n, p in method.named_parameters() if not n.startswith("backbone."))
    return {
        "parameters": own,
        "milliseconds": round(1000 * statistics.median(seconds[2:])),
        "megabytes": round((peak - before) / 1024),
    }


def costs(path: Path, checkpoint: str, args: argparse.Namespace) -> dict[str, Any]:
    """What `cost` says in a process of its own; kept in a file."""
    if args.costs or not path.exists():
        command = [sys.executable, __file__, args.data, args.weights, "--cost", checkpoint]
        threads = ["--threads", str(args.threads)]
        path.write_text(subprocess.run([*command, *threads], check=True, capture_output=True, text=True).stdout)
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def line(title: str, backbone: str, record: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [" / ".join(f"{v:.1f}" for v in pair) for pair in record["scores"].values()]
    own = f"{record['parameters'] / 1e6:.2f} M"
    cells += [own, str(record["milliseconds"]), str(record["megabytes"]), record["best"]]
    return f"| {backbone} | {title} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--tiny", type=Path, default=Path("runs/default/tiny.safetensors"))
    parser.add_argument("--backbones", nargs="+", default=["mobilenetv2_100", "tiny"])
    parser.add_argument("--rows", nargs="+", type=int, default=list(range(BY_DEFAULT)), help="rows to run")
    parser.add_argument("--epochs", type=int, default=4, help="of 504 episodes")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-amp", action="store_true", help="float32, where bfloat16 is not fast")
    parser.add_argument("--costs", action="store_true", help="measure times and memory again")
    parser.add_argument("--cost", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.cost:
        print(json.dumps(cost(args.cost, args.threads)))
        return
    torch.set_num_threads(args.threads)
    opened = [open_source(text, min_area=MIN_AREA) for text in sources(args.data)]
    weights = {name: args.weights / f"{name}.safetensors" for name in args.backbones} | {"tiny": args.tiny}
    rows: list[tuple[str, str, Path]] = []
    table = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for backbone in args.backbones:
        for number in args.rows:
            row = ROWS[number]
            folder = args.out / f"{backbone}-{number}-{row.method}"
            done = folder / "row.json"
            settings = {"epochs": args.epochs, "size": args.size, "per_class": args.per_class}
            if done.exists() and json.loads(done.read_text())["settings"] != settings:
                sys.exit(f"{done} was made with other settings: give another --out")
            if not done.exists():
                checkpoint, best = trained(row, backbone, weights[backbone], folder, args)
                record = {"settings": settings, "best": best, "checkpoint": str(checkpoint)}
                record["scores"] = scores(checkpoint, opened, args.per_class)
                done.write_text(json.dumps(record, indent=1))
            rows.append((row.title, backbone, folder))
    for title, backbone, folder in rows:
        record = json.loads((folder / "row.json").read_text())
        table.append(line(title, backbone, {**record, **costs(folder / "cost.json", record["checkpoint"], args)}))
    (args.out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
