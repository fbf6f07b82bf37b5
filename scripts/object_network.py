"""The network of `object_discovery.py`: which pixels of a photograph are its object, whatever that is."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.data.datasets.base import Dataset
from fewseg.images.transforms import square_image, square_mask
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.dcama_light.decoder import DILATIONS, Residual
from fewseg.models.ops.resize import map_size, resize
from fewseg.training.losses import choose_loss

log = logging.getLogger("object_network")
SIZE, FINE, WORK = 256, 64, 32
"""Sides of the input, of the masks as they are found, and of the network's working size."""
PROJECTED = {4: 16, 8: 32, 16: 48, 32: 48}
"""Channels that the backbone's last map of every scale is projected to."""
WIDTH, EDGE_WIDTH = 64, 32
STEPS, BATCH, LR = 350, 16, 1e-3


class ObjectNet(nn.Module):
    """Logits (B, 1, h, w) of a photograph's object, at the size of 1/4, from the backbone's last map of every scale."""

    def __init__(self, channels: dict[int, int]) -> None:
        super().__init__()
        self.project = nn.ModuleDict({str(s): nn.Conv2d(channels[s], width, 1) for s, width in PROJECTED.items()})
        self.mix = nn.Conv2d(sum(PROJECTED.values()), WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.residuals = nn.Sequential(*(Residual(WIDTH, dilation) for dilation in DILATIONS))
        self.coarse = nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.refine = nn.Conv2d(WIDTH + PROJECTED[4], EDGE_WIDTH, 3, padding=1)
        self.fine = nn.Conv2d(EDGE_WIDTH, 1, 3, padding=1)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        projected = {scale: self.project[str(scale)](maps[scale]) for scale in PROJECTED}
        work, fine = map_size(projected[8]), map_size(projected[4])
        x = self.norm(self.mix(torch.cat([resize(p, work) for p in projected.values()], 1)))
        x = self.residuals(F.relu(x))
        edges = F.relu(self.refine(torch.cat([resize(x, fine), projected[4]], 1)))
        return self.fine(edges) + resize(self.coarse(x), fine)


class LastMaps:
    """Of a frozen backbone the last map of every scale."""

    def __init__(self, backbone: FeaturePyramid) -> None:
        self.backbone = backbone.eval()
        self.places = {block.scale: place for place, block in enumerate(backbone.blocks)}
        self.channels = {scale: backbone.blocks[place].channels for scale, place in self.places.items()}

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> dict[int, Tensor]:
        maps = self.backbone(square_image(image, SIZE)[None])
        return {scale: maps[place] for scale, place in self.places.items()}


def learn_objects(maps_of: LastMaps, dataset: Dataset, classes: Sequence[int], seed: int) -> ObjectNet:
    """Train the network on the masks of these classes."""
    shown = [(name, class_id) for class_id in classes for name in dataset.names(class_id)]
    maps = [{s: m.half() for s, m in maps_of(dataset.image(name)).items()} for name, _ in shown]
    masks = torch.stack([square_mask(dataset.mask(name, class_id), SIZE) for name, class_id in shown]).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ObjectNet(maps_of.channels)
    rng, loss_of = np.random.default_rng([seed, 9]), choose_loss("ce+dice")
    optimiser = torch.optim.AdamW(net.parameters(), LR, weight_decay=0.05)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 25) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        chosen = rng.integers(len(maps), size=BATCH)
        batch = {s: torch.cat([maps[i][s].float() for i in chosen]) for s in PROJECTED}
        target = masks[torch.from_numpy(chosen)]
        if rng.random() < 0.5:
            batch, target = {s: m.flip(-1) for s, m in batch.items()}, target.flip(-1)
        logit = resize(net(batch), (SIZE, SIZE))
        loss = loss_of(torch.cat([-logit, logit], 1) / 2, target, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            log.info("%d/%d loss %.3f", step, STEPS, loss.item())
    return net.eval()
