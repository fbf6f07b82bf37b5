"""Step 1 of the embedded default: teach a randomly initialised TinyNet the features of an ImageNet MobileNetV2.

    python scripts/distill.py DATA WEIGHTS runs/default/tiny.pt

DATA holds `unlabelled/`, `coco_mini/` and `caltech101_24/`; WEIGHTS holds `mobilenetv2_100.safetensors`. No mask is
learnt from; they are looked at to leave images out: all of the novel classes of Caltech, and of COCO those that hold
novel classes but no base class. Three phases, each a row of `PHASES`: the first blocks on small crops; every later
block apart, on the teacher's own maps; then all but the first blocks together, on their own maps. The file OUT is the
checkpoint: a killed run goes on from it. In the end batch norm is folded, and the backbone is written beside it as
`.safetensors`, for `--backbone-weights`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.files import replacing
from fewseg.data.episodes.sources import open_source
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.backbones.tiny import InvertedResidual, TinyNet
from split import MIN_AREA, NOVEL_CALTECH, sources  # the script beside this one

log = logging.getLogger("distill")
EARLY = 2
"""Blocks, those of the first stage, that learn before the others and then stay."""
HELD_OUT = 16
"""COCO images that are not trained on; how much of the teacher's variance is explained there goes into the log."""
COCO_SHARE, MOSAIC_SHARE = 0.35, 0.25


@dataclass(frozen=True)
class Phase:
    name: str
    steps: int
    schedule: int
    """Steps after which the learning rate would be zero."""
    lr: float
    batch: int


PHASES = (
    Phase("early", 1200, 1200, 6e-3, 48),
    Phase("apart", 1200, 1500, 3e-3, 24),
    Phase("whole", 2700, 2700, 2.5e-3, 16),
)


class Pictures:
    """Views of all images that may be looked at."""

    def __init__(self, data: Path) -> None:
        paths = sorted((data / "unlabelled").glob("*.jpg"))
        for folder in sorted((data / "caltech101_24").iterdir()):
            if folder.name not in NOVEL_CALTECH:
                paths += sorted(folder.glob("*.jpg"))
        coco = open_source(sources(data)[0], min_area=MIN_AREA)
        base = {name for c in coco.base for name in coco.dataset.names(c)}
        chosen = []
        for path in sorted((data / "coco_mini" / "images").glob("*.jpg")):
            values = np.unique(np.asarray(Image.open(data / "coco_mini" / "masks" / f"{path.stem}.png")))
            if path.stem in base or not any((int(v) - 1) % 4 == 0 for v in values if v):
                chosen.append(path)
        self.plain = [self._read(path, 320) for path in paths]
        self.coco = [self._read(path, 480) for path in chosen[:-HELD_OUT]]
        self.held_out = [self._read(path, 480) for path in chosen[-HELD_OUT:]]

    @staticmethod
    def _read(path: Path, longest: int) -> Tensor:
        image = Image.open(path).convert("RGB")
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def _picture(self, rng: np.random.Generator) -> Tensor:
        pool = self.coco if rng.random() < COCO_SHARE else self.plain
        return pool[rng.integers(len(pool))]

    def crop(self, size: int, rng: np.random.Generator, zoom: float = 1.0) -> Tensor:
        """A flipped, recoloured crop, (3, size, size) in [0, 1]; `zoom` 0.5 takes half the side."""
        image = self._picture(rng)
        _, h, w = image.shape
        side, ratio = min(h, w) * math.sqrt(rng.uniform(0.2, 1.0)) * zoom, math.exp(rng.uniform(-0.25, 0.25))
        ch, cw = min(h, max(8, int(side * ratio))), min(w, max(8, int(side / ratio)))
        top, left = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
        crop = image[None, :, top : top + ch, left : left + cw].float() / 255
        crop = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
        if rng.random() < 0.5:
            crop = crop.flip(-1)
        if rng.random() < 0.1:
            crop = crop.mean(0, keepdim=True).expand(3, -1, -1)
        gain = torch.tensor(rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3), dtype=torch.float32)[:, None, None]
        return ((crop - 0.5) * rng.uniform(0.7, 1.3) + 0.5).mul(gain).clamp(0, 1)

    def view(self, size: int, rng: np.random.Generator) -> Tensor:
        """A crop, or four of them side by side: smaller things, more clutter."""
        if rng.random() > MOSAIC_SHARE:
            return self.crop(size, rng)
        y, x = (int(size * rng.uniform(0.35, 0.65)) for _ in range(2))
        view = torch.empty(3, size, size)
        for rows in (slice(0, y), slice(y, size)):
            for columns in (slice(0, x), slice(x, size)):
                h, w = rows.stop - rows.start, columns.stop - columns.start
                part = self.crop(max(h, w), rng)[None]
                view[:, rows, columns] = F.interpolate(part, (h, w), mode="bilinear", antialias=True)[0]
        return view


