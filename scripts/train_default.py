"""Train the embedded default model: distil its backbone, then train DCAMA over it on episodes.

    python scripts/train_default.py DATA WEIGHTS [--out runs/default] [--backbone tiny|mobilenetv2]

DATA holds `coco_mini/`, `caltech101_24/` and `unlabelled/`, WEIGHTS `mobilenetv2_100.safetensors`. Only masks of base
classes are learnt from (those of novel classes are blanked while reading); validation classes are carved out of them.
`--backbone mobilenetv2` trains the same head on the frozen MobileNetV2 instead, for comparison. Every step is drawn
from (seed, step): a killed run goes on from its checkpoint. Result: OUT/NAME.safetensors, OUT/NAME.jsonl. See
docs/default-model.md for what came of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from distill import NOVEL_CALTECH, Student, save  # the script beside this one
from fewseg.backbones import BackboneSpec
from fewseg.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fewseg.checkpoints import save_method
from fewseg.full_size import presence_scores
from fewseg.methods import build_method, create_method
from fewseg.methods.dcama import DCAMA

LOG = logging.getLogger("train_default")
VALIDATION_CALTECH = {"camera", "crab", "emu", "flamingo"}
VALIDATION_COCO = {5, 17, 22, 41, 45, 57, 62, 74}
"""Base classes (0-based) that choose between models: bus, horse, zebra, cup, bowl, couch, tv, clock."""
MIN_AREA = 0.02
LONGEST = 400
HEAD: dict[str, Any] = {"attention": "cosine", "identity_start": True, "position_weight": 0.0, "dropout": 0.0}
MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


@dataclass(frozen=True)
class Item:
    """One picture in memory and where each of its classes is."""

    image: Tensor
    """(3, H, W) uint8."""
    index: Tensor
    """(H, W) uint8, class index + 1 within its source."""


@dataclass
class Pool:
    """Pictures of one source by class."""

    items: list[Item]
    by_class: dict[int, list[int]]


def shrink(image: Image.Image, mask: NDArray[np.uint8]) -> Item:
    scale = min(1.0, LONGEST / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    picture = np.array(image.resize(size, Image.Resampling.BILINEAR))
    small = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return Item(torch.from_numpy(picture).permute(2, 0, 1).contiguous(), torch.from_numpy(small))


def read_coco(root: Path, validation: bool) -> Pool:
    pool = Pool([], {})
    for path in sorted((root / "images").glob("*.jpg")):
        mask = np.array(Image.open(root / "masks" / f"{path.stem}.png"))
        mask[(mask > 0) & ((mask.astype(int) - 1) % 4 == 0)] = 0  # novel classes are background, never a target
        classes = [int(v) - 1 for v in np.unique(mask) if v and (mask == v).mean() >= MIN_AREA]
        classes = [c for c in classes if (c in VALIDATION_COCO) == validation]
        if classes:
            for c in classes:
                pool.by_class.setdefault(c, []).append(len(pool.items))
            pool.items.append(shrink(Image.open(path).convert("RGB"), mask))
    return Pool(pool.items, {c: v for c, v in pool.by_class.items() if len(v) > 1})


def read_caltech(root: Path, validation: bool) -> Pool:
    pool = Pool([], {})
    base = sorted(f.name for f in root.iterdir() if f.name not in NOVEL_CALTECH)
    for index, name in enumerate(base):
        if (name in VALIDATION_CALTECH) != validation:
            continue
        for path in sorted((root / name).glob("*.jpg")):
            mask = (np.array(Image.open(path.with_suffix(".png")).convert("L")) > 127) * np.uint8(index + 1)
            if (mask > 0).mean() >= MIN_AREA:
                pool.by_class.setdefault(index, []).append(len(pool.items))
                pool.items.append(shrink(Image.open(path).convert("RGB"), mask))
    return pool


def augment(item: Item, label: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A view: image (3, s, s) normalised, class index map (s, s); tries to keep the label in sight."""
    _, h, w = item.image.shape
    target = item.index == label + 1
    for _ in range(5):
        area, ratio = rng.uniform(0.35, 1.0), math.exp(rng.uniform(-0.2, 0.2))
        ch, cw = min(h, int(h * math.sqrt(area) * ratio)), min(w, int(w * math.sqrt(area) / ratio))
        top, left = int(rng.integers(0, h - ch + 1)), int(rng.integers(0, w - cw + 1))
        window = (slice(top, top + ch), slice(left, left + cw))
        if target[window].float().mean() >= MIN_AREA:
            break
    else:
        window = (slice(0, h), slice(0, w))
    image = item.image[(slice(None), *window)][None].float() / 255
    image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    index = F.interpolate(item.index[window][None, None].float(), (size, size), mode="nearest")[0, 0]
    if rng.random() < 0.5:
        image, index = image.flip(-1), index.flip(-1)
    if rng.random() < 0.1:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    gain = torch.tensor(rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3), dtype=torch.float32).view(3, 1, 1)
    image = ((image - 0.5) * rng.uniform(0.7, 1.3) + 0.5).mul(gain).clamp(0, 1)
    return (image - MEAN) / STD, index


