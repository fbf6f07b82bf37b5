"""Train the embedded default model: distil its backbone, then train DCAMA over it on episodes of the base classes.

    python scripts/train_default.py DATA WEIGHTS [--out runs/default] [--epochs 8]

DATA holds `coco_mini/`, `caltech101_24/` and `unlabelled/`, WEIGHTS `mobilenetv2_100.safetensors`. The masks of novel
classes are never learnt from; validation classes are carved out of the base classes. Both steps go on where they were
when the command is run again. Result: OUT/default.safetensors, in half precision. docs/default-model.md says what came
of it.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import torch

from fewseg.checkpoints import load_method, save_method
from fewseg.training.config import TrainConfig
from fewseg.training.loop import train
from split import training  # the script beside this one

LOG = logging.getLogger("train_default")
HEAD = (
    "attention=cosine",
    "heads=1",
    "identity_start=True",
    "position_weight=0.0",
    "dropout=0.0",
    "balance=True",
)
"""How the default departs from the paper's DCAMA; docs/default-model.md gives the reasons."""
SIZE = 320
"""Input side that the model is used at; it is trained at 256."""


def recipe(data: Path, backbone_weights: Path, epochs: int, seed: int) -> TrainConfig:
    """The head's training, for `fewseg.training`."""
    changes = {"options": HEAD, "shots": (1, 1, 5), "lr": 7e-4, "epochs": epochs, "seed": seed}
    return training(data, "tiny", backbone_weights, **changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/default"))
    parser.add_argument("--epochs", type=int, default=8, help="of 504 episodes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    distilled = args.out / "tiny.pt"
    if not distilled.with_suffix(".safetensors").exists():
        script = Path(__file__).with_name("distill.py")
        subprocess.run([sys.executable, script, args.data, args.weights, distilled], check=True)
    report = train(
        recipe(args.data, distilled.with_suffix(".safetensors"), args.epochs, args.seed),
        args.out / "head",
        progress=lambda step, total, last: LOG.info("%d/%d %s", step, total, last) if step % 25 == 0 else None,
    )
    method = load_method(report.best, image_size=SIZE)
    save_method(method, args.out / "default.safetensors", dtype=torch.float16)
    LOG.info("%s: validation mIoU %.1f, %s", args.out / "default.safetensors", report.best_miou, method.extra)


if __name__ == "__main__":
    main()
