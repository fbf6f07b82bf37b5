"""Thousands of images: the same bytes as one by one, whatever runs at the same time, and never much in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fewseg.batch import BatchOptions, segment_files
from fewseg.batch.output_folder import OutputFolder, file_identity
from fewseg.batch.steps import ImageSteps, Loaded, PixelBudget, Task
from fewseg.batch.threads import ThreadPlan, ThreadsEngine
from fewseg.core.errors import InvalidOption
from fewseg.core.files import remove_leftovers, replacing, write_bytes
from fewseg.core.locks import is_lock
from fewseg.images.draw import overlay
from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import create_method
from helpers.colour_method import ColourMethod, blob

CPU = torch.device("cpu")


def photos(folder: Path, count: int) -> Path:
    """Images with noise and a coloured disc, each of another size."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(count):
        image, _ = blob("red" if i % 2 else "blue", size=(90 + 7 * i, 120 - 5 * i), place=0.3 + 0.04 * i)
        pixels = np.asarray(image) + draw.integers(-20, 20, (image.height, image.width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.{'jpg' if i % 3 else 'png'}")
    return folder


def colours() -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu")
    made.teach("red", *blob("red"))
    return made


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    torch.manual_seed(0)
    made = Segmenter(create_method("dcama", backbone="tiny", image_size=64), device="cpu")
    for label in ("red", "blue"):
        made.teach(label, *blob(label))
    return made


def contents(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not is_lock(p)}
    files.pop("times.json", None)
    return files


def one_by_one(segmenter: Segmenter, folder: Path, out: Path) -> dict[str, bytes]:
    """What one would write first."""
    written = OutputFolder(out, segmenter)
    sources = sorted(folder.iterdir())
    for source in sources:
        found = segmenter.segment(source)
        drawn = overlay(source, found)
        written.write(source, written.names.of(source), file_identity(source), found, drawn)
    written.finish(sources, [])
    return contents(out)


# ------------------------------------------------------------------------------------------------ same bytes


def test_same_bytes_as_one_by_one(tmp_path: Path, trained: Segmenter) -> None:
    folder = photos(tmp_path / "photos", 9)
    expected = one_by_one(trained, folder, tmp_path / "loop")
    assert len(expected) == 9 * 6 + 3
    for workers in (1, 3):
        out = tmp_path / str(workers)
        options = BatchOptions(workers=workers, model_threads=torch.get_num_threads())
        segment_files(trained, [folder], out, options=options)
        assert contents(out) == expected


def test_same_bytes_with_several_images_in_the_model(tmp_path: Path, trained: Segmenter) -> None:
    """Of many images each has one thread, whatever the machine's number of cores, and however few are left to do."""
    folder = photos(tmp_path / "photos", 9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = one_by_one(trained, folder, tmp_path / "loop")
        torch.set_num_threads(3)
        segment_files(trained, [folder], tmp_path / "three")
        (tmp_path / "three/labels/5.png").unlink()
        assert segment_files(trained, [folder], tmp_path / "three").done == 1
        assert torch.get_num_threads() == 3
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3]  # the pools' own number is not what later threads get
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "three") == expected


def test_same_bytes_wherever_a_batch_ends(tmp_path: Path, trained: Segmenter) -> None:
    """The last digits depend on the size of the batch, so it is always the same one."""
    folder = photos(tmp_path / "photos", 9)
    options = BatchOptions(batch_size=4)
    segment_files(trained, [folder], tmp_path / "whole", options=options)
    for some in (sorted(folder.iterdir())[:5], [folder]):
        segment_files(trained, some, tmp_path / "parts", options=options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_batches_are_filled_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = colours(), []
    whole = made.encode

    def counted(images):  # type: ignore[no-untyped-def]
        sizes.append(len(images))
        return whole(images)

    monkeypatch.setattr(made, "encode", counted)
    report = segment_files(made, [photos(tmp_path / "photos", 7)], tmp_path / "out", options=BatchOptions(batch_size=3))
    assert (report.done, sizes) == (7, [3, 3, 3])


# ----------------------------------------------------------------------------------------- bounded, and fast


def test_reading_does_not_run_away_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = colours()
    work = ImageSteps(made, OutputFolder(tmp_path / "out", made), False)
    photo = next(photos(tmp_path / "photos", 1).iterdir())
    plan = ThreadPlan(readers=2, writers=2, models=2, model_threads=1, batch_size=3)
    under_way, most, lock = 0, 0, threading.Lock()
    read, write = work.read, work.write

    def reading(task: Task) -> object:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        return read(task)

    def slowly(loaded: Loaded, coarse: Tensor) -> object:
        nonlocal under_way
        time.sleep(0.002)
        found = write(loaded, coarse)
        with lock:
            under_way -= 1
        return found

    monkeypatch.setattr(work, "read", reading)
    monkeypatch.setattr(work, "write", slowly)
    tasks = [Task(photo, str(i)) for i in range(150)]
    assert len(list(ThreadsEngine(work, plan).run(tasks))) == 150
    assert under_way == 0
    # Read ahead, a batch being filled, batches in and before the model, results being written or waiting for that.
    assert most <= (2 * 2 + 3) + 3 + (2 * 2 + 1) * 3 + 2 * 2 + 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 20))
