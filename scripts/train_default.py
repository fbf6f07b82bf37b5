"""Train the embedded default model: distil its backbone, train DCAMA over its teacher, put the two together.

    python scripts/train_default.py DATA WEIGHTS [--out runs/default]

DATA holds `coco_mini/`, `caltech101_24/` and `unlabelled/`, WEIGHTS `mobilenetv2_100.safetensors`. The masks of novel
classes are never learnt from. Beside the labelled base classes the head learns from classes that `object_discovery.py`
makes of unlabelled photographs. It is trained twice: without some base classes, to validate on them, and then with all.
All steps go on where they were when the command is run again; OUT/maps, 10 GB, may be deleted afterwards. Result:
OUT/default.safetensors, in half precision, and the same head over MobileNetV2 itself,
OUT/mobilenetv2-default.safetensors. What came of it is in docs/default-model.md.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewseg.core.progress import ProgressCallback
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.training.calibration.episodes import calibrate_method
from fewseg.training.calibration.presence import calibrate_presence
from fewseg.training.config import TrainConfig
from fewseg.training.data import ValidationSet, open_data
from fewseg.training.loop import LAST
from fewseg.training.train import train
from fewseg.training.validate import validate
from object_discovery import discover_objects, make_classes  # the scripts beside this one
from split import training

log = logging.getLogger("train_default")
SIZE = 384
"""Input side that the model is used at; it is trained at 256."""
TEACHER = "mobilenetv2_100"
TELL_EVERY = 15
"""Seconds between lines about a training."""
SHARES = (0.75, 0.35, 0.3)
"""How often COCO's classes, Caltech's and those found in unlabelled photographs are drawn, relative to each other."""
VALIDATION = (14, 4)
"""Classes of COCO and of Caltech that are kept for validation; of the found ones none are."""


def recipe(data: Path, backbone: str, weights: Path, objects: Path | None, **changes: object) -> TrainConfig:
    """The head's training; `objects` are the classes of `object_discovery.py`, None for the labelled ones alone."""
    settings: dict[str, object] = {
        "method": "dcama_light",
        "shots": (1, 1, 5),
        "lr": 1e-3,
        "epochs": 20,
        "validate_every": 5,
        "loss": "gce+dice",
        "amp": False,
        "ema_decay": 0.99,
        "validation_classes": VALIDATION,
        "validation_episodes": 56,
    }
    labelled = training(data, backbone, weights, **{**settings, **changes})
    if objects is None:
        return labelled
    kept = (*labelled.validation_classes, 0)
    return replace(labelled, data=(*labelled.data, str(objects)), weights=SHARES, validation_classes=kept)


def carry_over(head: Path, backbone_weights: Path) -> FewShotMethod:
    """The trained head over the distilled backbone, whose maps imitate those it was trained on channel by channel."""
    trained = load_method(head)
    choices = {**vars(trained.config), "image_size": SIZE}
    own = create_method(trained.name, backbone="tiny", backbone_weights=backbone_weights, **choices)
    state = {k: v for k, v in trained.state_dict().items() if not k.startswith("backbone.")}
    missing, unexpected = own.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.startswith("backbone.") for name in missing), missing
    own.reset_calibration()  # they were fitted to the teacher, and at the size of training
    own.extra = {k: v for k, v in trained.extra.items() if not k.startswith("presence")}
    return own


def teller() -> ProgressCallback:
    """Logs how a training goes on, now and then."""
    told = time.monotonic()

    def tell(step: int, total: int, last: str) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY or step == total:
            log.info("%d/%d %s", step, total, last)
            told = time.monotonic()

    return tell


def train_heads(data: Path, teacher: Path, out: Path, validation: Sequence[ValidationSet], seed: int) -> list[Path]:
    """Train the head twice over the teacher: without the classes to validate on, and with all, which is what ships.

    Returns the checkpoints after the last step of either: nobody can know the best step of the second.
    """
    photographs = [part for part in validation if part.dataset.name == "caltech101_24"]
    held = sorted({part.dataset.classes[e.class_id] for part in photographs for e in part.episodes})
    found = discover_objects(data, teacher, held, out / "things.pt", seed)
    objects = {"mobilenetv2": out / "things-validated", "mobilenetv2-all": out / "things"}
    none: dict[str, Any] = {"validation_classes": (0, 0), "validation_episodes": 0}
    for name, avoided, changes in (("mobilenetv2", held, {}), ("mobilenetv2-all", (), none)):
        make_classes(found, data, avoided, objects[name], seed)
        config = recipe(data, TEACHER, teacher, objects[name], seed=seed, cache_folder=str(out / "maps"), **changes)
        train(config, out / name, progress=teller())
    return [out / name / LAST for name in objects]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/default"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    distilled = (args.out / "tiny.pt").with_suffix(".safetensors")
    if not distilled.exists():
        script = Path(__file__).with_name("distill.py")
        subprocess.run([sys.executable, script, args.data, args.weights, args.out / "tiny.pt"], check=True)

    teacher = args.weights / f"{TEACHER}.safetensors"
    validation = open_data(recipe(args.data, TEACHER, teacher, None, seed=args.seed)).validation
    tried, shipped = train_heads(args.data, teacher, args.out, validation, args.seed)
    over_teacher = [load_method(head, image_size=SIZE) for head in (shipped, tried)]
    over_own = [carry_over(head, distilled) for head in (shipped, tried)]
    for name, (method, fitted) in (("default", over_own), ("mobilenetv2-default", over_teacher)):
        _, _, scores = validate(fitted, validation, size=SIZE, batch=1)
        log.info("%s: validation %s", name, scores)
        finish(method, fitted, validation, args.out / f"{name}.safetensors", args.seed)


def finish(
    method: FewShotMethod, fitted: FewShotMethod, validation: Sequence[ValidationSet], path: Path, seed: int
) -> None:
    """Save `method` with what is fitted after training, to `fitted`: that one has not learnt the validation classes."""
    assert isinstance(method, DCAMALight)
    assert isinstance(fitted, DCAMALight)
    calibrate_method(fitted, validation, seed=seed)
    presence = calibrate_presence(fitted, validation, seed=seed)
    method.calibration.logit_offset.copy_(fitted.calibration.logit_offset)
    method.calibration.temperature.copy_(fitted.calibration.temperature)
    method.extra |= presence
    save_method(method, path, dtype=torch.float16)
    log.info("%s: %s", path, method.extra)


if __name__ == "__main__":
    main()
