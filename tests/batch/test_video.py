"""Video files: made with PyAV, segmented, resumed, read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.batch import segment_files
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.video import segment_video
from fewseg.core.errors import InvalidImage, InvalidOption, OutputError
from fewseg.formats import write_results
from fewseg.images.video import ClipWriter, is_video, open_clip, read_frame, read_frames
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob, iou

av = pytest.importorskip("av")

FRAMES = 9


def scene(number: int) -> tuple[Image.Image, np.ndarray]:
    """A red disc that moves to the right."""
    return blob("red", size=(98, 66), place=0.3 + 0.05 * number)


def clip(path: Path, frames: int = FRAMES, keyframes: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 98, 66, "yuv420p"
        stream.options = {"crf": "4"} | ({"g": str(keyframes)} if keyframes else {})
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(scene(number)[0])))
        container.mux(stream.encode())
    return path


@pytest.fixture
def segmenter() -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu")
    made.teach("red", *scene(0))
    return made


def mask_of(out: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(out / "masks" / "red" / f"{name}.png"))


class Full:
    """A container on a disk that fills up when the last of it is written."""

    def __init__(self, container: Any) -> None:
        self.mux = container.mux

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_reads_frames(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    about = open_clip(path)
    assert (about.size, about.rate, about.frames) == ((98, 66), 10, FRAMES)
    frames = list(read_frames(path))
    assert [f.number for f in frames] == list(range(FRAMES))
    assert [f.seconds for f in frames] == pytest.approx(np.arange(FRAMES) / 10)
    for number in (0, 4, 8):
        truth = np.asarray(scene(number)[0], float)
        assert np.abs(np.asarray(read_frame(path, number), float) - truth).mean() < 4
    with pytest.raises(InvalidOption, match="no frame 9: it has 9"):
        read_frame(path, 9)
    with pytest.raises(InvalidOption, match="counted from 0"):
        read_frame(path, -1)


def test_segments_every_frame(tmp_path: Path, segmenter: Segmenter) -> None:
    path, out, seen = clip(tmp_path / "a.mp4"), tmp_path / "out", []
    report = segment_video(segmenter, path, out, batch_size=4, progress=lambda *a: seen.append(a))
    assert (report.done, report.skipped) == (FRAMES, 0)
    assert seen[-1] == (FRAMES, FRAMES, "a-000008")
    for number in range(FRAMES):
        assert iou(mask_of(out, f"a-{number:06d}"), scene(number)[1]) > 0.9
    content = json.loads((out / "results.json").read_text())
    assert [(p["frame"], p["name"]) for p in content["pictures"]] == [(i, f"a-{i:06d}") for i in range(FRAMES)]
    drawn = open_clip(out / "overlays" / "a.mp4")
    assert (drawn.size, drawn.frames, drawn.rate) == ((98, 66), FRAMES, 10)
    assert not list(out.rglob("*.tmp"))
    assert not (out / "journal.jsonl").exists()


def test_resumes_after_a_killed_run(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    whole = tmp_path / "whole"
    segment_video(segmenter, path, whole)

    def killed(done: int, total: int, name: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "finish", lambda *a: None)  # as if killed without a word
        with pytest.raises(KeyboardInterrupt):
            segment_video(segmenter, path, out, progress=killed)
    assert (out / "journal.jsonl").exists()
    assert not (out / "overlays" / "a.mp4").exists()
    report = segment_video(segmenter, path, out)
    assert (report.done, report.skipped) == (FRAMES - 4, 4)
    for file in sorted((whole / "labels").iterdir()):
        assert (out / "labels" / file.name).read_bytes() == file.read_bytes()
    for one, other in zip(
        read_frames(out / "overlays" / "a.mp4"), read_frames(whole / "overlays" / "a.mp4"), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    before = (out / "overlays" / "a.mp4").stat().st_mtime_ns
    report = segment_video(segmenter, path, out)
    assert (report.done, report.skipped) == (0, FRAMES)
    assert (out / "overlays" / "a.mp4").stat().st_mtime_ns == before  # nothing was done again
    segmenter.teach("red", *scene(3))
    assert segment_video(segmenter, path, out).done == FRAMES
    assert (out / "overlays" / "a.mp4").stat().st_mtime_ns > before


def test_every_other_frame_and_no_overlay(tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    assert segment_video(segmenter, clip(tmp_path / "a.mp4"), out, every=4, overlays=False).done == 3
    assert sorted(p.name for p in (out / "labels").iterdir()) == [f"a-{i:06d}.png" for i in (0, 4, 8)]
    assert not (out / "overlays").exists()


def test_clips_of_one_name_are_kept_apart(tmp_path: Path, segmenter: Segmenter) -> None:
    one, two, out = clip(tmp_path / "x" / "a.mp4", 2), clip(tmp_path / "y" / "a.mp4", 3), tmp_path / "out"
    for _ in range(2):
        segment_video(segmenter, one, out)
        segment_video(segmenter, two, out)
    names = [p["name"] for p in json.loads((out / "results.json").read_text())["pictures"]]
    assert sorted(names) == ["a-000000", "a-000001", "y_a-000000", "y_a-000001", "y_a-000002"]


def test_bad_videos(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_video("a.MP4")
    assert not is_video("a.jpg")
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    for name in ("no.mp4", "missing.mp4"):
        with pytest.raises(InvalidImage, match="no video that can be read"):
            segment_video(segmenter, tmp_path / name, tmp_path / "out")
    path = clip(tmp_path / "a.mp4")
    with pytest.raises(InvalidOption, match="every 0"):
        segment_video(segmenter, path, tmp_path / "out", every=0)
    with pytest.raises(InvalidOption, match=r"every 1\.5"):
        segment_video(segmenter, path, tmp_path / "out", every=1.5)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidOption, match=r"pip install 'fewseg\[video\]'"):
        segment_video(segmenter, path, tmp_path / "out")


def test_a_clip_that_cannot_be_finished_is_told(tmp_path: Path) -> None:
    source = open_clip(clip(tmp_path / "clip.mp4"))
    out = tmp_path / "gone" / "out.mp4"
    out.parent.mkdir()
    writer = ClipWriter(out, source, 1, "")
    writer.add(scene(0)[0])
    close, writer._container = writer._container.close, Full(writer._container)
    with pytest.raises(OutputError, match=r"cannot write .*gone: .*No space left.*; free space"):
        writer.__exit__(None, None, None)
    writer.__exit__(ValueError, ValueError("an earlier failure is the one to tell"), None)
    close()


def test_one_damaged_spot_does_not_end_a_clip(tmp_path: Path, segmenter: Segmenter) -> None:
    path = clip(tmp_path / "a.mp4", 60, keyframes=10)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = np.random.default_rng(5).integers(0, 256, 200, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    report = segment_video(segmenter, path, tmp_path / "out", overlays=False)
    assert 50 <= report.done < 60
    ((where, what),) = report.errors
    assert where == str(path)
    assert "cannot be decoded" in what
    content[200:] = bytes(len(content) - 200)
    (tmp_path / "b.mp4").write_bytes(content)
    with pytest.raises(InvalidImage, match=r"b\.mp4"):
        next(read_frames(tmp_path / "b.mp4"), None)


def test_damage_of_one_clip_is_told_after_the_next(tmp_path: Path, segmenter: Segmenter) -> None:
    out, damaged = tmp_path / "out", ("one.mp4", "one.mp4: 1 part of it cannot be decoded")
    report = segment_video(segmenter, clip(tmp_path / "two.mp4", 2), out, overlays=False, errors=[damaged])
    assert report.errors == [damaged]
    assert json.loads((out / "results.json").read_text())["errors"] == [{"picture": damaged[0], "error": damaged[1]}]


def test_frames_of_an_earlier_run_are_saved_too(tmp_path: Path, segmenter: Segmenter) -> None:
    """They are listed, and so formats that need images ask for them."""
    path, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    segment_video(segmenter, path, out)
    report = segment_video(segmenter, path, out, every=4, save_frames=True)
    assert (report.done, report.skipped) == (3, 0)
    images = json.loads((out / "results.json").read_text())["pictures"]
    assert len(images) == FRAMES
    assert all((out / image["saved"]).is_file() for image in images)
    write_results(out, ["yolo"])


def test_frames_of_a_longer_clip_that_was_replaced_are_gone(tmp_path: Path, segmenter: Segmenter) -> None:
    path, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    segment_video(segmenter, path, out, save_frames=True)
    clip(path, 4)
    report = segment_video(segmenter, path, out, save_frames=True)
    assert report.done == 4
    images = json.loads((out / "results.json").read_text())["pictures"]
    assert [p["frame"] for p in images] == [0, 1, 2, 3]
    assert len({tuple(p["source"]) for p in images}) == 1
    for folder in ("labels", "masks/red", "frames"):
        assert sorted(f.stem for f in (out / folder).iterdir()) == [f"a-{i:06d}" for i in range(4)]


def test_frames_do_not_take_the_names_of_images(tmp_path: Path, segmenter: Segmenter) -> None:
    out, pictures = tmp_path / "out", tmp_path / "frames"
    pictures.mkdir()
    for name in ("a-000000", "a-000001", "z"):
        blob("red", size=(40, 30))[0].save(pictures / f"{name}.png")
    segment_files(segmenter, [pictures], out)
    segment_video(segmenter, clip(tmp_path / "a.mp4", 3), out)
    names = [p["name"] for p in json.loads((out / "results.json").read_text())["pictures"]]
    assert len(set(names)) == len(names) == 6
    assert mask_of(out, "a-000000").shape == (30, 40)