class Teacher(nn.Module):
    """Frozen MobileNetV2; returns what its first block gives, then the maps of all others, for images in [0, 1]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        net = timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same")
        net.load_state_dict(load_file(weights))
        self.net: Any = net.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor, stages: int = 7) -> list[Tensor]:
        x = self.net.bn1(self.net.conv_stem(images * 2 - 1))
        maps = []
        for stage in self.net.blocks[:stages]:
            for block in stage:
                x = block(x)
                maps.append(x)
        return maps


class Distillation:
    """The student, and the statistics that its losses are scaled by."""

    def __init__(self, teacher: Teacher, images: Pictures) -> None:
        self.net, self.teacher, self.images = TinyNet().to(memory_format=torch.channels_last), teacher, images
        rng = np.random.default_rng(99)
        maps = [teacher(self._views(192, 16, rng)) for _ in range(8)]
        self.statistics = [_statistics([batch[k] for batch in maps]) for k in range(len(maps[0]))]
        later = range(1, len(maps[0]))
        self.branches = {k: _statistics([_added(batch, k) for batch in maps])[1] for k in later}

    def loss(self, phase: Phase, rng: np.random.Generator) -> Tensor:
        return {"early": self._early, "apart": self._apart, "whole": self._whole}[phase.name](phase.batch, rng)

    def _views(self, size: int, count: int, rng: np.random.Generator) -> Tensor:
        views = torch.stack([self.images.view(size, rng) for _ in range(count)])
        return views.to(memory_format=torch.channels_last)

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std

    def _standard(self, k: int, feature_map: Tensor) -> Tensor:
        mean, variance = self.statistics[k]
        return (feature_map - mean) / variance.sqrt()

    def _early(self, batch: int, rng: np.random.Generator) -> Tensor:
        images = torch.stack([self.images.crop(80, rng, zoom=0.5) for _ in range(batch)])
        maps = self.teacher(images.to(memory_format=torch.channels_last), stages=2)
        x = self.net.thinned(self._normalised(images))
        losses = [F.mse_loss(self._standard(0, x), self._standard(0, maps[0]))]
        for k in range(EARLY):
            x = self.net.blocks[k](x)
            losses.append(F.mse_loss(self._standard(k + 1, x), self._standard(k + 1, maps[k + 1])))
        return torch.stack(losses).sum()

    def _apart(self, batch: int, rng: np.random.Generator) -> Tensor:
        maps = self.teacher(self._views(int(rng.choice((160, 192, 224))), batch, rng))
        losses = []
        for k, block in enumerate(self.net.blocks[EARLY:], EARLY):
            assert isinstance(block, InvertedResidual)
            variance = self.branches[k + 1]
            losses.append(((block.branch(maps[k]) - _added(maps, k + 1)) ** 2 / variance).mean())
        return torch.stack(losses).sum()

    def _whole(self, batch: int, rng: np.random.Generator) -> Tensor:
        size = int(rng.choice((160, 160, 192, 224)))
        images = self._views(size, batch * 160**2 // size**2, rng)  # fewer of the larger ones
        maps = self.teacher(images)
        x = self._early_maps(images)
        losses = []
        for k, block in enumerate(self.net.blocks[EARLY:], EARLY):
            x = block(x)
            found, wanted = self._standard(k + 1, x), self._standard(k + 1, maps[k + 1])
            losses.append(F.mse_loss(found, wanted) + 0.5 * (1 - F.cosine_similarity(found, wanted, dim=1)).mean())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _early_maps(self, images: Tensor) -> Tensor:
        """What the finished first blocks give, in eval mode."""
        for part in (self.net.stem, self.net.thin, *self.net.blocks[:EARLY]):
            part.eval()
        x = self.net.thinned(self._normalised(images))
        for block in self.net.blocks[:EARLY]:
            x = block(x)
        return x

    @torch.no_grad()
    def explained(self) -> list[float]:
        """Share of the variance of the teacher's maps, block by block, on the images held out."""
        self.net.eval()
        shares = []
        for picture in self.images.held_out:
            image = F.interpolate(picture[None].float() / 255, (256, 256), mode="bilinear", antialias=True)
            found, wanted = self.net(self._normalised(image)), self.teacher(image)[1:]
            row = []
            for k, (a, b) in enumerate(zip(found, wanted, strict=True), 1):
                a, b = self._standard(k, a), self._standard(k, b)
                row.append(1 - float(((a - b) ** 2).mean() / (b**2).mean()))
            shares.append(row)
        self.net.train()
        return [round(float(v), 3) for v in np.mean(shares, 0)]


