"""Pseudo-labelled classes: photographs of one object each, grouped by appearance, with masks of the objects.

    python scripts/object_discovery.py DATA WEIGHTS OUT [--held CLASS ...]

A small network learns from base classes of `DATA/caltech101_24` which pixels of a photograph are its object, whatever
that is, and finds the object in every photograph of `DATA/unlabelled`. Where it is sure enough, objects with like
features become a class. OUT/classes is the dataset, one folder for each of them; OUT/classes.jpg shows them.

Caltech's classes to be tested on (the novel ones and those of --held, of which nothing is learnt at all) stay unseen as
far as their photographs can tell: those are left out, and so is every group with more than a few of them, or with a
centre near to theirs, as its other photographs show the same objects. Of COCO's classes, novel or not, nothing tells
whether they are among those that are found: faces, dogs and ships are. A killed run goes on after the last step that
it finished: the objects of all photographs, or the dataset.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption, unknown
from fewseg.core.files import make_folder, replacing, write_text
from fewseg.data.episodes.sources import open_source
from fewseg.images import read_image
from fewseg.images.draw import contact_sheet
from fewseg.images.transforms import square_image
from fewseg.models.backbones import create_backbone
from fewseg.models.methods.dcama_light.boundary import guide_from, guide_tensors, refine_boundary
from fewseg.models.ops.resize import map_size, resize, shrink
from object_network import BATCH, FINE, LR, SIZE, STEPS, WORK, LastMaps, ObjectNet, learn_objects
from same_photographs import Photographs  # the scripts beside this one
from split import NOVEL_CALTECH, sources

log = logging.getLogger("object_discovery")
AREA = (0.04, 0.6)
"""Shares of a photograph that an object may cover."""
BORDER = 0.25
"""Share of the photograph's border that an object may cover."""
TILE = 80
"""Side of a photograph on the image of all classes."""
SURE = 0.6
"""Share of the objects of plausible size, the surest ones, that are grouped."""
GROUPS, LEAST, MOST = 220, 7, 12
"""Groups that are formed, and photographs of one that become a class: those nearest to its centre."""
TIGHT = 0.85
"""Share of the groups, those whose photographs are nearest to their centres, that become classes."""
LEAK, NEAR = 0.05, 0.7
"""Share of a group's photographs that may be of classes to be tested on, and cosine that its centre may have to that
of such a class's photographs; more of either, and the group is left out."""


@dataclass(frozen=True)
class DiscoveredObject:
    """The object of one photograph."""

    name: str
    probable: Tensor
    """(FINE, FINE): the probability that a pixel is the object's."""
    embedding: Tensor
    """(C): the mean of its features at 1/16 and 1/32, each of unit length."""

    def to_saved(self) -> dict[str, Any]:
        """As files hold it; `looks` is the embedding."""
        return {"name": self.name, "probable": self.probable, "looks": self.embedding}

    @property
    def sure(self) -> float:
        """The expected IoU of its mask, roughly; 0 for what is no object of a plausible size in the image."""
        inside = self.probable > 0.5
        border = torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).float().mean()
        if not AREA[0] < inside.float().mean() < AREA[1] or border > BORDER:
            return 0.0
        return float(self.probable[inside].sum() / (inside.sum() + self.probable[~inside].sum()))


@torch.no_grad()
def find_objects(maps_of: LastMaps, net: ObjectNet, photos: Sequence[Path]) -> list[DiscoveredObject]:
    """The object of every photograph."""
    found, started = [], time.time()
    for number, path in enumerate(photos, 1):
        maps = maps_of(read_image(path))
        probable = net(maps).sigmoid()
        embedding = []
        for scale in (16, 32):
            weight = shrink(probable, map_size(maps[scale])).square()
            embedding.append(F.normalize((maps[scale] * weight).sum((0, 2, 3)), dim=0))
        found.append(DiscoveredObject(path.name, probable[0, 0].clone(), torch.cat(embedding)))
        if number % 500 == 0:
            left = (time.time() - started) / number * (len(photos) - number)
            log.info("%d/%d photographs, %.0f min left", number, len(photos), left / 60)
    return found


def groups(found: Sequence[DiscoveredObject], tested: Sequence[set[str]], seed: int) -> list[list[DiscoveredObject]]:
    """The classes, the tightest first, but for those to be `tested` on, given by the names of their photographs."""
    sure = np.array([entry.sure for entry in found])
    least = np.quantile(sure[sure > 0], 1 - SURE)
    kept = [entry for entry, value in zip(found, sure, strict=True) if value >= least]
    every = torch.stack([entry.embedding for entry in kept])
    embedding: NDArray[np.float64] = F.normalize(every - every.mean(0), dim=1).double().numpy()
    _, group_of = kmeans2(embedding, GROUPS, iter=40, minit="++", seed=seed)
    theirs = [[i for i, entry in enumerate(kept) if entry.name in names] for names in tested]
    avoided = [_centre(embedding[places]) for places in theirs if places]
    held = {i for places in theirs for i in places}
    tight: list[tuple[float, list[DiscoveredObject]]] = []
    for group in range(GROUPS):
        members = np.flatnonzero(group_of == group)
        usable = [i for i in members if i not in held]
        if len(usable) < LEAST or len(members) - len(usable) > LEAK * len(members):
            continue
        centre = _centre(embedding[members])
        if any(centre @ other > NEAR for other in avoided):
            continue
        near = embedding[usable] @ centre
        order = np.argsort(-near)[:MOST]
        tight.append((float(near[order].mean()), [kept[usable[i]] for i in order]))
    tight.sort(key=lambda entry: -entry[0])
    classes = [objects for _, objects in tight[: round(TIGHT * len(tight))]]
    log.info("%d of %d objects are sure, %d of %d groups stay", len(kept), len(found), len(classes), GROUPS)
    return classes


