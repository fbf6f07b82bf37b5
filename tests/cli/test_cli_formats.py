"""`fewseg segment` with other tools' formats, videos and tiles, as a person calls it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from fewseg import cli
from fewseg.cli.options import ModelOptions
from fewseg.inference.segmenter import Segmenter
from fewseg.models.checkpoints import save_method
from fewseg.models.methods import create_method
from helpers.colour_method import ColourMethod, blob, write_support


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_method(create_method("dcama", backbone="tiny", image_size=64), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("red", "more/blue"):
        blob(name.rpartition("/")[2])[0].save(folder / f"{name}.jpg")
    return folder


def call(tmp_path: Path, model: Path, *arguments: str | Path, out: str = "out") -> int:
    fixed = ["segment", "--out", str(tmp_path / out), "--model", str(model), "--device", "cpu"]
    return cli.main([*fixed, *map(str, arguments)])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewseg: error: ")]
    return line


def test_formats_are_complete_after_resuming(tmp_path: Path, model: Path, photos: Path) -> None:
    support = write_support(tmp_path / "support", "red", "blue", shots=1)
    every = ("png", "coco", "coco-rle", "yolo", "labelme", "geojson", "sheet")
    assert call(tmp_path, model, "--support", support, "--input", photos / "red.jpg", "--presence-threshold", "0") == 0
    arguments = ("--support", support, "--input", photos, "--presence-threshold", "0", "--formats", *every)
    assert call(tmp_path, model, *arguments, "--export.tolerance", "0") == 0
    out = tmp_path / "out"
    listed = json.loads((out / "results.json").read_text())["pictures"]
    assert len(listed) == 2
    for name in ("coco.json", "coco_rle.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(out / name))
        assert {i["file_name"] for i in coco.imgs.values()} == {"red.jpg", "more/blue.jpg"}
        for image in coco.imgs.values():
            entry = next(p for p in listed if p["picture"].endswith(image["file_name"]))
            for category in coco.cats.values():
                mask = np.asarray(Image.open(out / entry["labels"][category["name"]]["mask"])) > 0
                anns = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=category["id"]))
                found = sum((coco.annToMask(a) for a in anns), np.zeros(mask.shape, np.uint8))
                np.testing.assert_array_equal(found > 0, mask)
    for file in ("yolo/data.yaml", "yolo/images/red.jpg", "labelme/blue.json", "geojson/red.geojson", "sheet.jpg"):
        assert (out / file).is_file(), file


def test_what_is_left_out_as_absent_is_told(
    tmp_path: Path, model: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def colours(options: ModelOptions, compile: bool = False) -> Segmenter:
        return Segmenter(ColourMethod(sharpness=0.2), device="cpu", presence_threshold=options.presence_threshold)

    monkeypatch.setattr("fewseg.cli.common.make_segmenter", colours)
    support = write_support(tmp_path / "support", "red", shots=1)
    arguments = ("--support", support, "--input", photos / "red.jpg", "--formats", "coco")
    assert call(tmp_path, model, *arguments) == 0
    assert "judged absent" not in capsys.readouterr().err
    arguments = (*arguments, "--presence-threshold", "1")
    assert call(tmp_path, model, *arguments) == 0
    told = capsys.readouterr().err
    assert "1 masks are left out, empty in every format, for their label is judged absent" in told
    assert "--export.absent writes them too" in told
    assert _annotated(tmp_path / "out") == (0, False, False)
    assert call(tmp_path, model, *arguments, "--export.absent") == 0
    assert "judged absent" not in capsys.readouterr().err
    assert _annotated(tmp_path / "out") == (1, True, True)


def _annotated(out: Path) -> tuple[int, bool, bool]:
    """Annotations in coco.json, and whether the mask and the label map hold anything."""
    annotations = json.loads((out / "coco.json").read_text())["annotations"]
    filled = [bool(np.asarray(Image.open(out / file)).any()) for file in ("masks/red/red.png", "labels/red.png")]
    return len(annotations), *filled  # type: ignore[return-value]


def test_a_coco_file_teaches(tmp_path: Path, model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "images": [{"id": 1, "file_name": "red.jpg", "width": 96, "height": 64}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[40, 20, 56, 20, 56, 44, 40, 44]]},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]},
        ],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "corner"}],
    }
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    arguments = ("--support", path, "--input", photos, "--images", photos)
    assert call(tmp_path, model, *arguments, "--labels", "red", "--tile", "48") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["support"] == {"red": 1}
    assert found["options"]["tile"] == 48
    capsys.readouterr()
    assert call(tmp_path, model, "--support", path, "--input", photos) == 2
    assert "give its folder with --images" in error_of(capsys)
    assert call(tmp_path, model, *arguments, out=".") == 2
    assert "holds the support file" in error_of(capsys)


def test_a_video_with_a_painted_frame(
    tmp_path: Path, model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    av = pytest.importorskip("av")
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_image(blob("red", place=0.3 + 0.1 * number)[0])))
        container.mux(stream.encode())
    assert cli.main(["frame", "--video", str(clip), "--number", "2", "--out", str(tmp_path / "frame.png")]) == 0
    for ending, kind in ((".webp", "WEBP"), (".tif", "TIFF"), (".JPG", "JPEG")):
        other = tmp_path / f"frame{ending}"
        assert cli.main(["frame", "--video", str(clip), "--number", "2", "--out", str(other)]) == 0
        assert Image.open(other).format == kind
    assert Image.open(tmp_path / "frame.png").size == (96, 64)
    Image.fromarray(blob("red", place=0.5)[1]).save(tmp_path / "disc.png")
    teach = ("--frame", "2", "--mask", f"red={tmp_path / 'disc.png'}")
    assert call(tmp_path, model, "--input", clip, *teach, "--formats", "coco", "yolo", "sheet") == 0
    out = tmp_path / "out"
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 4
    assert sorted(p.name for p in (out / "yolo" / "images").iterdir()) == [f"clip-{i:06d}.jpg" for i in range(4)]
    assert (out / "overlays" / "clip.mp4").is_file()
    capsys.readouterr()
    for arguments, words in (
        (("--input", clip, "--frame", "2"), "belong together"),
        (("--input", photos, *teach), "give one video"),
        (("--input", clip, photos, *teach), "give one video"),
        (("--input", clip, "--tile", "auto", *teach), "--tile is for images"),
        (("--input", clip, "--frame", "9", "--mask", "x.png"), "no frame 9"),
        (("--input", clip, "--frame", "0", "--mask", "x.png"), "x.png"),
        (("--input", photos, "--support", photos, "--frame-stride", "3"), "--frame-stride 3"),
        (("--input", clip, "--workers", "2", *teach), "--workers is for whole images"),
        (("--input", clip, "--shots", "2", *teach), "give --support too"),
        (("--input", photos, "--support", photos, "--tile", "64", "--model-threads", "1"), "not for tiles"),
        (("--input", photos, "--support", photos, "--overlap", "0.5"), "give --tile too"),
        (("--input", photos, "--support", photos, "--ray-workers", "2"), "--engine ray"),
        (("--input", photos, "--support", photos, "--ray-gpus", "1"), "--ray-gpus is for --engine ray"),
        (("--input", photos, "--support", photos, "--formats", "yollo"), "did you mean 'yolo'"),
        (("--input", photos, "--support", photos, "--tile", "3"), "tiles of 3"),
        (("--input", photos, "--support", photos), "COCO JSON"),
    ):
        assert call(tmp_path, model, *arguments) == 2, words
        assert words in error_of(capsys)
    assert cli.main(["frame", "--video", str(clip), "--out", str(tmp_path / "frame.txt")]) == 2
    assert "end it in .png" in error_of(capsys)
