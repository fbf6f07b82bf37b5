"""The examples run as they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg import Segmenter
from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.core.files import folder_name
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.images import open_image, read_mask
from fewseg.images.transforms import square_mask
from fewseg.models.presence import UNSCALED, PresenceScale, presence_scores

EXAMPLES = Path(__file__).parents[2] / "examples"
ORIENTATION = 0x0112

SIZE = (12, 8)
DRAWN = np.zeros(SIZE[::-1], bool)
DRAWN[1:4, 2:9] = DRAWN[5:7, 1] = True
BYTES = DRAWN.astype(np.uint8)


@pytest.fixture(scope="module")
def onnx_query() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_query", EXAMPLES / "onnx_query.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_how_many_shots(tmp_path) -> None:
    dataset = SyntheticDataset(per_class=4, size=64)
    for name in dataset.names(0):
        dataset.image(name).save(tmp_path / f"{name}.jpg")
        Image.fromarray(dataset.mask(name, 0) * 255).save(tmp_path / f"{name}.png")
    command = [sys.executable, str(EXAMPLES / "how_many_shots.py"), str(tmp_path), "--tests", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    segmenter, lines = Segmenter.from_pretrained(), []
    for shots, name in enumerate(dataset.names(0)[:2], 1):
        segmenter.teach("object", tmp_path / f"{name}.jpg", tmp_path / f"{name}.png")
        overlaps = []
        for test in dataset.names(0)[2:]:
            mask = segmenter.segment(tmp_path / f"{test}.jpg").masks["object"]
            both, either = intersection_and_union(mask, dataset.mask(test, 0))
            overlaps.append(both[1] / either[1])
        lines.append(f"{shots} shots: mean IoU {np.mean(overlaps):.2f} over 2 images")
    assert done.stdout.splitlines() == lines


def coloured(inside: tuple[int, ...], outside: tuple[int, ...]) -> Image.Image:
    """A mask of two colours (or of two kinds of grey and alpha)."""
    return Image.fromarray(np.where(DRAWN[..., None], np.uint8(inside), np.uint8(outside)))


def indexed(values: np.ndarray, *colours: tuple[int, int, int], clear: int | bytes | None = None) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    if clear is not None:
        image.info["transparency"] = clear
    return image


WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 0, 0)
GOOD: dict[str, Callable[[], Image.Image]] = {
    "0 and 255": lambda: Image.fromarray(BYTES * 255),
    "0 and 1": lambda: Image.fromarray(BYTES),
    "one bit": lambda: Image.fromarray(DRAWN),
    "all": lambda: Image.new("L", SIZE, 7),
    "16 bits": lambda: Image.fromarray(DRAWN.astype(np.uint16) * 65535),
    "32 bits.tif": lambda: Image.fromarray(DRAWN.astype(np.int32) * 70000),
    "floats.tif": lambda: Image.fromarray(DRAWN.astype(np.float32) * np.float32(0.25)),
    "dark red on black": lambda: coloured((1, 0, 0), BLACK),
    "white on nothing": lambda: coloured((*WHITE, 255), (*WHITE, 0)),
    "half on nothing": lambda: coloured((*RED, 128), (0, 9, 9, 127)),
    "grey on nothing": lambda: coloured((90, 255), (90, 0)),
    "palette": lambda: indexed(BYTES, BLACK, RED),
    "palette of one colour": lambda: indexed(BYTES, BLACK, BLACK),
    "palette of bright colours": lambda: indexed(BYTES, WHITE, RED),
    "palette of two indices": lambda: indexed(DRAWN * 3, WHITE, RED, RED, RED),
    "turned palette": lambda: indexed(~DRAWN, WHITE, BLACK),
    "turned palette with transparency": lambda: indexed(~DRAWN, RED, WHITE, clear=1),
    "palette with transparency": lambda: indexed(BYTES, WHITE, BLACK, clear=0),
    "palette with opacities": lambda: indexed(~DRAWN, BLACK, RED, clear=b"\xff\x10"),
    "palette with all opaque": lambda: indexed(~DRAWN, RED, BLACK, clear=b"\xff\xff"),
}
BAD: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "none": (lambda: Image.new("L", SIZE), "no foreground"),
    "all clear": (lambda: coloured((*RED, 0), (*WHITE, 0)), "no foreground"),
    "empty palette": (lambda: indexed(BYTES * 0, WHITE, RED), "no foreground"),
    "three": (lambda: Image.fromarray(BYTES * 2 + np.eye(8, 12, dtype=np.uint8)), "more than two values"),
    "1 and 2": (lambda: Image.fromarray(BYTES + 1), "more than two values"),
    "two colours": (lambda: coloured(RED, WHITE), "more than two values"),
    "palette of 1 and 2": (lambda: indexed(BYTES + 1, WHITE, RED, (9, 9, 9)), "more than two values"),
    "other size": (lambda: Image.new("L", (8, 9), 255), "is 8x9, its image 12x8: save"),
    "on its side": (lambda: Image.new("L", (8, 12), 255), "is 8x12, its image 12x8: save"),
}


@pytest.mark.parametrize("name", GOOD)
def test_masks_without_fewseg(tmp_path: Path, onnx_query: ModuleType, name: str) -> None:
    path = tmp_path / (name if "." in name else f"{name}.png")
    GOOD[name]().save(path)
    expected = read_mask(path, size=SIZE) == 1
    assert name == "all" or (expected == DRAWN).all()
    np.testing.assert_array_equal(onnx_query.read_mask(path, SIZE, 1), expected)


@pytest.mark.parametrize("name", BAD)
def test_masks_that_fewseg_refuses(tmp_path: Path, onnx_query: ModuleType, name: str) -> None:
    path, (make, reason) = tmp_path / f"{name}.png", BAD[name]
    make().save(path)
    with pytest.raises(InvalidMask, match=reason):
        read_mask(path, size=SIZE)
    with pytest.raises(SystemExit, match=reason) as refused:
        onnx_query.read_mask(path, SIZE, 1)
    assert "\n" not in str(refused.value.code)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_masks_drawn_on_turned_images(tmp_path: Path, onnx_query: ModuleType, turn: int, ending: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    picture = tmp_path / f"picture.{ending}"
    Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12)).save(picture, exif=exif)
    ours, (image, found) = open_image(picture), onnx_query.open_image(picture)
    assert (image.size, found) == (ours.size, ours.orientation)
    np.testing.assert_array_equal(image, ours.image)
    upright = np.ones(ours.size[::-1], np.uint8)
    upright[2, 3] = 0
    for kind, values in {"stored": BYTES, "deep": BYTES.astype(np.uint16), "upright": upright}.items():
        path = tmp_path / f"{kind}.png"
        Image.fromarray(values).save(path)
        expected = read_mask(path, size=ours.size, orientation=ours.orientation) == 1
        np.testing.assert_array_equal(onnx_query.read_mask(path, image.size, found), expected)
    Image.fromarray(BYTES).save(tmp_path / "itself.png", exif=exif)
    expected = read_mask(tmp_path / "itself.png", size=ours.size) == 1
    np.testing.assert_array_equal(onnx_query.read_mask(tmp_path / "itself.png", image.size, found), expected)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_without_fewseg(tmp_path: Path, onnx_query: ModuleType, kind: type) -> None:
    path, steps = tmp_path / "picture.tif", np.linspace(0, 1, 4096).reshape(64, 64)
    for most in (1.0,) if kind is np.float32 else (255, 1023, 4080, 16383, 65535):
        Image.fromarray((steps * most).astype(kind)).save(path)
        np.testing.assert_array_equal(onnx_query.open_image(path)[0], open_image(path).image)
    for factor in () if kind is np.uint16 else (70000, -9):
        Image.fromarray((steps * factor).astype(kind)).save(path)
        with pytest.raises(InvalidImage, match="scale them to 0"):
            open_image(path)
        with pytest.raises(SystemExit, match="scale them to 0"):
            onnx_query.open_image(path)


def test_masks_shrink_as_fewseg_shrinks_them(onnx_query: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for side in (64, 320, 384):
        for _ in range(60):
            mask = rng.random(rng.integers(20, 1500, 2)) < 0.5
            wanted = square_mask(mask.astype(np.uint8), side).numpy()
            assert (onnx_query.network_mask(mask, {"image_size": side}) == wanted).all(), (side, mask.shape)


def test_scores_are_those_of_fewseg(onnx_query: ModuleType) -> None:
    coarse = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    for scale in (UNSCALED, PresenceScale(0.5, -1.0), PresenceScale(400.0, 3.0)):
        wanted = presence_scores(coarse[None], scale)[0]
        assert onnx_query.score(coarse.numpy(), {"presence_scale": list(scale)}) == pytest.approx(wanted, abs=1e-6)
    assert onnx_query.score(coarse.numpy(), {}) == pytest.approx(presence_scores(coarse[None])[0], abs=1e-6)


def write_model(folder: Path, *labels: str) -> Path:
    """A folder as `fewseg export` writes it, without graphs."""
    folder.mkdir()
    about = {"fingerprint": "f", "image_size": 32, "mean": [0] * 3, "std": [1] * 3, "graphs": {}}
    (folder / "model.json").write_text(json.dumps({**about, "presence_threshold": 0.5, "presence_scale": [1, 0]}))
    tensors = {f"{i}/tensor": np.zeros(1) for i in range(len(labels))}
    np.savez(folder / "supports.npz", labels=np.array(labels), fingerprint=np.array("f"), **tensors)
    return folder


def test_results_stay_apart_and_below_out(
    tmp_path: Path, onnx_query: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ["cat", "../../escaped", "a/b", "a_b", "A_B", "..", "größe"]
    model, out = write_model(tmp_path / "model", *labels), tmp_path / "far" / "down" / "found"
    monkeypatch.setattr(
        onnx_query.Graphs, "run", lambda self, name, tensors: {"logits": np.zeros((1, 2, 32, 32), np.float32)}
    )
    images = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "b" / "y.png"]
    for image in images:
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20)).save(image)
    before = set(tmp_path.rglob("*.png"))

    def run(*chosen: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["onnx_query.py", str(model), *map(str, chosen), "--out", str(out)])
        assert onnx_query.main() == 0

    with pytest.raises(SystemExit, match=r"a.x\.png and .*b.x\.png would have the same masks"):
        run(*images)
    assert not out.exists()
    run(*images[1:])
    taken: set[str] = set()
    folders = [folder_name(label, taken) for label in labels]
    assert set(tmp_path.rglob("*.png")) - before == {out / f / f"{s}.png" for f in folders for s in "xy"}
