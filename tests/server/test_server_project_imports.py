"""Annotations of other tools in the folder are offered, and taken in as examples and checked masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.server.page import imports
from helpers.annotating import serving, write_images


def write_coco(folder: Path, names: list[str]) -> None:
    """Squares of `panda`, the last image with one of `bear` as well."""
    images = [{"id": i, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names)]
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    annotations = [
        {"id": i + 1, "image_id": i, "category_id": 1, "segmentation": square, "iscrowd": 0} for i in range(len(names))
    ]
    annotations.append(
        {**annotations[-1], "id": 99, "category_id": 2, "segmentation": [[60, 10, 90, 10, 90, 40, 60, 40]]}
    )
    categories = [{"id": 1, "name": "panda"}, {"id": 2, "name": "bear"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def test_annotations_are_offered_and_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "TEACHING", 2)
    write_images(tmp_path, "rrrbb")
    write_coco(tmp_path, ["0.png", "1.png", "2.png"])
    with serving(tmp_path) as page:
        assert page.ask("GET", "/existing") == {
            "kind": "COCO JSON",
            "pictures": 3,
            "labels": [{"name": "panda", "pictures": 3}, {"name": "bear", "pictures": 1}],
        }
        project = page.ask("POST", "/existing")
        labels = {label["name"]: label for label in project["labels"]}
        panda, bear = labels["panda"]["id"], labels["bear"]["id"]
        assert (labels["panda"]["shots"], labels["bear"]["shots"]) == (2, 1)
        images = {image["name"]: image for image in project["pictures"]}
        assert images["1.png"]["supports"] == [panda]
        assert (images["2.png"]["confirmed"], images["2.png"]["supports"]) == ([panda], [bear])
        expected = np.zeros((64, 96), np.bool_)
        expected[10:50, 10:50] = True
        found = page.mask("2.png", panda) > 0
        assert (found & expected).sum() / (found | expected).sum() > 0.95
        page.wait()
        project = page.ask("POST", "/undo")  # all of it is one change
        assert project["labels"] == []
        assert project["can_undo"] is False


def test_masks_beside_their_images_are_no_images_then(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    folder.mkdir(parents=True)
    masks = write_images(folder, "rr")
    for name in masks:
        Image.open(folder / name).convert("RGB").save((folder / name).with_suffix(".jpg"))
        Image.fromarray(masks[name].astype(np.uint8) * 255).save(folder / name)
    with serving(tmp_path) as page:
        assert len(page.images()) == 4
        assert page.ask("GET", "/existing")["labels"] == [{"name": "cats", "pictures": 2}]
        page.ask("POST", "/existing")
        assert sorted(page.images()) == ["cats/0.jpg", "cats/1.jpg"]
    with serving(tmp_path) as page:
        assert sorted(page.images()) == ["cats/0.jpg", "cats/1.jpg"]


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    write_images(tmp_path, "rb")
    with serving(tmp_path) as page:
        assert page.ask("GET", "/existing") is None
        assert "no annotations" in page.ask("POST", "/existing", 422)["error"]
