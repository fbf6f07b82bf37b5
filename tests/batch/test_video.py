"""Video files: made with PyAV, segmented, resumed, read back."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.batch import BatchOptions, BatchReport, segment_files
from fewseg.batch.output_folder import OutputFolder
from fewseg.core.errors import InvalidImage, InvalidOption, OutputError
from fewseg.formats import write_results
from fewseg.images.orientation import upright_values
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


def run(segmenter: Segmenter, clips: Path | list[Path], out: Path, progress: Any = None, **options: Any) -> BatchReport:
    queries = clips if isinstance(clips, list) else [clips]
    return segment_files(segmenter, queries, out, options=BatchOptions(**options), progress=progress)


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
    report = run(segmenter, path, out, batch_size=4, progress=lambda *a: seen.append(a))
    assert (report.done, report.skipped) == (FRAMES, 0)
    assert seen[-1] == (FRAMES, FRAMES, "a.mp4#8")
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
    run(segmenter, path, whole)

    def killed(done: int, total: int, name: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "finish", lambda *a: None)  # as if killed without a word
        with pytest.raises(KeyboardInterrupt):
            run(segmenter, path, out, progress=killed)
    assert (out / "journal.jsonl").exists()
    assert not (out / "overlays" / "a.mp4").exists()
    report = run(segmenter, path, out)
    assert (report.done, report.skipped) == (FRAMES - 4, 4)
    for file in sorted((whole / "labels").iterdir()):
        assert (out / "labels" / file.name).read_bytes() == file.read_bytes()
    for one, other in zip(
        read_frames(out / "overlays" / "a.mp4"), read_frames(whole / "overlays" / "a.mp4"), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    before = (out / "overlays" / "a.mp4").stat().st_mtime_ns
    report = run(segmenter, path, out)
    assert (report.done, report.skipped) == (0, FRAMES)
    assert (out / "overlays" / "a.mp4").stat().st_mtime_ns == before  # nothing was done again
    segmenter.teach("red", *scene(3))
    assert run(segmenter, path, out).done == FRAMES
    assert (out / "overlays" / "a.mp4").stat().st_mtime_ns > before


def test_every_other_frame_and_no_overlay(tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    assert run(segmenter, clip(tmp_path / "a.mp4"), out, frame_stride=4, overlays=False).done == 3
    assert sorted(p.name for p in (out / "labels").iterdir()) == [f"a-{i:06d}.png" for i in (0, 4, 8)]
    assert not (out / "overlays").exists()


def test_clips_of_one_name_are_kept_apart(tmp_path: Path, segmenter: Segmenter) -> None:
    one, two, out = clip(tmp_path / "x" / "a.mp4", 2), clip(tmp_path / "y" / "a.mp4", 3), tmp_path / "out"
    for _ in range(2):
        run(segmenter, one, out)
        run(segmenter, two, out)
    names = [p["name"] for p in json.loads((out / "results.json").read_text())["pictures"]]
    assert sorted(names) == ["a-000000", "a-000001", "y_a-000000", "y_a-000001", "y_a-000002"]


def test_bad_videos(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_video("a.MP4")
    assert not is_video("a.jpg")
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    for name in ("no.mp4", "missing.mp4"):
        with pytest.raises(InvalidImage, match="no video that can be read"):
            run(segmenter, tmp_path / name, tmp_path / "out")
    path = clip(tmp_path / "a.mp4")
    with pytest.raises(InvalidOption, match="frame-stride 0"):
        run(segmenter, path, tmp_path / "out", frame_stride=0)
    with pytest.raises(InvalidOption, match=r"frame-stride 1\.5"):
        run(segmenter, path, tmp_path / "out", frame_stride=1.5)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidOption, match=r"pip install 'fewseg\[video\]'"):
        run(segmenter, path, tmp_path / "out")


def test_a_clip_that_cannot_be_finished_is_told(tmp_path: Path) -> None:
    source = open_clip(clip(tmp_path / "clip.mp4"))
    out = tmp_path / "gone" / "out.mp4"
    out.parent.mkdir()
    writer = ClipWriter(out, source, 1, "")
    writer.add(scene(0)[0], 0.0)
    close, writer._container = writer._container.close, Full(writer._container)
    with pytest.raises(OutputError, match=r"cannot write .*gone: .*No space left.*; free space"):
        writer.__exit__(None, None, None)
    writer.__exit__(ValueError, ValueError("an earlier failure is the one to tell"), None)
    close()


def test_one_damaged_spot_does_not_end_a_clip(tmp_path: Path, segmenter: Segmenter) -> None:
    path = damaged(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    report = run(segmenter, path, tmp_path / "out", overlays=False)
    assert 50 <= report.done < 60
    ((where, what),) = report.errors
    assert where == str(path)
    assert "cannot be decoded" in what
    content[200:] = bytes(len(content) - 200)
    (tmp_path / "b.mp4").write_bytes(content)
    with pytest.raises(InvalidImage, match=r"b\.mp4"):
        next(read_frames(tmp_path / "b.mp4"), None)


def damaged(path: Path) -> Path:
    """A clip of 60 frames with a damaged spot in the middle."""
    content = bytearray(clip(path, 60, keyframes=10).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = np.random.default_rng(5).integers(0, 256, 200, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    return path


def test_several_clips_in_one_call(tmp_path: Path, segmenter: Segmenter) -> None:
    """Names are kept apart, damage of each is told, and progress counts all of them."""
    bad, two, out = damaged(tmp_path / "x" / "a.mp4"), clip(tmp_path / "y" / "a.mp4", 3), tmp_path / "out"
    seen: list[tuple[int, int, str]] = []
    report = run(segmenter, [bad, two, two], out, overlays=False, progress=lambda *a: seen.append(a))
    assert 53 <= report.done < 63
    ((where, what),) = report.errors
    assert where == str(bad)
    assert "cannot be decoded" in what
    content = json.loads((out / "results.json").read_text())
    assert content["errors"] == [{"picture": where, "error": what}]
    names = [p["name"] for p in content["pictures"]]
    assert len(names) == len(set(names)) == report.done
    assert names[-3:] == [f"y_a-{i:06d}" for i in range(3)]
    assert seen[0] == (0, 63, "")
    assert seen[-1] == (report.done + 1, 63, "a.mp4#2")
    again = run(segmenter, [two, bad], out, overlays=False)
    assert (again.done, again.skipped, again.errors) == (0, report.done, report.errors)


def test_stopped_in_the_second_clip(tmp_path: Path, segmenter: Segmenter) -> None:
    one, two, out = clip(tmp_path / "one.mp4", 3), clip(tmp_path / "two.mp4", 4), tmp_path / "out"

    def stop(done: int, total: int, name: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(segmenter, [one, two], out, progress=stop)
    assert (out / "overlays" / "one.mp4").is_file()
    assert not list((out / "overlays").glob("two*"))
    report = run(segmenter, [one, two], out)
    assert (report.done, report.skipped) == (2, 5)
    run(segmenter, [one, two], tmp_path / "whole")
    for file in (tmp_path / "whole").rglob("*.png"):
        assert (out / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def test_clips_and_images_in_one_call(tmp_path: Path, segmenter: Segmenter) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    photos.mkdir()
    blob("red", size=(40, 30))[0].save(photos / "a-000001.png")
    video = clip(tmp_path / "a.mp4", 3)
    for done in (4, 0):
        report = run(segmenter, [video, photos], out, save_frames=True)
        assert (report.done, report.skipped) == (done, 4 - done)
    names = [p["name"] for p in json.loads((out / "results.json").read_text())["pictures"]]
    assert len(set(names)) == 4
    assert mask_of(out, "a-000001").shape == (30, 40)
    write_results(out, ["yolo", "overlays"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 64}, "tile is for images"),
        ({"engine": "ray"}, "engine ray does not take videos"),
        ({"workers": 2}, "workers is for whole images, not for videos"),
        ({"overlap": 0.5}, "give --tile too"),
        ({"ray_workers": 2}, "is for --engine ray"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, segmenter: Segmenter, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        run(segmenter, tmp_path / "a.mp4", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_frames_of_an_earlier_run_are_saved_too(tmp_path: Path, segmenter: Segmenter) -> None:
    """They are listed, and so formats that need images ask for them."""
    path, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    run(segmenter, path, out)
    report = run(segmenter, path, out, frame_stride=4, save_frames=True)
    assert (report.done, report.skipped) == (3, 0)
    images = json.loads((out / "results.json").read_text())["pictures"]
    assert len(images) == FRAMES
    assert all((out / image["saved"]).is_file() for image in images)
    write_results(out, ["yolo"])


def test_frames_of_a_longer_clip_that_was_replaced_are_gone(tmp_path: Path, segmenter: Segmenter) -> None:
    path, out = clip(tmp_path / "a.mp4"), tmp_path / "out"
    run(segmenter, path, out, save_frames=True)
    clip(path, 4)
    report = run(segmenter, path, out, save_frames=True)
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
    run(segmenter, clip(tmp_path / "a.mp4", 3), out)
    names = [p["name"] for p in json.loads((out / "results.json").read_text())["pictures"]]
    assert len(set(names)) == len(names) == 6
    assert mask_of(out, "a-000000").shape == (30, 40)


def turned_clip(path: Path, turn: int, frames: int = 2) -> Path:
    """A clip whose display matrix does what EXIF orientation `turn` does, of an image that no turn leaves in place."""
    pixels = np.full((48, 64, 3), 128, np.uint8)
    pixels[:12, :16] = (220, 30, 30)
    quarters = {1: 0, 2: 0, 3: 180, 4: 180, 5: -90, 6: -90, 7: 90, 8: 90}  # anticlockwise; then mirrored, or not
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no display matrix")
        stream.set_display_rotation(degrees=quarters[turn], hflip=turn in (2, 4, 5, 7))
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_and_mirrored_clips_are_read_as_players_show_them(tmp_path: Path, turn: int) -> None:
    image = read_frame(turned_clip(tmp_path / "v.mp4", turn), 0)
    pixels = np.zeros((48, 64), np.uint8)
    pixels[:12, :16] = 1
    red = np.asarray(image).astype(int)
    found = red[..., 0] - red[..., 1] > 60
    assert iou(found, upright_values(pixels, turn) == 1) > 0.8
    assert open_clip(tmp_path / "v.mp4").size == image.size


def test_a_clip_turned_by_half_a_right_angle_says_what_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees=45)
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48)))))
        container.mux(stream.encode())
    assert read_frame(tmp_path / "v.mp4", 0).size == (64, 48)
    assert "v.mp4 is to be shown turned by a part of a right angle" in caplog.text


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("times", [[0, 100, 200, 1200, 1300, 1400], [0, 33, 67, 100, 133], [40, 50, 1000, 1001, 5000]])
def test_times_of_uneven_frames_are_kept(tmp_path: Path, segmenter: Segmenter, times: list[int], stride: int) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 98, 66, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_image(scene(0)[0])
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = [frame.seconds for frame in read_frames(tmp_path / "v.mp4")][::stride]
    assert read == pytest.approx([time / 1000 for time in times[::stride]], abs=0.002)
    run(segmenter, tmp_path / "v.mp4", tmp_path / "out", frame_stride=stride)
    drawn = [frame.seconds for frame in read_frames(tmp_path / "out" / "overlays" / "v.mp4")]
    assert drawn == pytest.approx(read, abs=0.002)