def draw(
    pools: list[Pool], weights: list[float], groups: int, members: int, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of `groups` classes, `members` pictures each: images (g, m, 3, s, s), index maps (g, m, s, s), labels."""
    pool = pools[int(rng.choice(len(pools), p=weights))]
    classes = [c for c, v in pool.by_class.items() if len(v) >= members]
    chosen = rng.choice(classes, groups, replace=len(classes) < groups)
    views = []
    for label in chosen:
        picks = rng.choice(pool.by_class[int(label)], members, replace=False)
        views.append([augment(pool.items[int(i)], int(label), size, rng) for i in picks])
    images = torch.stack([torch.stack([v[0] for v in group]) for group in views])
    return images, torch.stack([torch.stack([v[1] for v in group]) for group in views]), torch.tensor(chosen)


def episode_logits(model: DCAMA, images: Tensor, masks: Tensor, donors: Tensor) -> Tensor:
    """Every picture is a query once, supported by the other members of group `donors[g]`; each map is computed once.

    images (g, m, 3, s, s), masks (g, m, s, s) of each group's own class. Returns (g * m, 2, s, s).
    """
    m = masks.shape[1]
    size = (int(masks.shape[-2]), int(masks.shape[-1]))
    maps = model.backbone(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    query = model.query_from_maps(maps, size)
    support = model.support_from_maps(maps, masks)  # (g, m, ...)
    others = torch.tensor([[j for j in range(m) if j != i] for i in range(m)])  # (m, m - 1)
    gathered = {k: v[donors][:, others].flatten(0, 1) for k, v in support.tensors.items()}
    return model.segment(query, type(support)(support.method, support.image_size, gathered))


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice of the foreground; queries without foreground have no Dice term."""
    logits = logits.float()
    entropy = F.cross_entropy(logits, target.long())
    p, t = logits.softmax(1)[:, 1].flatten(1), target.float().flatten(1)
    dice = 1 - 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1)).clamp(min=1e-6)
    filled = t.sum(1) > 0
    return entropy + (dice[filled].mean() if filled.any() else 0.0)


def train_step(model: DCAMA, pools: list[Pool], weights: list[float], rng: np.random.Generator) -> Tensor:
    size = int(rng.choice([224, 256, 288]))
    groups, members = [(6, 2), (6, 2), (4, 3), (2, 6)][int(rng.integers(4))]
    images, index, labels = draw(pools, weights, groups, members, size, rng)
    donors = torch.arange(groups)
    if rng.random() < 0.1:  # supports of another class: the target is that class in this picture, mostly nothing
        donors = donors.roll(1)
    own = (index == (labels + 1).view(-1, 1, 1, 1)).float()
    target = (index == (labels[donors] + 1).view(-1, 1, 1, 1)).flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = episode_logits(model, images, own, donors)
    return loss_of(logits, target)


@torch.no_grad()
def validate(model: DCAMA, pools: list[Pool], size: int, shots: int, seed: int = 1, per_class: int = 6) -> float:
    """Mean over sources of mIoU on the validation classes, at the model's size, without augmentation."""
    scores = []
    for pool in pools:
        ious = []
        for label, members in pool.by_class.items():
            if len(members) <= shots:
                continue
            inter = union = 0.0
            rng = np.random.default_rng([seed, label])
            for _ in range(per_class):
                picks = [pool.items[int(i)] for i in rng.choice(members, shots + 1, replace=False)]
                images = torch.stack([_plain(item.image, size) for item in picks])
                masks = torch.stack(
                    [F.interpolate((i.index == label + 1)[None, None].float(), (size, size))[0, 0] for i in picks]
                )
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(images[:1], images[None, 1:], masks[None, 1:])
                predicted, truth = logits.argmax(1)[0] == 1, masks[0] > 0
                inter += (predicted & truth).sum().item()
                union += (predicted | truth).sum().item()
            ious.append(inter / max(union, 1))
        scores.append(float(np.mean(ious)) * 100)
    return float(np.mean(scores))


