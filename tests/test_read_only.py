"""Folders that may not be written: one line, exit code 2, and nothing that was there is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from fewseg import cli
from fewseg.core.errors import OutputError
from fewseg.inference.segmenter import Segmenter
from fewseg.server.engine.engine import Engine
from fewseg.server.project.project import Project
from helpers.annotating import Page, colour_segmenter, make_app, write_images
from helpers.colour_method import ColourMethod, blob
from helpers.kills import CASES, contents
from helpers.read_only import read_only

pytestmark = pytest.mark.slow

MODEL = "--model {data}/model.safetensors --device cpu"
OTHERS = {
    "teach": f"teach --support {{data}}/support --out {{out}}/a.fewseg --adapt off {MODEL}",
    "export": "export --out {out} --formats pt2 --query-only --verify-shots 1 --model {data}/model.safetensors",
    "explain": "explain --out {out} --figures masks --label red --support {data}/support/red/0.jpg "
    f"{{data}}/support/red/0.png --query {{data}}/photos/0.png {MODEL}",
    "frame": "frame --video {data}/clip.mp4 --out {out}/frame.png",
    "demo": f"demo --out {{out}} {MODEL}",
    "ablate": "ablate background --out {out} --data synthetic@0/4 --backbone tiny --image-size 64 "
    "--random-backbone --device cpu",
    "serve": f"serve {{out}} --port 0 {MODEL}",
    "label studio": f"serve --label-studio-folder {{out}} --port 0 {MODEL}",
}


def run(words: str, data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of a command, and the lines in which it says what is wrong."""
    capsys.readouterr()
    code = cli.main(words.replace("--workers 2", "--workers 1").format(data=data, out=out).split())
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, [line for line in said.splitlines() if "error: " in line]


def write_clip(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])


def refused(code: int, lines: list[str], place: Path) -> None:
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert str(place) in lines[0], lines
    assert "ermission denied" in lines[0], lines


def prepared(name: str, folder: Path) -> Path:
    data = folder / "data"
    data.mkdir()
    CASES[name].make(data)
    return data


@pytest.mark.parametrize("name", list(CASES))
def test_a_command_that_may_not_write_its_results(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, data, place = CASES[name], prepared(name, tmp_path), tmp_path / "place"
    shutil.copytree(data, place) if case.inside else place.mkdir()
    out = place if case.inside else place / "out"
    before = contents(place)
    with read_only(place):
        refused(*run(case.words, data, out, capsys), place)
    assert contents(place) == before
    with read_only(data):
        assert run(case.words, data, out, capsys) == (0, [])
    whole = contents(out)
    with read_only(place):
        code, lines = run(case.words, data, out, capsys)
        if code:  # where all is done, nothing needs to be written
            refused(code, lines, place)
    assert contents(out) == whole


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, place = prepared("segment", tmp_path), tmp_path / "place"
    place.mkdir()
    if name == "frame":
        write_clip(data / "clip.mp4")
    if name == "serve":
        write_images(place)
    with read_only(place):
        refused(*run(OTHERS[name], data, place, capsys), place)


def test_a_segmenter_stays_as_it_was_saved(tmp_path: Path) -> None:
    segmenter = Segmenter(ColourMethod(), device="cpu")
    segmenter.teach("red", *blob("red"))
    segmenter.save(tmp_path / "a.fewseg")
    before = (tmp_path / "a.fewseg").read_bytes()
    segmenter.teach("blue", *blob("blue"))
    with read_only(tmp_path), pytest.raises(OutputError, match="ermission denied"):
        segmenter.save(tmp_path / "a.fewseg")
    assert (tmp_path / "a.fewseg").read_bytes() == before


def test_a_project_that_may_no_longer_be_written_goes_on_when_it_may(tmp_path: Path) -> None:
    masks = write_images(tmp_path)
    engine = Engine(Project(tmp_path), colour_segmenter())  # never started: only what is drawn counts here
    page = Page(TestClient(make_app(engine)))
    label = page.add_label("disc")
    page.paint("0.png", label, masks["0.png"])
    before, files = page.project(), contents(tmp_path)
    with read_only(tmp_path):
        page = Page(TestClient(make_app(engine)))  # whose threads are bound as this one
        for said in (
            page.ask("POST", "/labels", 500, json={"name": "ring"}),
            page.paint("1.png", label, masks["1.png"], 500),
            page.ask("POST", "/undo", 500),
        ):
            assert "ermission denied" in said["error"]
        assert page.project() == before
    assert contents(tmp_path) == files
    page = Page(TestClient(make_app(engine)))
    page.paint("1.png", label, masks["1.png"])
    engine.close()
    project = Project(tmp_path)
    assert {image.name for image in project.images.values() if project.annotation(image.id, label)} == {
        "0.png",
        "1.png",
    }
    project.close()
    with read_only(tmp_path), pytest.raises(OutputError, match="ermission denied"):
        Project(tmp_path)
