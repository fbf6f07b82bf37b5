"""The Ray engine: a real Ray with two workers, one of them killed; and what a worker does without a Ray around it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewseg.batch import BatchOptions, ray_engine, segment_files
from fewseg.batch.attempts import Attempts
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.ray_engine import RayEngine
from fewseg.batch.ray_worker import ALONE, FAILED, FATAL, FOUND, TOGETHER, RayWorker, WorkerState
from fewseg.batch.steps import ImageSteps
from fewseg.batch.threads import ThreadPlan
from fewseg.core.errors import InvalidOption, OutputError, WorkerError
from fewseg.core.types import QueryFeatures
from fewseg.inference.adaptation import fit
from fewseg.inference.segmenter import Segmenter
from helpers import adapting
from helpers.colour_method import ColourMethod, blob

PICTURES = 24


class Fragile(ColourMethod):
    """Kills its process in the middle of its work, once, if it is not the process of the tests."""

    marker = ""
    tests = 0

    def encode_query(self, images: Tensor) -> QueryFeatures:
        if self.marker and os.getpid() != self.tests and self.queries_encoded == 2:
            try:
                Path(self.marker).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_query(images)


def segmenter(method: ColourMethod | None = None) -> Segmenter:
    made = Segmenter(method or ColourMethod(), device="cpu")
    for label in ("red", "blue"):
        made.teach(label, *blob(label))
    return made


def photos(folder: Path, count: int = PICTURES) -> Path:
    folder.mkdir()
    for i in range(count):
        blob("red" if i % 2 else "blue", size=(96 + i, 64), place=0.3 + 0.01 * i)[0].save(folder / f"{i:02}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files.pop("times.json")
    return files


# ------------------------------------------------------------------------------------------------ a real Ray


@pytest.fixture
def local_ray() -> Iterator[Any]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fewseg[ray]'")
    ray = ray_engine.require_ray()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=128 << 20,
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_same_bytes_after_an_interruption_and_a_killed_worker(tmp_path: Path, local_ray: Any) -> None:
    method = Fragile()
    made = segmenter(method)
    folder = photos(tmp_path / "photos")
    (folder / "12.png").write_bytes(b"no image")
    threads = segment_files(made, [folder], tmp_path / "threads")
    assert (threads.done, len(threads.errors)) == (PICTURES - 1, 1)

    def stop(done: int, _: int, __: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_files(made, [folder], tmp_path / "ray", options=BatchOptions(workers=1), progress=stop)
    (tmp_path / "ray/labels/05.png.123.tmp").touch()  # left behind by a process that was killed
    method.marker, method.tests, method.queries_encoded = str(tmp_path / "killed"), os.getpid(), 0
    steps: list[int] = []
    report = segment_files(
        made,
        [folder],
        tmp_path / "ray",
        options=BatchOptions(engine="ray", ray_workers=2, ray_cpus=1),
        progress=lambda done, *_: steps.append(done),
    )
    assert (tmp_path / "killed").exists()
    assert report.skipped >= 4
    assert (report.done + report.skipped, report.errors) == (PICTURES - 1, threads.errors)
    assert steps == list(range(report.skipped, PICTURES + 1))
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")
    assert json.loads((tmp_path / "ray/times.json").read_text())["engine"] == "ray"
    assert not (tmp_path / "ray/.attempts").exists()
    assert local_ray.is_initialized()  # it was not started by the run


@pytest.mark.slow
def test_adapted_labels_give_the_same_bytes(tmp_path: Path, local_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SHORTEST", 10)
    made = adapting.taught(2)
    made.adapt(seconds=0, force=True)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10, 16):
        Image.fromarray(adapting.disc(number)[0]).save(folder / f"{number}.png")
    segment_files(made, [folder], tmp_path / "threads")
    options = BatchOptions(engine="ray", ray_workers=2, ray_cpus=1)
    segment_files(made, [folder], tmp_path / "ray", options=options)
    assert contents(tmp_path / "ray") == contents(tmp_path / "threads")


# ------------------------------------------------------------------------------ a worker, without Ray around it


def test_images_of_examples_stay_here(tmp_path: Path) -> None:
    made = segmenter()
    assert all(support.examples for support in made.supports.values())
    state = RayEngine(ImageSteps(made, OutputFolder(tmp_path, made), overlays=False), BatchOptions(), 4)._state()
    assert not any(support.examples for support in state.segmenter.supports.values())
    assert state.segmenter.fingerprint == made.fingerprint
    assert all(support.examples for support in made.supports.values())


def worker(tmp_path: Path, made: Segmenter, monkeypatch: pytest.MonkeyPatch) -> tuple[RayWorker, WorkerState]:
    """A worker as Ray would make it, in this process."""
    folder = OutputFolder(tmp_path / "out", made)
    plan = ThreadPlan.of(BatchOptions(workers=1), torch.device("cpu"), PICTURES, cores=1)
    state = WorkerState(made, folder, Attempts(tmp_path / "attempts"), True, plan, "cpu")
    monkeypatch.setitem(sys.modules, "ray", type("ray", (), {"get": staticmethod(lambda x: x)}))
    return RayWorker(state), state


def part(folder: Path) -> dict[str, Any]:
    files = sorted(folder.iterdir())
    return {"task": np.array([json.dumps([10 + i, str(f), f.stem]) for i, f in enumerate(files)], dtype=object)}


def rows(made: RayWorker, given: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(row) for row in made(given)["row"]]


def test_an_image_that_kills_is_found_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, state = worker(tmp_path, segmenter(), monkeypatch)
    given = part(photos(tmp_path / "photos", 4))
    whole, tried = made.engine.run, []

    def deadly(tasks):  # type: ignore[no-untyped-def]
        tried.append([task.name for task in tasks])
        if "02" in tried[-1]:
            raise SystemExit  # as far as it goes with a process that is killed
        return whole(tasks)

    monkeypatch.setattr(made.engine, "run", deadly)
    for _ in range(TOGETHER + ALONE):
        with pytest.raises(SystemExit):
            made(given)
    found = rows(made, given)
    assert [row["kind"] for row in found] == [FOUND, FOUND, FAILED, FOUND]
    assert [row["place"] for row in found] == [10, 11, 12, 13]
    assert "02.png ended the process that segmented it, 2 times" in found[2]["error"]
    assert tried[:2] == [["00", "01", "02", "03"]] * 2
    assert [file.name for file in state.attempts.folder.iterdir()] == ["part-10-2"]


def test_a_worker_tells_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, state = worker(tmp_path, segmenter(), monkeypatch)
    given = part(photos(tmp_path / "photos", 2))
    assert [row["kind"] for row in rows(made, given)] == [FOUND, FOUND]
    (tmp_path / "out/labels/00.png").unlink()
    (tmp_path / "out/labels/00.png").mkdir()
    row = rows(made, given)[-1]
    assert (row["kind"], row["type"]) == (FATAL, "OutputError")
    assert "labels/00.png" in row["error"]
    state.folder.journal.unlink()
    (row,) = rows(RayWorker(state), given)
    assert (row["kind"], row["type"]) == (FATAL, "OutputError")
    assert "share" in row["error"]
    monkeypatch.setitem(sys.modules, "ray", type("ray", (), {}))
    (row,) = rows(RayWorker(state), given)
    assert (row["kind"], row["type"]) == (FATAL, "WorkerError")


def test_the_copy_in_a_worker_keeps_no_journal(tmp_path: Path) -> None:
    made = segmenter()
    folder = OutputFolder(tmp_path / "out", made)
    copy = pickle.loads(pickle.dumps(folder))
    before = folder.journal.read_text()
    copy.accept({"picture": "x"})
    assert folder.journal.read_text() == before
    folder.accept({"picture": "x", "made_by": "y"})
    assert '"picture": "x"' in folder.journal.read_text()


# ------------------------------------------------------------------------------------------- when it fails


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos", 1)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InvalidOption, match=r"pip install 'fewseg\[ray\]'"):
        segment_files(segmenter(), [folder], tmp_path / "out", options=BatchOptions(engine="ray"))
    assert not (tmp_path / "out").exists()


class _Broken:
    """Stands for the ray module on a machine where Ray does not start."""

    class exceptions:
        class RayError(Exception):
            pass

    class data:
        class exceptions:
            class UserCodeException(Exception):
                pass

            class SystemException(Exception):
                pass

    @staticmethod
    def is_initialized() -> bool:
        return False

    @staticmethod
    def init(**_: object) -> None:
        raise ConnectionError("no\nanswer")


def test_ray_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos", 1)
    monkeypatch.setattr(ray_engine, "require_ray", lambda: _Broken)
    monkeypatch.setattr("fewseg.batch.files.require_ray", lambda: _Broken)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(WorkerError, match=r"cannot start on this machine \(no answer\).*threads engine"):
        segment_files(segmenter(), [folder], tmp_path / "out", options=BatchOptions(engine="ray"))
    for address in ("auto", "127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"):
        options = BatchOptions(engine="ray", ray_address=address)
        with pytest.raises(WorkerError, match=f"cannot connect to the cluster at {address} "):
            segment_files(segmenter(), [folder], tmp_path / "out", options=options)


def test_errors_of_workers_end_the_run(tmp_path: Path) -> None:
    made = segmenter()
    work = type("work", (), {"folder": OutputFolder(tmp_path / "out", made), "segmenter": made})
    engine = ray_engine.RayEngine(work, BatchOptions(), 1)  # type: ignore[arg-type]
    for kind, error in (("OutputError", OutputError), ("InvalidOption", InvalidOption), ("Other", WorkerError)):
        with pytest.raises(error, match="why"):
            engine._outcome(Path("a"), {"kind": FATAL, "type": kind, "error": "why"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": "rai"},
        {"ray_workers": -1},
        {"ray_cpus": -2},
        {"ray_gpus": 1.5},
        {"ray_gpus": -2},
        {"ray_gpus": float("nan")},
        {"model_threads": -1},
    ],
)
def test_impossible_options(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        segment_files(segmenter(), [photos(tmp_path / "photos", 1)], tmp_path / "out", options=BatchOptions(**wrong))
    assert not (tmp_path / "out").exists()
