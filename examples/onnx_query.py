"""Segment pictures with an exported model: onnxruntime, numpy and Pillow, neither torch nor fewseg.

    fewseg export --out exported --support support                      # where fewseg is installed
    python examples/onnx_query.py exported photo.jpg --out found        # wherever the folder has been copied to

What was exported with --support is in exported/supports.npz. More can be taught here too; it is added to that file:

    python examples/onnx_query.py exported photo.jpg --out found --teach cat tom.jpg tom.png

Writes found/LABEL/photo.png, a mask as large as the picture, and prints the label's score and whether that is enough to
count as present: what `fewseg segment` says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Graphs:
    """The graphs of an exported folder, and what model.json says of them."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder, self.about = folder, json.loads((folder / "model.json").read_text("utf-8"))
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of one graph; of the tensors it takes those that are its inputs."""
        if name not in self.sessions:
            path = str(self.folder / f"{name}.onnx")
            self.sessions[name] = onnxruntime.InferenceSession(path, self.options, providers=["CPUExecutionProvider"])
        session = self.sessions[name]
        found = session.run(None, {value.name: tensors[value.name] for value in session.get_inputs()})
        return {value.name: array for value, array in zip(session.get_outputs(), found, strict=True)}

    def joined(self, shots: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Shots (1, n, ...) with what is derived from all of them together: what `query` takes."""
        return {**shots, **(self.run("join", shots) if "join" in self.about["graphs"] else {})}


def open_picture(path: Path) -> Image.Image:
    """Upright, RGB, transparency over white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        values = np.asarray(image)
        deep = ";" in image.mode or values.max() > 255
        image = Image.fromarray((values / (257 if deep else 1) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def network_input(image: Image.Image, about: dict) -> np.ndarray:
    """(3, s, s), squashed and normalised."""
    side = about["image_size"]
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    return ((pixels - np.float32(about["mean"])) / np.float32(about["std"])).transpose(2, 0, 1)


def network_mask(path: Path, about: dict) -> np.ndarray:
    """(s, s), 1 where the mask is not 0, nearest."""
    mask = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("L")) > 0
    side = about["image_size"]
    rows, columns = (np.arange(side) * length // side for length in mask.shape)
    return mask[rows[:, None], columns].astype(np.float32)


def enlarged(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """(h, w) to (height, width), bilinear, corners on corners."""
    for axis, length in ((0, height), (1, width)):
        last = values.shape[axis] - 1
        places = np.linspace(0, last, length) if length > 1 else np.zeros(1)
        low = np.minimum(places.astype(int), last)
        share = np.expand_dims((places - low).astype(np.float32), 1 - axis)
        values = values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, last), axis) * share
    return values


def probability(graphs: Graphs, image: Image.Image, label: dict[str, np.ndarray]) -> np.ndarray:
    """Of the label in every pixel, at the model's size."""
    query = network_input(image, graphs.about)[None]
    logits = graphs.run("query", {"image": query, **label})["logits"][0]
    return 1 / (1 + np.exp(logits[0] - logits[1]))


def score(coarse: np.ndarray) -> float:
    """Mean probability of the most confident 1 % of the pixels."""
    return float(np.sort(coarse, axis=None)[-max(1, round(coarse.size * 0.01)) :].mean())


def read_supports(graphs: Graphs, path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Label to its tensors; none where the file is not there."""
    if not path.exists():
        return {}
    with np.load(path) as file:
        if str(file["fingerprint"]) != graphs.about["fingerprint"]:
            sys.exit(f"{path} was encoded by another model than {graphs.folder}: export it again")
        places = {str(label): f"{place}/" for place, label in enumerate(file["labels"])}
        return {
            label: {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
            for label, start in places.items()
        }


def save_supports(graphs: Graphs, path: Path, labels: dict[str, dict[str, np.ndarray]]) -> None:
    """The file that `read_supports` reads; an older one stays until the new one is whole."""
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
            **arrays,
        )
    os.replace(new, path)


def teach(graphs: Graphs, labels: dict[str, dict[str, np.ndarray]], label: str, picture: Path, mask: Path) -> None:
    """Add one example of a label, new or known."""
    images, masks = network_input(open_picture(picture), graphs.about), network_mask(mask, graphs.about)
    if not masks.any():
        sys.exit(f"{mask} has no foreground at the model's size: mark the object with 255")
    shots = graphs.run("support", {"images": images[None, None], "masks": masks[None, None]})
    if label in labels:  # shots stand along the second dimension
        shots = {name: np.concatenate([labels[label][name], shot], 1) for name, shot in shots.items()}
    labels[label] = graphs.joined(shots)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that fewseg export wrote")
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")
    parser.add_argument("--supports", type=Path, help="supports.npz; the one in the folder if not given")
    parser.add_argument("--teach", nargs=3, action="append", default=[], metavar=("LABEL", "PICTURE", "MASK"))
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    args = parser.parse_args()
    missing = [p for p in (args.model / "model.json", *args.pictures) if not p.is_file()]
    if missing:
        sys.exit(f"{missing[0]}: no such file; give a folder that fewseg export wrote, and pictures")
    graphs = Graphs(args.model, args.threads)
    path = args.supports or args.model / "supports.npz"
    labels = read_supports(graphs, path)
    for label, picture, mask in args.teach:
        teach(graphs, labels, label, Path(picture), Path(mask))
    if args.teach:
        save_supports(graphs, path, labels)
    if not labels:
        sys.exit(f"{path} is not there: export with --support, or give --teach LABEL PICTURE MASK")
    for picture in args.pictures:
        image = open_picture(picture)
        for label, tensors in labels.items():
            coarse = probability(graphs, image, tensors)
            target = args.out / label / f"{picture.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(enlarged(coarse, *image.size) >= 0.5).save(target)
            present = score(coarse) >= graphs.about["presence_threshold"]
            print(f"{target}  {label} {'present' if present else 'absent'}, score {score(coarse):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
