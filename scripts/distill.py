"""Step 1 of the embedded default: teach a randomly initialised TinyNet the features of an ImageNet MobileNetV2.

    python scripts/distill.py DATA WEIGHTS runs/default/tiny.pt [--steps 4500]

DATA holds `unlabelled/`, `coco_mini/` and `caltech101_24/`; WEIGHTS holds `mobilenetv2_100.safetensors`. No mask is
learnt from; they are looked at to leave pictures of the novel classes out of the two labelled folders (`unlabelled/`
is used whole). The file OUT is the checkpoint: a killed run goes on from it. In the end the adapters are dropped, batch
norm is folded, and the backbone is written beside it as `.safetensors`, for `--backbone-weights`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.backbones.tiny import TinyNet
from split import NOVEL_CALTECH  # the script beside this one

LOG = logging.getLogger("distill")
TEACHER_BLOCKS = ("1.1", "2.2", "3.3", "4.2", "5.2", "6.0")
"""MobileNetV2 blocks to imitate: the last of strides 4 and 8, two each of strides 16 and 32."""
STUDENT_MAPS = (0, 3, 5, 7, 8, 9)
"""Index of the TinyNet map that imitates each of them."""


def read_pictures(data: Path) -> list[Tensor]:
    """Every picture that may be looked at, as uint8 (3, H, W) in memory, longest side at most 320."""
    paths = sorted((data / "unlabelled").glob("*.jpg"))
    for folder in sorted((data / "caltech101_24").iterdir()):
        if folder.name not in NOVEL_CALTECH:
            paths += sorted(folder.glob("*.jpg"))
    for path in sorted((data / "coco_mini" / "images").glob("*.jpg")):
        values = np.unique(np.asarray(Image.open(data / "coco_mini" / "masks" / f"{path.stem}.png")))
        if not any((int(v) - 1) % 4 == 0 for v in values if v):
            paths.append(path)
    pictures = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        image.thumbnail((320, 320), Image.Resampling.BILINEAR)
        pictures.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())
    return pictures


def random_crop(picture: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A flipped, recoloured crop, (3, size, size) in [0, 1]."""
    _, h, w = picture.shape
    side = min(h, w) * math.sqrt(rng.uniform(0.2, 1.0))
    ratio = math.exp(rng.uniform(-0.25, 0.25))
    ch, cw = min(h, max(8, int(side * ratio))), min(w, max(8, int(side / ratio)))
    top, left = rng.integers(0, h - ch + 1), rng.integers(0, w - cw + 1)
    crop = picture[None, :, top : top + ch, left : left + cw].float() / 255
    crop = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    if rng.random() < 0.1:
        crop = crop.mean(0, keepdim=True).expand(3, -1, -1)
    gain = torch.tensor(rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3), dtype=torch.float32)[:, None, None]
    return ((crop - 0.5) * rng.uniform(0.7, 1.3) + 0.5).mul(gain).clamp(0, 1)


class Teacher(nn.Module):
    """Frozen MobileNetV2; returns the maps of `TEACHER_BLOCKS` for pictures in [0, 1]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        net = timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same")
        net.load_state_dict(load_file(weights))
        self.net: Any = net.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.net.bn1(self.net.conv_stem(images * 2 - 1))
        maps = []
        for i, stage in enumerate(self.net.blocks):
            for j, block in enumerate(stage):
                x = block(x)
                if f"{i}.{j}" in TEACHER_BLOCKS:
                    maps.append(x.float())
        return maps


class Student(nn.Module):
    """TinyNet with a 1x1 adapter and a standardisation (of the teacher) for each imitated map."""

    def __init__(self, teacher_channels: list[int]) -> None:
        super().__init__()
        self.net = TinyNet()
        widths = [w for w, d in zip(self.net.config.widths, self.net.config.depths, strict=True) for _ in range(d)]
        self.adapters = nn.ModuleList(
            nn.Conv2d(widths[i], c, 1) for i, c in zip(STUDENT_MAPS, teacher_channels, strict=True)
        )
        self.standard = nn.ModuleList(nn.BatchNorm2d(c, affine=False, momentum=0.05) for c in teacher_channels)

    def forward(self, images: Tensor, targets: list[Tensor]) -> Tensor:
        """Mean squared error plus cosine distance to the standardised teacher maps, averaged over the six."""
        mean, std = images.new_tensor([0.485, 0.456, 0.406]), images.new_tensor([0.229, 0.224, 0.225])
        maps = self.net((images - mean[:, None, None]) / std[:, None, None])
        losses = []
        for index, adapter, standard, target in zip(STUDENT_MAPS, self.adapters, self.standard, targets, strict=True):
            predicted, wanted = adapter(maps[index]).float(), standard(target)
            if predicted.shape[-2:] != wanted.shape[-2:]:
                predicted = F.interpolate(predicted, wanted.shape[-2:], mode="bilinear", align_corners=False)
            losses.append(F.mse_loss(predicted, wanted) + (1 - F.cosine_similarity(predicted, wanted, dim=1)).mean())
        return torch.stack(losses).mean()


def save(path: Path, **state: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)

    pictures = read_pictures(args.data)
    LOG.info("%d pictures", len(pictures))
    teacher = Teacher(args.weights / "mobilenetv2_100.safetensors")
    with torch.no_grad():
        channels = [m.shape[1] for m in teacher(torch.zeros(1, 3, 64, 64))]
    student = Student(channels).to(memory_format=torch.channels_last)
    decay = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0}], args.lr
    )
    step = 0
    if args.out.exists():
        state = torch.load(args.out, weights_only=True)
        student.load_state_dict(state["student"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
        LOG.info("resumed at step %d", step)

    started, first, history = time.time(), step, []
    while step < args.steps:
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / 200)
            group["lr"] = args.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / args.steps) + 1e-3)
        rng = np.random.default_rng([args.seed, step])
        size = int(rng.choice([160, 192, 224]))
        batch = torch.stack([random_crop(pictures[i], size, rng) for i in rng.integers(0, len(pictures), args.batch)])
        batch = batch.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = student(batch, teacher(batch))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        step += 1
        history.append(loss.item())
        if step % 50 == 0:
            left = (time.time() - started) / (step - first) * (args.steps - step)
            LOG.info("step %d/%d loss %.4f, %.0f min left", step, args.steps, np.mean(history[-50:]), left / 60)
            with (args.out.parent / "distill.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "loss": round(float(np.mean(history[-50:])), 4)}) + "\n")
        if step % 250 == 0 or step == args.steps:
            save(args.out, student=student.state_dict(), optimiser=optimiser.state_dict(), step=step)
    weights = args.out.with_suffix(".safetensors")
    save_file({k: v.contiguous() for k, v in student.net.eval().fold_batch_norm().state_dict().items()}, weights)
    LOG.info("done: %s", weights)


if __name__ == "__main__":
    main()
