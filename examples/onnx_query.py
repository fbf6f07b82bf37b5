"""Segment images with an exported model: onnxruntime, numpy and Pillow, neither torch nor fewseg.

    fewseg export --out exported --support support                      # where fewseg is installed
    python examples/onnx_query.py exported photo.jpg --out found        # wherever the folder has been copied to

The support sets exported with --support are in exported/supports.npz. Further examples can be added to that file:

    python examples/onnx_query.py exported photo.jpg --out found --teach cat tom.jpg tom.png

Writes found/LABEL/photo.png, a mask of the image's size, and prints the label's presence score and whether it counts as
present, as `fewseg segment` does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import ExifTags, Image, ImageOps


class Graphs:
    """The graphs of an exported folder and its model.json."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder, self.about = folder, json.loads((folder / "model.json").read_text("utf-8"))
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of one graph by name; tensors that are not inputs of the graph are ignored."""
        if name not in self.sessions:
            content = (self.folder / f"{name}.onnx").read_bytes()
            stated = self.about.get("sha256", {}).get(f"{name}.onnx")
            if stated and hashlib.sha256(content).hexdigest() != stated:
                sys.exit(f"{self.folder / name}.onnx is not the file that model.json describes: copy both again")
            self.sessions[name] = onnxruntime.InferenceSession(
                content, self.options, providers=["CPUExecutionProvider"]
            )
        session = self.sessions[name]
        found = session.run(None, {value.name: tensors[value.name] for value in session.get_inputs()})
        return {value.name: array for value, array in zip(session.get_outputs(), found, strict=True)}

    def joined(self, shots: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tensors of the shots (1, n, ...) and those derived from all shots together: the inputs of `query`."""
        return {**shots, **(self.run("join", shots) if "join" in self.about["graphs"] else {})}


def decoded(path: Path) -> Image.Image:
    """The image as stored, except TIFF, which Pillow turns upright."""
    image = Image.open(path)
    image.filename = ""  # Pillow 13 maps files with a name into memory and scrambles TIFFs that are to be turned
    image.load()
    return image