def _added(maps: list[Tensor], k: int) -> Tensor:
    """What the teacher's block added to its shortcut, or its map where it has none."""
    return maps[k] - maps[k - 1] if maps[k].shape == maps[k - 1].shape else maps[k]


def _statistics(maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel, (1, C, 1, 1) each."""
    values = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], 1)
    return values.mean(1)[None, :, None, None], values.var(1).clamp_min(1e-4)[None, :, None, None]


def optimiser_of(net: TinyNet, lr: float) -> torch.optim.AdamW:
    decay = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1]
    plain = [p for p in net.parameters() if not (p.ndim == 4 and p.shape[1] > 1)]
    return torch.optim.AdamW([{"params": decay, "weight_decay": 0.005}, {"params": plain, "weight_decay": 0}], lr)


def run_phase(work: Distillation, number: int, state: dict[str, Any], out: Path, seed: int) -> None:
    """All steps of a phase that are left; `state` is what the checkpoint held."""
    phase, step = PHASES[number], 0
    optimiser = optimiser_of(work.net, phase.lr)
    if state.get("phase") == number and state["step"]:
        step = state["step"]
        optimiser.load_state_dict(state["optimiser"])
    started, first, history = time.time(), step, []
    while step < phase.steps:
        for group in optimiser.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * step / phase.schedule)
            group["lr"] = phase.lr * min(1.0, (step + 1) / 100) * (cosine + 1e-3)
        loss = work.loss(phase, np.random.default_rng([seed, number, step]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(work.net.parameters(), 5.0)
        optimiser.step()
        step += 1
        history.append(loss.item())
        if step % 50 == 0:
            left = (time.time() - started) / (step - first) * (phase.steps - step)
            log.info(
                "%s %d/%d loss %.4f, %.0f min left", phase.name, step, phase.steps, np.mean(history[-50:]), left / 60
            )
        if step % 200 == 0 or step == phase.steps:
            line = {"phase": phase.name, "step": step, "loss": round(float(np.mean(history[-50:])), 4)}
            with (out.parent / "distill.jsonl").open("a") as file:
                file.write(json.dumps({**line, "explained": work.explained()}) + "\n")
            kept = {"net": work.net.state_dict(), "optimiser": optimiser.state_dict(), "phase": number, "step": step}
            with replacing(out) as temporary:
                torch.save(kept, temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    images = Pictures(args.data)
    log.info("%d images, and %d of COCO", len(images.plain), len(images.coco))
    work = Distillation(Teacher(args.weights / "mobilenetv2_100.safetensors"), images)
    state: dict[str, Any] = torch.load(args.out, weights_only=True) if args.out.exists() else {}
    if state:
        work.net.load_state_dict(state["net"])
        log.info("resumed at step %d of phase %s", state["step"], PHASES[state["phase"]].name)
    for number in range(state.get("phase", 0), len(PHASES)):
        run_phase(work, number, state, args.out, args.seed)
    weights = args.out.with_suffix(".safetensors")
    save_file({k: v.contiguous() for k, v in work.net.fold_batch_norm().state_dict().items()}, weights)
    log.info("done: %s, explained %s", weights, work.explained())


if __name__ == "__main__":
    main()