@torch.no_grad()
def calibrate(model: DCAMA, pools: list[Pool], size: int, seed: int = 2, per_class: int = 12) -> dict[str, float]:
    """The presence threshold with the best balanced accuracy on validation classes, one shot.

    Half of the queries hold the support's class, half are pictures of other validation classes that do not.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    for pool in pools:
        for label, members in pool.by_class.items():
            rng = np.random.default_rng([seed, label])
            absent = [i for c, v in pool.by_class.items() if c != label for i in v]
            absent = [i for i in absent if not (pool.items[i].index == label + 1).any()]
            for present in (True, False):
                for _ in range(per_class):
                    chosen, query = (int(i) for i in rng.choice(members, 2, replace=False))
                    query = query if present else int(rng.choice(absent))
                    mask = F.interpolate((pool.items[chosen].index == label + 1)[None, None].float(), (size, size))
                    image = _plain(pool.items[chosen].image, size)
                    logits = model(_plain(pool.items[query].image, size)[None], image[None, None], mask)
                    scores[present] += presence_scores(logits.softmax(1)[0, 1:])
    here, away = (np.array(scores[kind]) for kind in (True, False))
    candidates = np.unique(np.round(np.concatenate([here, away]), 3))
    balanced = [((here >= t).mean() + (away < t).mean()) / 2 for t in candidates]
    area = (here[:, None] > away).mean() + 0.5 * (here[:, None] == away).mean()
    best = int(np.argmax(balanced))
    return {
        "presence_threshold": float(candidates[best]),
        "presence_balanced_accuracy": round(float(balanced[best]), 3),
        "presence_roc_area": round(float(area), 3),
    }


def _plain(image: Tensor, size: int) -> Tensor:
    small = F.interpolate(image[None].float() / 255, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (small[0] - MEAN) / STD


def build(args: argparse.Namespace) -> DCAMA:
    if args.backbone == "mobilenetv2":
        weights = args.weights / "mobilenetv2_100.safetensors"
        model = create_method(
            "dcama", backbone="mobilenetv2_100", backbone_weights=weights, image_size=args.size, **HEAD
        )
    else:
        distilled = args.out / "tiny.pt"
        subprocess.run(
            [sys.executable, str(Path(__file__).parent / "distill.py"), args.data, args.weights, distilled], check=True
        )
        state = torch.load(distilled, weights_only=True)["student"]
        student = Student([v.shape[0] for k, v in state.items() if k.startswith("adapters.") and k.endswith("bias")])
        student.load_state_dict(state)
        model = build_method("dcama", BackboneSpec("tiny"), {"image_size": args.size, **HEAD})
        model.backbone.net.load_state_dict(student.net.fold_batch_norm().state_dict())
        model.backbone.freeze(args.backbone_lr == 0)
    assert isinstance(model, DCAMA)
    return model.to(memory_format=torch.channels_last)


def optimiser_of(model: DCAMA, lr: float, backbone_lr: float) -> torch.optim.AdamW:
    head = [p for n, p in model.named_parameters() if not n.startswith("backbone.")]
    groups = [{"params": head, "peak": lr}]
    if not model.backbone.frozen:
        groups.append({"params": list(model.backbone.parameters()), "peak": backbone_lr})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/default"))
    parser.add_argument("--backbone", choices=("tiny", "mobilenetv2"), default="tiny")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=320, help="input side stored as the model's default")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--backbone-lr", type=float, default=0.0, help="fine-tune the backbone too; 0 freezes it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = build(args)
    train(model, args)


def train(model: DCAMA, args: argparse.Namespace) -> None:
    pools = [read_coco(args.data / "coco_mini", False), read_caltech(args.data / "caltech101_24", False)]
    checks = [read_coco(args.data / "coco_mini", True), read_caltech(args.data / "caltech101_24", True)]
    LOG.info("training: %s; validation: %s", *([(len(p.items), len(p.by_class)) for p in ps] for ps in (pools, checks)))
    optimiser, average = optimiser_of(model, args.lr, args.backbone_lr), copy.deepcopy(model)
    name = "default" if args.backbone == "tiny" else args.backbone
    checkpoint, step = args.out / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    started, first, losses = time.time(), step, []
    while step < args.steps:
        for group in optimiser.param_groups:
            group["lr"] = (
                group["peak"] * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
            )
        model.train()
        loss = train_step(model, pools, [0.6, 0.4], np.random.default_rng([args.seed, step]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        with torch.no_grad():
            decay = min(0.995, (1 + step) / (10 + step))
            for mean, new in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        if step % 25 == 0:
            left = (time.time() - started) / (step - first) * (args.steps - step) / 60
            LOG.info("step %d/%d loss %.4f, %.0f min left", step, args.steps, np.mean(losses[-25:]), left)
        if step % 250 == 0 or step == args.steps:
            average.eval()
            scores = {f"{n}_shot": round(validate(average, checks, args.size, n), 2) for n in (1, 5)}
            record = {"step": step, "loss": round(float(np.mean(losses[-250:])), 4), **scores}
            LOG.info("%s", record)
            with (args.out / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            save(checkpoint, **state, step=step)
    average.eval()
    average.extra = calibrate(average, checks, args.size)
    LOG.info("%s", average.extra)
    save_method(average, args.out / f"{name}.safetensors", dtype=torch.float16 if args.backbone == "tiny" else None)


if __name__ == "__main__":
    main()