def open_image(path: Path) -> tuple[Image.Image, int]:
    """The upright RGB image, transparency over white, and the EXIF orientation of the file."""
    stored = decoded(path)
    with Image.open(path) as file:  # decoding a TIFF turns it, and takes the tag away
        turn, image = file.getexif().get(ExifTags.Base.Orientation, 1), ImageOps.exif_transpose(stored)
    if image.mode[0] in "IF":  # 16 bits or floats, which Pillow would clip
        values = np.asarray(image).astype(np.float32)
        depths = (8, 10, 12, 14, 16)  # cameras save fewer bits in files of 16
        most = 1 if image.mode == "F" else next((2**n - 1 for n in depths if values.max() < 2**n), 65535)
        if not (values.min() >= 0 and values.max() <= most):
            sys.exit(f"{path} has values from {values.min():g} to {values.max():g}: scale them to 0..{most}")
        image = Image.fromarray((values * np.float32(255 / most) + np.float32(0.5)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), turn


def read_mask(path: Path, size: tuple[int, int], turn: int) -> np.ndarray:
    """Foreground mask (H, W), bool: the pixels that are not 0, black or transparent; they must have one value.

    `size` is the upright image's, `turn` its orientation: a mask drawn on the image as stored is turned likewise.
    """
    image, background = ImageOps.exif_transpose(decoded(path)), 0
    if image.mode in ("1", "L", "P") or image.mode[0] in "IF":
        values = np.asarray(image)
    else:
        colours = np.asarray(image.convert("RGBA")).astype(np.uint32)
        values = (colours[..., :3] @ np.array([1 << 16, 1 << 8, 1], np.uint32)) * (colours[..., 3] >= 128)
    found = np.unique(values)
    if image.mode == "P" and len(found) == 2:  # tools that shrink PNGs reorder palettes
        background = palette_background(image, found.tolist())
    if (found == background).all():
        sys.exit(f"{path} has no foreground: mark the object with 255")
    if (found != background).sum() > 1 or not np.isfinite(found).all():
        sys.exit(f"{path} has more than two values: save it as PNG with 0 and 255 only")
    mask = Image.fromarray((values != background).astype(np.uint8))
    if mask.size != size and turn >= 5 and mask.size == size[::-1]:
        mask.getexif()[ExifTags.Base.Orientation] = turn
        mask = ImageOps.exif_transpose(mask)
    if mask.size != size:
        sys.exit(f"{path} is {mask.width}x{mask.height}, its image {size[0]}x{size[1]}: save it at that size")
    return np.asarray(mask) > 0


def palette_background(image: Image.Image, used: list[int]) -> int:
    """The background's palette index of a mask with two indices: the transparent one, else the black one, else 0."""
    palette, clear = image.getpalette("RGB") or [], image.info.get("transparency", b"")
    if isinstance(clear, int):  # one index; otherwise the opacity of the first ones
        clear = b"\xff" * clear + b"\0"
    transparent = [i for i in used if i < len(clear) and clear[i] < 128]
    black = [i for i in used if palette[3 * i : 3 * i + 3] == [0, 0, 0]]
    return next((those[0] for those in (transparent, black) if len(those) == 1), 0)


def network_input(image: Image.Image, about: dict) -> np.ndarray:
    """The model's input (3, s, s): the image resized to a square and normalised."""
    side = about["image_size"]
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    return ((pixels - np.float32(about["mean"])) / np.float32(about["std"])).transpose(2, 0, 1)


def network_mask(mask: np.ndarray, about: dict) -> np.ndarray:
    """The mask (s, s), nearest neighbour in torch's arithmetic: exact division would differ at some sizes."""
    steps = np.arange(about["image_size"], dtype=np.float32)
    rows, columns = (
        (steps * np.float32(length / len(steps))).astype(int).clip(max=length - 1) for length in mask.shape
    )
    return mask[rows[:, None], columns].astype(np.float32)


def enlarged(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Values (h, w) resized to (height, width), bilinear with aligned corners."""
    for axis, length in ((0, height), (1, width)):
        last = values.shape[axis] - 1
        places = np.linspace(0, last, length) if length > 1 else np.zeros(1)
        low = np.minimum(places.astype(int), last)
        share = np.expand_dims((places - low).astype(np.float32), 1 - axis)
        values = values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, last), axis) * share
    return values


def probability(graphs: Graphs, image: Image.Image, label: dict[str, np.ndarray]) -> np.ndarray:
    """The label's foreground probabilities at the model's size (s, s)."""
    query = network_input(image, graphs.about)[None]
    logits = graphs.run("query", {"image": query, **label})["logits"][0]
    return 1 / (1 + np.exp(logits[0] - logits[1]))


def score(coarse: np.ndarray, about: dict) -> float:
    """The presence score: the calibrated mean of the most confident 1 % of the pixels."""
    sure = float(np.sort(coarse, axis=None)[-max(1, round(coarse.size * 0.01)) :].mean())
    slope, offset = about.get("presence_scale", (1, 0))
    if (slope, offset) == (1, 0):  # the model has no scale
        return sure
    sure = min(max(sure, 1e-6), 1 - 1e-6)
    return float(1 / (1 + np.exp(-(slope * np.log(sure / (1 - sure)) + offset))))


def read_supports(graphs: Graphs, path: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """Tensors by label, and presence thresholds by label; empty if the file does not exist."""
    if not path.exists():
        return {}, {}
    with np.load(path) as file:
        if str(file["fingerprint"]) != graphs.about["fingerprint"]:
            sys.exit(f"{path} was encoded by another model than {graphs.folder}: export it again")
        places = {str(label): f"{place}/" for place, label in enumerate(file["labels"])}
        tensors = {
            label: {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
            for label, start in places.items()
        }
        own = file["presence_thresholds"].tolist() if "presence_thresholds" in file.files else []
        return tensors, dict(zip(places, own, strict=False))


def save_supports(
    graphs: Graphs, path: Path, labels: dict[str, dict[str, np.ndarray]], thresholds: dict[str, float]
) -> None:
    """Write the file that `read_supports` reads, atomically."""
    about = graphs.about
    arrays = {f"{i}/{name}": array for i, tensors in enumerate(labels.values()) for name, array in tensors.items()}
    new = path.with_name(f"new.{path.name}")
    with new.open("wb") as file:  # to a name, numpy would add .npz
        np.savez(
            file,
            labels=np.array(list(labels)),
            fingerprint=np.array(about["fingerprint"]),
            image_size=np.array(about["image_size"]),
            presence_threshold=np.array(about["presence_threshold"]),
            presence_thresholds=np.array([thresholds.get(label, about["presence_threshold"]) for label in labels]),
            presence_scale=np.array(about.get("presence_scale", (1, 0))),
            **arrays,
        )
    os.replace(new, path)


def teach(graphs: Graphs, labels: dict[str, dict[str, np.ndarray]], label: str, path: Path, mask: Path) -> None:
    """Add one example to a new or known label."""
    image, turn = open_image(path)
    images = network_input(image, graphs.about)
    masks = network_mask(read_mask(mask, image.size, turn), graphs.about)
    if not masks.any():
        sys.exit(f"{mask} has no foreground at the model's size: mark a larger object")
    shots = graphs.run("support", {"images": images[None, None], "masks": masks[None, None]})
    if label in labels:  # shots stand along the second dimension
        shots = {name: np.concatenate([labels[label][name], shot], 1) for name, shot in shots.items()}
    labels[label] = graphs.joined(shots)


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Folder names by label, safe for any label, as `fewseg segment` makes them."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        name = plain = re.sub(r"[^\w\- .]", "_", label).strip(" .") or "_"
        number = 2
        while name.casefold() in taken:
            name, number = f"{plain}_{number}", number + 1
        taken.add(name.casefold())
        names[label] = name
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that fewseg export wrote")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")
    parser.add_argument("--supports", type=Path, help="supports.npz; the one in the folder if not given")
    parser.add_argument("--teach", nargs=3, action="append", default=[], metavar=("LABEL", "IMAGE", "MASK"))
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    args = parser.parse_args()
    taught = [Path(name) for _, *pair in args.teach for name in pair]
    missing = [p for p in (args.model / "model.json", *args.images, *taught) if not p.is_file()]
    if missing:
        sys.exit(f"{missing[0]}: no such file; give a folder that fewseg export wrote, and images")
    stems = {p.stem.casefold(): p for p in reversed(args.images)}
    alike = [(stems[p.stem.casefold()], p) for p in args.images if stems[p.stem.casefold()] is not p]
    if alike:
        sys.exit(f"{alike[0][0]} and {alike[0][1]} would have the same masks: give them one by one, each its own --out")
    graphs = Graphs(args.model, args.threads)
    supports = args.supports or args.model / "supports.npz"
    labels, thresholds = read_supports(graphs, supports)
    for label, path, mask in args.teach:
        teach(graphs, labels, label, Path(path), Path(mask))
        thresholds.pop(label, None)  # it was fitted to the other examples
    if args.teach:
        save_supports(graphs, supports, labels, thresholds)
    if not labels:
        sys.exit(f"{supports} is not there: export with --support, or give --teach LABEL IMAGE MASK")
    folders = folder_names(labels)
    for path in args.images:
        image, _ = open_image(path)
        for label, tensors in labels.items():
            coarse = probability(graphs, image, tensors)
            target = args.out / folders[label] / f"{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarged(coarse, *image.size) >= 0.5).save(target)
            sure = score(coarse, graphs.about)
            present = sure >= thresholds.get(label, graphs.about["presence_threshold"])
            print(f"{target}  {label} {'present' if present else 'absent'}, score {sure:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
