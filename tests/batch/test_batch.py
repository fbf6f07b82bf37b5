"""Folders in, folders out: support folders, naming, resuming, and what happens when something is wrong."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.batch import BatchOptions, BatchReport, find_images, segment_files
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.steps import ImageSteps, Task
from fewseg.batch.threads import ThreadPlan, ThreadsEngine
from fewseg.core.errors import (
    FewsegError,
    FolderInUse,
    InvalidImage,
    InvalidMask,
    InvalidOption,
    InvalidSupport,
    OutputError,
)
from fewseg.core.locks import FolderLock, is_lock
from fewseg.core.prediction import Prediction
from fewseg.formats import ExportOptions, read_supports, write_results
from fewseg.formats.mask_folders import read_mask_folders, require_apart
from fewseg.images import read_image_size
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob, iou, write_support


def segmenter(*labels: str, **options: object) -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu", **options)  # type: ignore[arg-type]
    for label in labels or ("red", "blue"):
        made.teach(label, *blob(label.split("/")[0].lower()))
    return made


def images(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        blob("red" if i % 2 == 0 else "blue", place=0.3 + 0.05 * i)[0].save(folder / name)
    return folder


def run(made: Segmenter, queries: Path | list[Path], out: Path, **options: object) -> BatchReport:
    paths = queries if isinstance(queries, list) else [queries]
    return segment_files(made, paths, out, options=BatchOptions(**options))  # type: ignore[arg-type]


def results(out: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((out / "results.json").read_text())  # type: ignore[no-any-return]


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not is_lock(p))


# ------------------------------------------------------------------------------------------ support folders


def test_read_and_teach_a_support_folder(tmp_path: Path) -> None:
    folder = write_support(tmp_path / "support", "red", "blue")
    image, mask = blob("red")
    image.save(folder / "red" / "extra.png")
    Image.fromarray(mask).save(folder / "red" / "extra.mask.png")
    image.save(folder / "red" / "more.png")
    Image.fromarray(mask).save(folder / "red" / "more_mask.png")
    image.save(folder / "red" / "face_mask.jpg")
    Image.fromarray(mask).save(folder / "red" / "face_mask.png")
    (folder / "red" / "notes.txt").touch()
    (folder / ".hidden").mkdir()
    examples = read_mask_folders(folder)
    assert {label: len(pairs) for label, pairs in examples.items()} == {"blue": 2, "red": 5}
    made = Segmenter(ColourMethod(), device="cpu")
    read_supports(folder).teach(made)
    assert (made.labels, made.shots("red")) == (("blue", "red"), 5)
    assert iou(made.segment(image).masks["red"], mask) > 0.85


def broken(folder: Path, what: str) -> None:
    red = folder / "red"
    _, mask = blob("red")
    if what == "nothing":
        return
    write_support(folder, "red", shots=1)
    if what == "label without files":
        (folder / "blue").mkdir()
    elif what == "no mask":
        (red / "0.png").unlink()
    elif what == "no image":
        (red / "0.jpg").unlink()
    elif what == "marked mask without image":
        Image.fromarray(mask).save(red / "b.mask.png")
    elif what == "two masks":
        Image.fromarray(mask).save(red / "0.mask.png")
    elif what == "other size":
        Image.fromarray(mask[:10]).save(red / "0.png")
    elif what == "no foreground":
        Image.fromarray(mask * 0).save(red / "0.png")
    elif what == "corrupt image":
        (red / "0.jpg").write_bytes((red / "0.jpg").read_bytes()[:300])
    elif what == "loose":
        for file in red.iterdir():
            file.rename(folder / file.name)
        red.rmdir()


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("nothing", InvalidSupport, "support does not exist"),
        ("no mask", InvalidSupport, "0.jpg has no mask: save one as 0.png"),
        ("no image", InvalidSupport, "0.png has no mask.*its image is missing"),
        ("two masks", InvalidSupport, "several masks"),
        ("other size", InvalidMask, "support of 'red': .*0.png is 96x10, its image 96x64"),
        ("no foreground", InvalidMask, "support of 'red': .*0.png has no foreground"),
        ("corrupt image", InvalidImage, "support of 'red': .*0.jpg"),
        ("loose", InvalidSupport, "no label folders .images lie in it directly"),
    ],
)
def test_bad_support_folders(tmp_path: Path, what: str, error: type[FewsegError], words: str) -> None:
    broken(tmp_path / "support", what)
    with pytest.raises(error, match=words) as caught:
        read_supports(tmp_path / "support").teach(Segmenter(ColourMethod(), device="cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("label without files", "blue is empty"),
        ("marked mask without image", "b.mask.png is a mask without its image"),
    ],
)
def test_a_bad_entry_is_left_out(tmp_path: Path, what: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    broken(tmp_path / "support", what)
    assert read_supports(tmp_path / "support").labels == ("red",)
    assert words in caplog.text
    with pytest.raises(InvalidSupport, match=words):
        read_supports(tmp_path / "support", strict=True)


def test_output_in_the_support_folder(tmp_path: Path) -> None:
    for out in (tmp_path / "support", tmp_path / "support" / "a" / "b", tmp_path / "x" / ".." / "support"):
        with pytest.raises(InvalidOption, match="lies in the support folder"):
            require_apart(tmp_path / "support", out)
    require_apart(tmp_path / "support", tmp_path)
    require_apart(tmp_path / "support", tmp_path / "support 2")


def test_support_that_is_empty_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSupport, match="no label folders:"):
        read_mask_folders(tmp_path / "empty")
    with pytest.raises(InvalidSupport, match="is a file, not a folder"):
        read_mask_folders(tmp_path / "file")


# -------------------------------------------------------------------------------------------------- outputs


def test_what_is_written(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.jpg", "deep/b.png")
    steps: list[tuple[int, int, str]] = []
    report = segment_files(segmenter(), [photos], tmp_path / "out", progress=lambda *step: steps.append(step))
    assert (report.done, report.skipped, report.errors) == (2, 0, [])
    assert steps == [(0, 2, ""), (1, 2, "a.jpg"), (2, 2, "b.png")]
    assert listing(tmp_path / "out") == [
        "counts.csv",
        "labels/a.png",
        "labels/b.png",
        "masks/blue/a.png",
        "masks/blue/b.png",
        "masks/red/a.png",
        "masks/red/b.png",
        "objects.csv",
        "objects/blue/a.png",
        "objects/blue/b.png",
        "objects/red/a.png",
        "objects/red/b.png",
        "overlays/a.jpg",
        "overlays/b.jpg",
        "results.json",
        "times.json",
    ]
    found = segmenter().segment(photos / "a.jpg")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/labels/a.png")), found.label_map)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/red/a.png")) == 255, found.masks["red"])
    assert Image.open(tmp_path / "out/overlays/a.jpg").size == (96, 64)
    content = results(tmp_path / "out")
    assert content["support"] == {"red": 1, "blue": 1}
    assert content["model"]["method"] == "colour"
    first = content["pictures"][0]
    assert (first["picture"], first["size"]) == (str(photos / "a.jpg"), [96, 64])
    assert first["labels"]["red"]["present"] is True
    assert first["labels"]["red"]["area"] == pytest.approx(found.masks["red"].mean(), abs=1e-5)
    assert first["labels"]["red"]["score"] == pytest.approx(found.scores["red"], abs=1e-4)


def test_batches_and_threads_change_nothing(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", *(f"{i}.png" for i in range(7)))
    run(segmenter(), photos, tmp_path / "one", workers=1, batch_size=1)
    run(segmenter(), photos, tmp_path / "many", workers=3, batch_size=4)
    assert listing(tmp_path / "one") == listing(tmp_path / "many")
    for file in listing(tmp_path / "one"):
        if file.endswith("png"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()
    names = [p["name"] for p in results(tmp_path / "many")["pictures"]]
    assert names == [str(i) for i in range(7)]


def test_images_of_the_same_name_do_not_collide(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "x/1.png", "y/1.png", "y/1.jpg", "z/x/1.png", "z/A.png", "z/b/a.png")
    report = run(segmenter(), photos, tmp_path / "out")
    names = [p["name"] for p in results(tmp_path / "out")["pictures"]]
    assert report.done == 6
    assert len({name.casefold() for name in names}) == 6
    assert names[:2] == ["1", "y_1"]
    for entry in results(tmp_path / "out")["pictures"]:
        expected = segmenter().segment(entry["picture"]).label_map
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / entry["label_map"])), expected)


def test_names_stay_when_images_are_added(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "y/1.png")
    run(segmenter(), photos, tmp_path / "out")
    images(photos, "x/1.png")
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped) == (1, 1)
    names = {Path(p["picture"]).parent.name: p["name"] for p in results(tmp_path / "out")["pictures"]}
    assert names == {"y": "1", "x": "x_1"}


def test_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    names = ["x" * 250 + "1.png", "x" * 250 + "2.png", "\N{HIRAGANA LETTER A}" * 83 + ".png"]
    photos = images(tmp_path / "photos", *names)
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.errors) == (3, [])
    assert len(listing(tmp_path / "out" / "labels")) == 3
    assert run(segmenter(), photos, tmp_path / "out").skipped == 3


def test_labels_become_safe_folder_names(tmp_path: Path) -> None:
    made = segmenter("red", "blue/../..", "blue/:./..", "RED")  # the first part names the colour
    photos = images(tmp_path / "photos", "a.png")
    run(made, photos, tmp_path / "out")
    masks = {label: v["mask"] for label, v in results(tmp_path / "out")["pictures"][0]["labels"].items()}
    assert len(set(masks.values())) == 4
    assert all(
        (tmp_path / "out" / file).resolve().is_relative_to((tmp_path / "out/masks").resolve())
        for file in masks.values()
    )


def test_no_overlays(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png")
    run(segmenter(), photos, tmp_path / "out", overlays=False)
    assert not (tmp_path / "out/overlays").exists()
    assert run(segmenter(), photos, tmp_path / "out", overlays=False).skipped == 1
    assert run(segmenter(), photos, tmp_path / "out", overlays=True).done == 1
    assert run(segmenter(), photos, tmp_path / "out", overlays=False).skipped == 1


def test_label_map_above_255_labels(tmp_path: Path) -> None:
    supports = segmenter("blue", "red").supports
    made = segmenter().with_supports({str(i): supports["red" if i == 299 else "blue"] for i in range(1, 300)})
    run(made, images(tmp_path / "photos", "a.png"), tmp_path / "out", overlays=False)  # of a red disc
    label_map = np.asarray(Image.open(tmp_path / "out/labels/a.png"))
    assert (label_map.dtype, label_map.max()) == (np.uint16, 299)


# ------------------------------------------------------------------------------------------- finding images


def test_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", "b.JPG", "a.png", "deep/c.webp", ".hidden.png", ".git/d.png", "out/e.png")
    (photos / "notes.txt").touch()
    (photos / "link.png").symlink_to(photos / "a.png")
    monkeypatch.chdir(tmp_path)
    found = find_images(["photos/a.png", "photos", tmp_path / "none.jpg"], photos / "out")
    assert [str(p.relative_to(tmp_path)) for p in found] == [
        "photos/a.png",
        "photos/b.JPG",
        "photos/deep/c.webp",
        "none.jpg",
    ]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        blob("red")[0].save(tmp_path / name / "a.png")
    real = os.scandir

    def scandir(path: str | os.PathLike[str]) -> Any:
        if os.fspath(path).endswith("closed"):  # permissions do not stop who may do anything
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InvalidImage, match="closed: Permission denied; make the folder readable"):
        find_images([tmp_path], tmp_path / "out")


def test_results_are_no_images_to_segment(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png", "begun/labels/a.png", "mine/b.png")
    run(segmenter(), photos / "a.png", photos / "earlier")
    (photos / "begun" / "journal.jsonl").touch()
    (photos / "mine" / "results.json").write_text("{}")
    assert find_images([photos], photos / "now") == [photos / "a.png", photos / "mine" / "b.png"]
    assert find_images([photos / "earlier" / "labels"], photos / "now") == [photos / "earlier" / "labels" / "a.png"]
    with pytest.raises(InvalidOption, match=r"photos is the output folder, too: choose another, as .*found"):
        find_images([photos], tmp_path / "mine" / ".." / "photos")


def test_a_damaged_mask_of_ours_is_segmented_again(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png")
    run(segmenter(), photos, tmp_path / "out")
    (tmp_path / "out" / "masks" / "red" / "a.png").write_bytes(b"cut")
    with pytest.raises(InvalidMask, match=r"red/a\.png .*: segment again with --overwrite$"):
        write_results(tmp_path / "out", ["coco"])


def test_nothing_to_segment(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidImage, match="holds no images"):
        run(segmenter(), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InvalidImage, match="no images to segment"):
        run(segmenter(), [], tmp_path / "out")
    with pytest.raises(InvalidSupport, match="nothing has been taught"):
        run(Segmenter(ColourMethod(), device="cpu"), tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InvalidOption, match="workers -1"):
        run(segmenter(), tmp_path / "empty", tmp_path / "out", workers=-1)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- resuming


def test_finished_images_are_skipped(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png", "c.png", "d.png")
    run(segmenter(), photos, tmp_path / "out")
    before = {f: (tmp_path / "out" / f).stat().st_mtime_ns for f in listing(tmp_path / "out")}
    (tmp_path / "out/masks/red/b.png").unlink()
    blob("blue", place=0.7)[0].save(photos / "c.png")
    os.utime(photos / "c.png", ns=(1, 1))
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped) == (2, 2)
    after = {f: (tmp_path / "out" / f).stat().st_mtime_ns for f in listing(tmp_path / "out")}
    changed = {f for f in after if after[f] != before[f] and f.startswith("labels")}
    assert changed == {"labels/b.png", "labels/c.png"}
    assert len(results(tmp_path / "out")["pictures"]) == 4


def test_one_path_in_place_of_several(tmp_path: Path) -> None:
    """The letters of a path are no paths: `.` among them would mean the whole working folder."""
    photo = images(tmp_path / "photos", "a.png") / "a.png"
    for query in (photo, str(photo)):
        with pytest.raises(InvalidOption, match=r"a\.png in place of several: give a list"):
            segment_files(segmenter(), query, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_other_examples_or_options_mean_doing_it_again(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png")
    run(segmenter(), photos, tmp_path / "out")
    more = segmenter()
    more.teach("red", *blob("red", place=0.4))
    for made in (
        more,
        segmenter("red"),
        segmenter(tta_flip=True),
        segmenter(tta_scales=(1, 2)),
        segmenter(presence_threshold=0.1),
    ):
        assert run(made, photos, tmp_path / "out").done == 1
        assert run(made, photos, tmp_path / "out").skipped == 1
    assert run(made, photos, tmp_path / "out", overwrite=True).done == 1


def test_earlier_images_stay_listed_for_the_same_model(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png")
    run(segmenter(), photos / "a.png", tmp_path / "out")
    run(segmenter(), photos / "b.png", tmp_path / "out")
    assert [p["name"] for p in results(tmp_path / "out")["pictures"]] == ["b", "a"]
    run(segmenter("red"), photos / "b.png", tmp_path / "out")
    assert [p["name"] for p in results(tmp_path / "out")["pictures"]] == ["b"]


def test_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", *(f"{i}.png" for i in range(9)))
    made = segmenter()
    whole = made.encode
    calls = iter(range(100))

    def interrupted(prepared):  # type: ignore[no-untyped-def]
        if next(calls) == 4:
            raise KeyboardInterrupt
        return whole(prepared)

    monkeypatch.setattr(made, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(made, photos, tmp_path / "out")
    assert len(results(tmp_path / "out")["pictures"]) == 4
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped) == (5, 4)
    assert len(results(tmp_path / "out")["pictures"]) == 9


def test_killed_run_resumes_from_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png", "c.png")
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "finish", lambda *_: None)
        run(segmenter(), [photos / "a.png", photos / "b.png"], tmp_path / "out")
    with (tmp_path / "out/journal.jsonl").open("a") as file:
        file.write('{"image": "/half')
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped) == (1, 2)
    assert not (tmp_path / "out/journal.jsonl").exists()
    assert len(results(tmp_path / "out")["pictures"]) == 3


# --------------------------------------------------------------------------------------------- when it fails


def test_unreadable_images_do_not_stop_the_rest(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png", "c.png", "d.png", "e.png")
    (photos / "b.png").write_bytes(b"no image")
    (photos / "d.png").write_bytes((photos / "e.png").read_bytes()[:200])
    report = run(segmenter(), [photos, tmp_path / "none.jpg"], tmp_path / "out", batch_size=2)
    assert report.done == 3
    assert [Path(p).name for p, _ in report.errors] == ["b.png", "d.png", "none.jpg"]
    content = results(tmp_path / "out")
    assert [p["name"] for p in content["pictures"]] == ["a", "c", "e"]
    assert [Path(e["picture"]).name for e in content["errors"]] == ["b.png", "d.png", "none.jpg"]
    blob("red")[0].save(photos / "b.png")
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped, len(report.errors)) == (1, 3, 1)


def test_unexpected_errors_of_an_image_do_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png", "c.png")

    def size_of(path: Path) -> tuple[int, int]:
        if path.name == "b.png":
            raise ValueError("image has\nwrong mode")
        return read_image_size(path)

    monkeypatch.setattr("fewseg.batch.steps.read_image_size", size_of)
    report = run(segmenter(), photos, tmp_path / "out")
    assert report.done == 2
    bad = str(photos / "b.png")
    assert report.errors == [(bad, f"{bad} cannot be used (image has wrong mode): save it again as PNG")]
    assert [Path(p["picture"]).name for p in results(tmp_path / "out")["pictures"]] == ["a.png", "c.png"]


def test_an_image_that_went_bad_is_not_listed_as_found(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png", "b.png")
    run(segmenter(), photos, tmp_path / "out")
    (photos / "b.png").write_bytes(b"no image")
    run(segmenter(), photos, tmp_path / "out")
    assert [p["name"] for p in results(tmp_path / "out")["pictures"]] == ["a"]


def test_full_disk_keeps_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", *(f"{i}.png" for i in range(5)))
    write, left = Path.write_bytes, [14]

    def filling(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            write(self, bytes(data)[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", filling)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            run(segmenter(), photos, tmp_path / "out", workers=1)
    assert "\n" not in str(caught.value)
    assert not [f for f in listing(tmp_path / "out") if f.endswith("tmp")]
    for file in listing(tmp_path / "out"):
        if file.endswith("png"):
            Image.open(tmp_path / "out" / file).load()
    report = run(segmenter(), photos, tmp_path / "out")
    assert (report.done, report.skipped) == (3, 2)


def test_journal_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path / "photos", "a.png")
    (tmp_path / "out/journal.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"journal\.jsonl"):
        run(segmenter(), photos, tmp_path / "out")
    (tmp_path / "out/journal.jsonl").rmdir()
    real = Path.open

    def refuse(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.name == "journal.jsonl" and mode == "a":  # permissions do not stop who may do anything
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*journal\.jsonl"):
        run(segmenter(), photos, tmp_path / "out")


def test_output_that_cannot_be_a_folder(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png")
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot make the folder"):
            run(segmenter(), photos, out)
    assert (tmp_path / "file").read_text() == "precious"


def test_damaged_results_and_journals_mean_starting_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos, out = images(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out"
    run(segmenter(), photos, out)
    whole = (out / "results.json").read_text()
    content = json.loads(whole)
    del content["pictures"][0]["made_by"]
    content["pictures"].append(7)
    for text, done in (
        (whole[: len(whole) // 2], 2),
        (json.dumps({"format": content["format"]}), 2),
        (json.dumps({"format": content["format"], "pictures": {"a": 1}}), 2),
        (json.dumps(content), 1),
    ):
        (out / "results.json").write_text(text)
        (out / "journal.jsonl").write_text('3\n{"image": "a"}\n[]\n{"pic')
        caplog.clear()
        report = run(segmenter(), photos, out)
        assert (report.done, report.skipped) == (done, 2 - done)
        assert "results.json" in caplog.text
        assert "journal.jsonl has a damaged entry" in caplog.text
        assert len(results(out)["pictures"]) == 2


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", "a.png")
    (tmp_path / "one/masks/red").mkdir(parents=True)
    (tmp_path / "one/masks/red/a.png").write_text("precious")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/results.json").write_text('{"precious": 1}')
    (tmp_path / "three").mkdir()
    (tmp_path / "three/results.json").write_text("[1, 2")
    for out in (tmp_path / "one", tmp_path / "two", tmp_path / "three"):
        with pytest.raises(OutputError, match="ours: choose another output folder"):
            run(segmenter(), photos, out)
    assert (tmp_path / "one/masks/red/a.png").read_text() == "precious"
    assert (tmp_path / "two/results.json").read_text() == '{"precious": 1}'


def test_large_images_pass_one_at_a_time(tmp_path: Path) -> None:
    photos = images(tmp_path / "photos", *(f"{i}.png" for i in range(5)))
    made = segmenter()
    steps = ImageSteps(made, OutputFolder(tmp_path / "out", made), True, overlay_side=40, budget=1)
    tasks = [Task(photo, photo.stem) for photo in sorted(photos.iterdir())]
    assert len(list(ThreadsEngine(steps, ThreadPlan(3, 3, 1, 1, 1)).run(tasks))) == 5
    assert max(Image.open(tmp_path / "out/overlays/0.jpg").size) == 40
    assert Image.open(tmp_path / "out/labels/0.png").size == (96, 64)


# --------------------------------------------------------------------------------- one run, and what it was taught


@pytest.mark.parametrize("label", ["red", "green"])
def test_a_run_goes_by_what_was_taught_when_it_began(tmp_path: Path, label: str) -> None:
    made, queries = segmenter("red"), images(tmp_path / "queries", "a.png", "b.png", "c.png")

    def teach(done: int, total: int, name: str) -> None:
        made.teach(label, *blob("green", "red"))

    first = segment_files(made, [queries], tmp_path / "out", options=BatchOptions(workers=1), progress=teach)
    assert first.done == 3
    assert results(tmp_path / "out")["support"] == {"red": 1}
    run(segmenter("red"), queries, tmp_path / "alone")
    for file in (tmp_path / "alone" / "masks").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "out" / file.relative_to(tmp_path / "alone")).read_bytes()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    queries, out = images(tmp_path / "queries", "a.png"), tmp_path / "out"
    with FolderLock(out), pytest.raises(FolderInUse, match="is in use by another fewseg"):
        run(segmenter(), queries, out)
    assert run(segmenter(), queries, out).done == 1
    with FolderLock(out), pytest.raises(FolderInUse):
        write_results(out, ["coco"])


# ------------------------------------------------------------------------------------------------- absent labels


def masks_in(out: Path, name: str) -> dict[str, np.ndarray]:
    return {p.parent.name: np.asarray(Image.open(p)) > 0 for p in sorted((out / "masks").rglob(f"{name}.png"))}


def test_absent_labels_are_in_no_format(tmp_path: Path) -> None:
    queries = images(tmp_path / "queries", "a.png")
    made = segmenter("red", "green", presence_threshold=0.9)
    report = run(made, queries, tmp_path / "out")
    entry = results(tmp_path / "out")["pictures"][0]
    absent = [label for label, about in entry["labels"].items() if not about["present"]]
    assert absent == ["green"]
    shown = masks_in(tmp_path / "out", "a")
    label_map = np.asarray(Image.open(tmp_path / "out/labels/a.png"))
    assert report.absent == (entry["labels"]["green"]["area"] > 0)
    assert not shown["green"].any()
    np.testing.assert_array_equal(label_map, shown["red"])
    for kind in ("coco", "coco-rle"):
        write_results(tmp_path / "out", [kind])
    for file in ("coco.json", "coco_rle.json"):
        content = json.loads((tmp_path / "out" / file).read_text())
        assert {a["category_id"] for a in content["annotations"]} == {1}
    with pytest.raises(InvalidOption, match="no masks of absent labels: segment again with"):
        write_results(tmp_path / "out", ["coco"], options=ExportOptions(absent=True))


def test_pixels_of_absent_labels_go_to_those_that_are_present() -> None:
    a, b, c = (np.array([[bool(v) for v in row]]) for row in ((1, 1, 0, 0), (1, 1, 1, 0), (0, 1, 1, 1)))
    found = Prediction(
        {"a": a, "b": b, "c": c}, {}, np.array([[2, 2, 2, 3]], np.uint16), {"a": 0.9, "b": 0.2, "c": 0.6},
        {"a": True, "b": False, "c": True},
    )  # fmt: skip
    shown = found.of_present()
    assert shown.label_map.tolist() == [[1, 1, 3, 3]]
    assert not shown.masks["b"].any()
    assert found.masks["b"].any()


def test_absent_labels_on_request(tmp_path: Path) -> None:
    queries = images(tmp_path / "queries", "a.png")
    made = Segmenter(ColourMethod(sharpness=0.2), device="cpu", presence_threshold=1.0)
    made.teach("red", *blob("red"))
    report = run(made, queries, tmp_path / "out")
    assert report.absent == 1
    assert not masks_in(tmp_path / "out", "a")["red"].any()
    report = segment_files(made, [queries], tmp_path / "out", absent=True)
    assert (report.done, report.absent) == (1, 0)
    assert masks_in(tmp_path / "out", "a")["red"].any()
    write_results(tmp_path / "out", ["coco"], options=ExportOptions(absent=True))
    assert len(json.loads((tmp_path / "out/coco.json").read_text())["annotations"]) == 1


def test_every_mask_carries_its_score(tmp_path: Path) -> None:
    run(segmenter("red"), images(tmp_path / "queries", "a.png"), tmp_path / "out")
    score = results(tmp_path / "out")["pictures"][0]["labels"]["red"]["score"]
    assert Image.open(tmp_path / "out/masks/red/a.png").info == {"label": "red", "score": f"{score:.4f}"}
    write_results(tmp_path / "out", ["yolo"])
    assert json.loads((tmp_path / "out/yolo/scores.json").read_text()) == {"a": {"red": score}}


def test_masks_of_a_label_that_was_taken_away_are_moved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries, out = images(tmp_path / "queries", "a.png", "b.png"), tmp_path / "out"
    run(segmenter("red", "blue"), queries, out)
    old = (out / "masks/blue/a.png").read_bytes()
    run(segmenter("red"), queries / "a.png", out)
    assert "8 files of earlier runs" in caplog.text
    assert listing(out / "masks") == ["red/a.png"]
    assert listing(out / "labels") == ["a.png"]
    assert not (out / "masks/blue").exists()
    assert (out / "earlier/masks/blue/a.png").read_bytes() == old
    caplog.clear()
    run(segmenter("red"), queries, out)
    assert "earlier runs" not in caplog.text
    assert listing(out / "masks") == ["red/a.png", "red/b.png"]