def _centre(embedding: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = embedding.mean(0)
    return mean / np.linalg.norm(mean)


def mask_of(entry: DiscoveredObject, image: Image.Image) -> NDArray[np.uint8]:
    """Its mask at the photograph's size, 0 and 255, along the photograph's edges."""
    guide = guide_from(guide_tensors(square_image(image, SIZE)[None], (FINE, FINE), (WORK, WORK)))
    assert guide is not None
    logit = refine_boundary(entry.probable.logit(eps=1e-3)[None, None], guide, 1)
    inside = resize(logit, (image.height, image.width))[0, 0] >= 0
    return (inside.numpy() * 255).astype(np.uint8)


def write_classes(classes: Sequence[Sequence[DiscoveredObject]], photos: Path, folder: Path) -> None:
    """The dataset of class folders, all of it or nothing, and an image of it beside."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    tiles = []
    for number, objects in enumerate(classes):
        into = part / f"group{number:03d}"
        into.mkdir(parents=True)
        for entry in objects:
            image = read_image(photos / entry.name)
            mask = Image.fromarray(mask_of(entry, image))
            shutil.copyfile(photos / entry.name, into / entry.name)
            mask.save(into / Path(entry.name).with_suffix(".png"))
            tiles.append(_tile(image, mask))
        tiles += [Image.new("RGB", (TILE, TILE), "white")] * (MOST - len(objects))
    contact_sheet(tiles, columns=MOST, side=TILE).save(folder.with_suffix(".jpg"), quality=85)
    part.rename(folder)
    log.info("%s: %d classes, %d photographs", folder, len(classes), sum(map(len, classes)))


def _tile(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A small square image, what is no object faded."""
    small, inside = (shown.resize((TILE, TILE)) for shown in (image, mask))
    return Image.composite(small, Image.blend(small, Image.new("RGB", small.size, "white"), 0.75), inside)


def discover_objects(data: Path, teacher: Path, held: Sequence[str], file: Path, seed: int) -> list[DiscoveredObject]:
    """The objects of all photographs, kept in a file; classes that are `held` are not learnt from.

    Raises `InvalidOption` where the file was made with other settings.
    """
    made_with = f"{_drawn(seed, held)}, network {SIZE} {STEPS} {BATCH} {LR}"
    if not file.exists():
        maps_of = LastMaps(create_backbone("mobilenetv2_100", weights=teacher))
        source = open_source(sources(data)[1])
        classes = [c for c in source.base if source.dataset.classes[c] not in held]
        net = learn_objects(maps_of, source.dataset, classes, seed)
        found = find_objects(maps_of, net, sorted((data / "unlabelled").glob("*.jpg")))
        with replacing(file) as temporary:
            torch.save({"made_with": made_with, "found": [entry.to_saved() for entry in found]}, temporary)
    kept: dict[str, Any] = torch.load(file, weights_only=True)
    _require(made_with, kept["made_with"], file)
    return [DiscoveredObject(one["name"], one["probable"], one["looks"]) for one in kept["found"]]


def make_classes(found: Sequence[DiscoveredObject], data: Path, held: Sequence[str], folder: Path, seed: int) -> None:
    """The dataset, if it is not there yet: no novel classes of Caltech, and none of Caltech's that are `held`.

    Raises `InvalidOption` where it was made with other settings.
    """
    limits = (AREA, BORDER, SURE, GROUPS, LEAST, MOST, TIGHT, LEAK, NEAR)
    made_with = f"{_drawn(seed, held)}, {len(found)} things, limits {limits}"
    about = folder.with_suffix(".txt")
    if folder.exists():
        _require(made_with, about.read_text("utf-8") if about.exists() else "nobody knows what", folder)
        return
    photos = data / "unlabelled"
    every = Photographs.of([photos / entry.name for entry in found])
    folders = [data / "caltech101_24" / name for name in (*NOVEL_CALTECH, *held)]
    tested = [every.among(sorted(one.glob("*.jpg"))) for one in folders]
    write_text(about, made_with)
    write_classes(groups(found, tested, seed), photos, folder)


def _drawn(seed: int, held: Sequence[str]) -> str:
    return f"seed {seed}, held {' '.join(sorted(held)) or 'none'}"


def _require(made_with: str, found: str, path: Path) -> None:
    if found != made_with:
        raise InvalidOption(f"{path} was made with {found}, not {made_with}: delete it, or choose another folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--held", nargs="*", default=[], help="classes that nothing is learnt of, beside novel ones")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    known = sorted(folder.name for folder in (args.data / "caltech101_24").iterdir() if folder.is_dir())
    for name in args.held:
        if name not in known:
            raise SystemExit(str(unknown("class", name, known)))
    out = make_folder(args.out)
    teacher = args.weights / "mobilenetv2_100.safetensors"
    found = discover_objects(args.data, teacher, args.held, out / "things.pt", args.seed)
    make_classes(found, args.data, args.held, out / "classes", args.seed)


if __name__ == "__main__":
    main()
