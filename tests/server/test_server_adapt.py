"""Labels that are adapted to their examples over the HTTP API and by the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pycocotools import mask as coco

from fewseg.client import Client, ServerError
from fewseg.inference.adaptation import fit
from fewseg.inference.segmenter import Segmenter
from fewseg.server.app import create_app
from helpers.colour_method import blob, iou
from helpers.server import SESSIONS, listening, pair, png, refused
from helpers.toy_method import toy

PAIRS = [blob("red", place=0.3 + 0.1 * place) for place in range(6)]
"""Images with a red disc, and its mask."""


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a few steps."""
    monkeypatch.setattr(fit, "SHORTEST", 60)
    monkeypatch.setattr(fit, "STEPS", 60)


def client(**options: Any) -> TestClient:
    return TestClient(create_app(Segmenter(toy(64), device="cpu"), **options), base_url="http://localhost")


def taught(http: TestClient, examples: int = 5) -> str:
    """The path of a new session with a label."""
    path = f"{SESSIONS}/{http.post(SESSIONS).json()['id']}"
    files = [file for example in PAIRS[:examples] for file in pair(*example)]
    assert http.post(f"{path}/shots", data={"label": "disc"}, files=files).status_code == 201
    return path


def segmented(http: TestClient, path: str) -> Any:
    answer = http.post(f"{path}/segment", files={"image": png(PAIRS[5][0])})
    assert answer.status_code == 200
    return coco.decode(answer.json()["labels"][0]["rle"])


def test_a_session_is_adapted_and_its_file_keeps_that(tmp_path: Path) -> None:
    with client() as http:
        path = taught(http)
        before = segmented(http, path)
        (report,) = http.post(f"{path}/adapt").json()
        assert report["adapted"]
        assert report["label"] == "disc"
        assert report["examples"] == len(report["per_image"]) == 5
        assert report["expected_iou"] == report["iou_after"] > report["iou_before"]
        assert report["text"].startswith("disc: 5 examples; on each left out in turn IoU")
        after = segmented(http, path)
        assert iou(after, PAIRS[5][1]) > max(0.7, iou(before, PAIRS[5][1]))
        assert http.get(f"{path}/labels").json()[0]["adapted"] is True
        file = http.get(f"{path}/export").content
        (tmp_path / "disc.fewseg").write_bytes(file)
        segmenter = Segmenter.load(tmp_path / "disc.fewseg", toy(64), device="cpu")
        np.testing.assert_array_equal(segmenter.segment(PAIRS[5][0]).masks["disc"], after)
        loaded = http.post(f"{SESSIONS}/load", files={"file": file}).json()
        assert loaded["labels"][0]["adapted"] is True
        np.testing.assert_array_equal(segmented(http, f"{SESSIONS}/{loaded['id']}"), after)
        refused(http.post(f"{SESSIONS}/{loaded['id']}/adapt"), 422, "teach its examples again")
        image, mask = PAIRS[5]
        files = {"image": png(image), "mask": png(mask)}
        assert http.post(f"{path}/shots", data={"label": "disc"}, files=files).json()["adapted"] is False


def test_what_cannot_be_adapted(tmp_path: Path) -> None:
    with client() as http:
        path = taught(http, 1)
        assert http.post(f"{path}/adapt").json() == []
        (report,) = http.post(f"{path}/adapt", json={"labels": ["disc"]}).json()
        assert (report["adapted"], report["iou_before"], report["spread"]) == (False, None, None)
        refused(http.post(f"{path}/adapt", json={"labels": ["disk"]}), 404, "disc")
        refused(http.post(f"{path}/adapt", json={"seconds": 1e9}), 422, "seconds")
        empty = f"{SESSIONS}/{http.post(SESSIONS).json()['id']}"
        refused(http.post(f"{empty}/adapt"), 409, "taught nothing")


def test_the_client_adapts() -> None:
    with listening(create_app(Segmenter(toy(64), device="cpu"))) as address:
        session = Client(address).session()
        session.teach("disc", [image for image, _ in PAIRS[:5]], [mask for _, mask in PAIRS[:5]])
        reports = session.adapt(seconds=0)
        assert list(reports) == ["disc"]
        assert reports["disc"]["adapted"]
        assert iou(session.segment(PAIRS[5][0]).masks["disc"], PAIRS[5][1]) > 0.7
        assert session.adapt("disc", force=True)["disc"]["examples"] == 5
        with pytest.raises(ServerError, match="no label"):
            session.adapt("disk")
