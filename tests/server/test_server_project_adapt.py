"""Labels of a project that are adapted to their examples: when, what the page hears of it, what is kept."""

from __future__ import annotations

import math
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import InvalidSupport
from fewseg.inference.adaptation import fit
from fewseg.inference.segmenter import Segmenter
from fewseg.server.fitting import Fit, Fitter
from helpers.annotating import Page, serving, write_images
from helpers.colour_method import iou
from helpers.toy_method import toy

pytest.importorskip("uvicorn")

PATIENCE = 600
"""Seconds that a fit may take; it takes one on a quiet machine."""


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a few steps."""
    monkeypatch.setattr(fit, "SHORTEST", 60)
    monkeypatch.setattr(fit, "STEPS", 60)


def segmenter() -> Segmenter:
    return Segmenter(toy(64), device="cpu")


def painted(page: Page, masks: dict[str, np.ndarray], count: int = 5) -> int:
    """A label with `count` examples."""
    label = page.add_label("disc")
    for name in list(masks)[:count]:
        page.paint(name, label, masks[name])
    return label


def adapted(project: Any) -> bool:
    """Whether the first label's fit is done and so are all images."""
    own = project["labels"][0]["adaptation"]
    done = all(p["state"] == "done" for p in project["pictures"])
    return own is not None and own["state"] == "done" and done


def test_a_label_is_adapted_by_itself_and_masks_become_those_of_the_segmenter(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrrrrr")
    with serving(tmp_path, segmenter(), rest=0.2) as page:
        label = painted(page, masks, 4)
        assert page.wait()["labels"][0]["adaptation"] is None
        before = iou(page.mask("6.png", label), masks["6.png"])
        page.paint("4.png", label, masks["4.png"])
        project = page.wait(adapted, PATIENCE)
        report = project["labels"][0]["adaptation"]["report"]
        assert report["adapted"]
        assert report["examples"] == 5
        assert report["expected_iou"] == report["iou_after"] > report["iou_before"]
        assert report["spread"] >= 0
        found = page.mask("6.png", label)
        assert iou(found, masks["6.png"]) > max(0.8, before)
        assert page.ask("GET", f"/pictures/{page.id('6.png')}/uncertainty")

        mine = segmenter()
        for name in list(masks)[:5]:
            mine.teach("disc", tmp_path / name, masks[name])
        mine.adapt()
        expected = mine.segment(tmp_path / "6.png")
        assert (found > 0).shape == expected.masks["disc"].shape
        assert ((found > 0) == expected.masks["disc"]).mean() > 0.999
        image = page.images()["6.png"]
        assert image["scores"][str(label)] == pytest.approx(expected.scores["disc"], abs=0.01)
        assert image["present"][str(label)] == expected.present["disc"]
        exported = zipfile.ZipFile(BytesIO(page.ask("GET", "/export.zip", params={"formats": "png"})))
        name = next(name for name in exported.namelist() if "/6" in name and name.endswith(".png"))
        written = np.asarray(Image.open(BytesIO(exported.read(name))))
        assert ((written > 0) == (found > 0)).all()
    with serving(tmp_path, segmenter(), rest=1000) as page:  # found again: nothing is fitted
        assert page.wait(adapted, PATIENCE)["labels"][0]["adaptation"]["report"] == report
        assert (page.mask("6.png", label) == found).all()
    with serving(tmp_path, segmenter(), rest=math.inf) as page:
        assert page.wait()["labels"][0]["adaptation"] is None


def test_an_earlier_fit_goes_on_until_the_next_one_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = write_images(tmp_path, "rrrrrrrr")
    with serving(tmp_path, segmenter(), rest=0.1) as page:
        label = painted(page, masks)
        page.wait(adapted, PATIENCE)
        earlier = page.images()["7.png"]["masks"][str(label)]
        go, make = threading.Event(), Fitter._fit

        def waiting(self: Fitter, *given: Any) -> Fit:
            go.wait(60)
            return make(self, *given)

        monkeypatch.setattr(Fitter, "_fit", waiting)
        page.paint("5.png", label, masks["5.png"])
        project = page.wait(lambda p: p["labels"][0]["adaptation"]["state"] == "working")
        assert project["labels"][0]["adaptation"]["report"]["examples"] == 5
        page.wait(lambda p: all(v["state"] == "done" for v in p["pictures"]))
        assert page.images()["7.png"]["masks"][str(label)] != earlier  # the new example counts already
        assert iou(page.mask("7.png", label), masks["7.png"]) > 0.8
        page.paint("6.png", label, masks["6.png"])  # a stroke while it works is answered at once
        go.set()
        project = page.wait(lambda p: adapted(p) and p["labels"][0]["adaptation"]["report"]["examples"] == 7, PATIENCE)
        page.ask("POST", "/undo")
        page.ask("POST", "/undo")
        project = page.wait(adapted, PATIENCE)  # the fit of the first five is known
        assert project["labels"][0]["adaptation"]["report"]["examples"] == 5
        assert page.images()["7.png"]["masks"][str(label)] == earlier


def test_a_fit_waits_for_what_is_on_screen_and_ends_with_the_server(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrrrrr")
    steps = []
    with serving(tmp_path, segmenter(), rest=0.1) as page:
        assert page.engine is not None
        engine, step = page.engine, page.engine.adapter._fitter._step
        engine.adapter._fitter._step = lambda *given: (steps.append(engine._screen_pending()), step(*given))[1]  # type: ignore[assignment,method-assign]
        page.ask("POST", "/visible", 204, json={"ids": [page.id("6.png")]})
        painted(page, masks)
        end = time.monotonic() + 60
        while not steps:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert steps[0] is False
    assert not engine.adapter._fitter.busy


def test_a_fit_that_fails_leaves_the_label_as_it_was_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    masks = write_images(tmp_path, "rrrrrrr")

    def failing(self: Fitter, *given: Any) -> Fit:
        raise InvalidSupport("no")

    monkeypatch.setattr(Fitter, "_fit", failing)
    with serving(tmp_path, rest=0.05) as page:
        label = painted(page, masks)
        end = time.monotonic() + 60
        while "disc is not adapted: no" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.01)
        page.wait(lambda p: p["labels"][0]["adaptation"] is None)
        page.wait()
        assert iou(page.mask("6.png", label), masks["6.png"]) > 0.9
    assert caplog.text.count("is not adapted") == 1


def test_a_damaged_fit_on_the_disk_is_made_again(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrrrr")
    with serving(tmp_path, segmenter(), rest=0.1) as page:
        painted(page, masks)
        report = page.wait(adapted, PATIENCE)["labels"][0]["adaptation"]["report"]
    (file,) = (tmp_path / ".fewseg/cache").glob("*/*.fit")
    file.write_bytes(file.read_bytes()[:-20])
    with serving(tmp_path, segmenter(), rest=0.1) as page:
        again = page.wait(adapted, PATIENCE)["labels"][0]["adaptation"]["report"]
    assert again["per_image"] == report["per_image"]