def test_pixels_in_work_stay_within_the_budget(amounts: list[int], limit: int) -> None:
    budget, lock = PixelBudget(limit), threading.Lock()
    now: list[int] = []
    wrong: list[list[int]] = []

    def take(amount: int) -> None:
        with budget.taken(amount):
            with lock:
                now.append(amount)
                if sum(now) > limit and len(now) > 1:
                    wrong.append(list(now))
            time.sleep(0.0002)
            with lock:
                now.remove(amount)

    threads = [threading.Thread(target=take, args=(amount,)) for amount in amounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert not wrong


def test_a_failing_image_gives_its_pixels_back() -> None:
    budget = PixelBudget(10)
    with pytest.raises(ValueError, match="no"), budget.taken(10):
        raise ValueError("no")
    with budget.taken(10):
        pass


def test_plan() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        few, many = ThreadPlan.of(BatchOptions(), CPU, 11), ThreadPlan.of(BatchOptions(), CPU, 12)
        assert (few.models, few.model_threads) == (1, 6)
        assert (many.models, many.model_threads) == (6, 1)
        for images in (1, 1000):
            assert ThreadPlan.of(BatchOptions(model_threads=2), CPU, images).models == 3
            assert ThreadPlan.of(BatchOptions(model_threads=50), CPU, images) == few
        gpu = ThreadPlan.of(BatchOptions(), torch.device("cuda"), 1000, cores=64)
        assert (gpu.readers, gpu.models, gpu.batch_size) == (16, 2, 8)
        assert ThreadPlan.of(BatchOptions(workers=7, batch_size=5), CPU, 3, cores=2) == ThreadPlan(7, 7, 1, 2, 3)
        assert ThreadPlan.of(BatchOptions(workers=7, batch_size=5), CPU, 9, cores=2) == ThreadPlan(7, 7, 2, 1, 5)
    finally:
        torch.set_num_threads(before)


def test_how_fast_it_was(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 4)
    (folder / "bad.png").write_bytes(b"no image")
    before = time.monotonic()
    report = segment_files(colours(), [folder], tmp_path / "out")
    assert 0 < report.seconds <= time.monotonic() - before
    assert report.rate == pytest.approx(4 / report.seconds)
    times = json.loads((tmp_path / "out/times.json").read_text())
    assert (times["engine"], times["pictures"], times["failed"], times["already_finished"]) == ("threads", 4, 1, 0)
    assert times["pictures_per_second"] == pytest.approx(report.rate, rel=0.01)
    (folder / "bad.png").unlink()
    kept = (tmp_path / "out/times.json").read_text()
    assert segment_files(colours(), [folder], tmp_path / "out").rate == 0
    assert (tmp_path / "out/times.json").read_text() == kept  # nothing was done that could be timed


# --------------------------------------------------------------------------------------------- when it fails


def test_a_batch_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = colours()

    def full(_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")

    monkeypatch.setattr(made, "encode", full)
    with pytest.raises(InvalidOption, match=r"4 images at a time do not fit.*smaller --batch-size"):
        segment_files(made, [photos(tmp_path / "photos", 5)], tmp_path / "out", options=BatchOptions(batch_size=4))


def test_names_do_not_depend_on_what_can_be_read(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        blob("red")[0].save(tmp_path / "photos" / place / "1.png")
    whole = (tmp_path / "photos/x/1.png").read_bytes()
    (tmp_path / "photos/x/1.png").write_bytes(b"no image")
    segment_files(colours(), [tmp_path / "photos"], tmp_path / "out")
    assert [file.name for file in (tmp_path / "out/labels").iterdir()] == ["y_1.png"]
    (tmp_path / "photos/x/1.png").write_bytes(whole)
    segment_files(colours(), [tmp_path / "photos"], tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out/labels").iterdir()) == ["1.png", "y_1.png"]


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with replacing(tmp_path / "a/b/c.png") as temporary:
        temporary.write_bytes(b"whole")
        left_behind = temporary.with_name(temporary.name)
        kept = temporary.read_bytes()
    left_behind.write_bytes(kept)
    (tmp_path / "a/notes.tmp").touch()
    assert remove_leftovers(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["c.png", "notes.tmp"]


def test_threads_write_one_path_without_meeting(tmp_path: Path) -> None:
    path, contents = tmp_path / "one.bin", [bytes([number]) * 50_000 for number in range(8)]
    together = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        together.wait()
        for _ in range(20):
            write_bytes(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as threads:
        list(threads.map(write, contents))
    assert [file.name for file in tmp_path.iterdir()] == ["one.bin"]


def test_leftovers_of_the_living_are_spared_on_demand(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (os.getpid(), ended.pid):
        (tmp_path / f"a.png.{process}-0123abcd.tmp").touch()
        (tmp_path / f"b.png.{process}.tmp").touch()
    assert remove_leftovers(tmp_path, spare_running=True) == 2
    assert all(str(os.getpid()) in file.name for file in tmp_path.iterdir())
    assert remove_leftovers(tmp_path) == 2
