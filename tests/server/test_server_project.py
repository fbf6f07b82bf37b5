"""The annotation page's backend as a whole: paint, see masks, correct, undo, export, come back."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import FolderInUse
from fewseg.inference.segmenter import Segmenter
from helpers.annotating import API, Page, colour_segmenter, png, serving, write_images
from helpers.colour_method import blob, iou

pytest.importorskip("fastapi")


def test_paint_see_correct_improve_export(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    masks = write_images(folder, "rrbgr")
    with serving(folder) as page:
        assert {p["state"] for p in page.images().values()} == {"untaught"}
        label = page.add_label("disc")
        painted = page.paint("0.png", label, masks["0.png"])
        assert painted["supports"] == [label]
        assert painted["masks"] == page.images()["0.png"]["masks"]
        project = page.wait()
        assert project["progress"] == {"done": 5, "total": 5, "seconds_left": 0.0}
        assert [v["shots"] for v in project["labels"]] == [1]
        assert iou(page.mask("1.png", label), masks["1.png"]) > 0.9
        assert iou(page.mask("0.png", label), masks["0.png"]) == 1  # what was painted, not what is found
        found = page.images()["2.png"]
        assert found["present"] == {str(label): False}  # blue is no red disc
        assert found["scores"][str(label)] < 0.5
        assert page.mask("2.png", label).max() == 0
        before = page.images()["2.png"]["masks"]
        page.paint("2.png", label, masks["2.png"])  # a correction: blue discs, too
        page.paint("3.png", label, masks["3.png"])
        page.wait()
        assert page.images()["2.png"]["masks"] != before
        assert iou(page.mask("4.png", label), masks["4.png"]) > 0.9
        answer = page.ask("POST", "/export", json={"formats": ["png", "coco"], "which": "all"})
        assert answer["pictures"] == 5
        assert answer["left_out"] == 0
        out = folder / answer["folder"]
        exported = {path.stem: np.asarray(Image.open(path)) for path in (out / "masks" / "disc").glob("*.png")}
        assert set(exported) == {"0", "1", "2", "3", "4"}
        for name, mask in exported.items():
            np.testing.assert_array_equal(mask, page.mask(f"{name}.png", label))
        coco = json.loads((out / "coco.json").read_text())
        assert {image["file_name"] for image in coco["images"]} == {f"{i}.png" for i in range(5)}
        assert set(page.images()) == {f"{i}.png" for i in range(5)}  # what was exported is not labelled again


def test_the_embedded_model_end_to_end(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rr")
    with serving(tmp_path, Segmenter.from_pretrained(device="cpu")) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait(seconds=60)
        assert iou(page.mask("1.png", label), masks["1.png"]) > 0.7
        body = {"label": label, "points": [[48, 32, 1]], "size": 0.5}
        content = page.ask("POST", f"/pictures/{page.id('0.png')}/assist", json=body)
        region = np.asarray(Image.open(io.BytesIO(content)))
        assert region.shape == (64, 96)
        image = page.images()["1.png"]
        assert 0 < image["confidence"] <= 1
        uncertainty = np.asarray(Image.open(io.BytesIO(page.ask("GET", f"/pictures/{image['id']}/uncertainty"))))
        assert uncertainty.shape == (64, 96)


def test_a_restart_shows_everything_at_once_and_undo_goes_on(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrb")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        before = page.wait()
        mask = page.mask("1.png", label)
    segmenter = colour_segmenter()
    with serving(tmp_path, segmenter) as page:
        after = page.wait()
        assert segmenter.method.queries_encoded == 0  # type: ignore[union-attr]
        for key in ("labels", "pictures", "revision", "undo_text"):
            assert after[key] == before[key]
        np.testing.assert_array_equal(page.mask("1.png", label), mask)
        assert after["undo_text"] == "Paint disc in 0.png"
        undone = page.ask("POST", "/undo")
        assert {p["state"] for p in undone["pictures"]} == {"untaught"}
        assert all(p["masks"] == {} for p in undone["pictures"])
        assert page.ask("POST", "/undo")["labels"] == []
        assert "nothing to undo" in page.ask("POST", "/undo", 409)["error"]
        page.ask("POST", "/redo")
        page.ask("POST", "/redo")
        assert "nothing to redo" in page.ask("POST", "/redo", 409)["error"]
        again = page.wait()
        assert segmenter.method.queries_encoded == 0  # type: ignore[union-attr]
        assert [p["supports"] for p in again["pictures"]] == [[label], [], [], []]


def test_undo_takes_back_every_kind_of_change(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rr")

    def told(page: Page) -> object:
        project = page.project()
        return [(v["id"], v["name"], v["colour"]) for v in project["labels"]], [
            (p["supports"], p["checked"]) for p in project["pictures"]
        ]

    with serving(tmp_path, start=False) as page:
        disc, other = page.add_label("disc"), page.add_label("other")
        name = f"/pictures/{page.id('0.png')}"
        changes = [
            lambda: page.paint("0.png", disc, masks["0.png"]),
            lambda: page.paint("0.png", disc, masks["1.png"]),
            lambda: page.paint("1.png", other, masks["1.png"]),
            lambda: page.ask("PATCH", f"/labels/{disc}", json={"name": "ring", "colour": "#ABCDEF"}),
            lambda: page.ask("PUT", f"{name}/checked", json={"checked": True}),
            lambda: page.ask("DELETE", f"{name}/annotations/{disc}"),
            lambda: page.ask("DELETE", f"/labels/{other}", 204),
        ]
        seen = [told(page)]
        for change in changes:
            change()
            seen.append(told(page))
        first = page.engine.project.store.masks  # type: ignore[union-attr]
        assert len(list(first.glob("*.png"))) == 3  # what undo needs is kept
        for expected in seen[-2::-1]:
            page.ask("POST", "/undo")
            assert told(page) == expected
        for expected in seen[1:]:
            page.ask("POST", "/redo")
            assert told(page) == expected


def test_promote_a_prediction_and_confirm_an_image_without(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        found = page.mask("1.png", label)
        path = f"/pictures/{page.id('1.png')}/annotations/{label}"
        assert page.ask("PUT", path, params={"from": "prediction"})["supports"] == [label]
        np.testing.assert_array_equal(page.mask("1.png", label), found)
        page.wait()
        path = f"/pictures/{page.id('2.png')}"
        error = page.ask("PUT", f"{path}/annotations/{label}", 422, params={"from": "prediction"})["error"]
        assert "nothing was found" in error
        assert page.ask("PUT", f"{path}/checked", json={"checked": True})["checked"] is True
        answer = page.ask("POST", "/export", json={"formats": ["png"], "which": "checked"})
        assert answer["pictures"] == 3


def test_export_as_a_download(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rr")
    with serving(tmp_path) as page:
        assert "nothing to export" in page.ask("POST", "/export", 409, json={})["error"]
        label = page.add_label("a/b")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        content = page.ask("GET", "/export.zip", params={"formats": "png,coco"})
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            assert archive.testzip() is None
        assert all(name.startswith("fewseg-export/") for name in names)
        assert "fewseg-export/coco.json" in names
        assert "tiff" in page.ask("GET", "/export.zip", 422, params={"formats": "png,tiff"})["error"]
        assert "choose from" in page.ask("GET", "/export.zip", 422, params={"formats": ","})["error"]
        assert list((tmp_path / ".fewseg").glob("export-*")) == []  # nothing left behind
        assert list((tmp_path / ".fewseg").glob("fewseg-*")) == []


def test_export_of_an_image_far_down_in_folders_of_long_names(tmp_path: Path) -> None:
    below = tmp_path / ("写真" * 10) / ("二〇二四年" * 8)
    below.mkdir(parents=True)
    image, mask = blob("red")
    image.save(below / ("漢字" * 10 + ".png"))
    with serving(tmp_path) as page:
        (name,) = page.images()
        page.paint(name, page.add_label("disc"), mask)
        answer = page.ask("POST", "/export", json={"formats": ["png"]})
        (exported,) = (tmp_path / answer["folder"] / "masks" / "disc").iterdir()
        np.testing.assert_array_equal(np.asarray(Image.open(exported)), mask)


def test_only_the_revision_that_was_asked_for_may_be_kept(tmp_path: Path) -> None:
    """Another one's mask under its address would come back with undo."""
    masks = write_images(tmp_path, "r")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        first, second = (
            page.paint("0.png", label, mask)["masks"][str(label)] for mask in (masks["0.png"], ~masks["0.png"])
        )
        address = f"{API}/pictures/{page.images()['0.png']['id']}/masks/{label}"
        late, now = (page.client.get(address, params={"r": r}).headers["cache-control"] for r in (first, second))
        assert "immutable" not in late
        assert "immutable" in now


def test_a_masks_address_is_that_of_no_other_mask(tmp_path: Path) -> None:
    """Browsers keep masks by their address: a folder that is served later has the same but for the revision."""
    found = []
    for name, number in (("one", 0), ("other", 1)):
        masks = write_images(tmp_path / name, "rr")
        with serving(tmp_path / name) as page:
            label = page.add_label("disc")
            found.append(page.paint("0.png", label, masks[f"{number}.png"])["masks"])
            page.ask("POST", "/undo")
            assert page.paint("0.png", label, masks[f"{number}.png"])["masks"] == found[-1]
    assert found[0] != found[1]


def test_masks_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "r")
    corner = np.zeros((64, 96))
    corner[63, 95] = 1
    bodies = [
        (png(np.ones((10, 10))), "10x10"),
        (b"", "no PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "no PNG"),
        (png(np.ones((64, 96)))[:-30], "no PNG"),
        (png(corner), "vanishes at the model's input size"),
    ]
    with serving(tmp_path, colour_segmenter(image_size=32), start=False) as page:
        label = page.add_label("disc")
        path = f"/pictures/{page.id('0.png')}/annotations/{label}"
        for body, said in bodies:
            assert said in page.ask("PUT", path, 422, content=body)["error"]
        assert page.project()["undo_text"] == "Add the label disc"


def test_masks_of_any_png_kind(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "r")
    mask = masks["0.png"]
    with serving(tmp_path, start=False) as page:
        label = page.add_label("disc")
        path = f"/pictures/{page.id('0.png')}/annotations/{label}"
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        clear = Image.merge("RGBA", [grey.point(lambda _: 255)] * 3 + [grey])  # a canvas: white where it is painted
        for image in (grey.convert("1"), grey.convert("RGB"), grey.convert("P"), clear):
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            page.ask("PUT", path, content=encoded.getvalue())
            np.testing.assert_array_equal(page.mask("0.png", label) > 0, mask)


def test_what_is_not_there(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "r")
    with serving(tmp_path, start=False) as page:
        label, image = page.add_label("disc"), page.id("0.png")
        for method, path in [
            ("GET", "/pictures/nope/image"),
            ("GET", f"/pictures/nope/masks/{label}"),
            ("GET", f"/pictures/{image}/masks/{label}"),
            ("GET", f"/pictures/{image}/masks/99"),
            ("GET", f"/pictures/{image}/uncertainty"),
            ("DELETE", f"/pictures/{image}/annotations/{label}"),
            ("DELETE", "/labels/99"),
            ("PATCH", "/labels/99"),
        ]:
            page.ask(method, path, 404, **({"json": {}} if method == "PATCH" else {}))
        page.ask("PUT", f"/pictures/{image}/annotations/99", 404, content=png(masks["0.png"]))
        page.ask("PUT", f"/pictures/nope/annotations/{label}", 404, content=png(masks["0.png"]))


def test_no_path_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_images(folder, "r")
    blob("red")[0].save(tmp_path / "secret.png")
    names = ("../secret.png", "..%2Fsecret.png", "%2e%2e%2fsecret.png", "/etc/passwd", "....//secret.png", ".fewseg")
    with serving(folder, start=False) as page:
        label = page.add_label("../../evil")
        for name in names:
            for path in (f"/pictures/{name}/image", f"/pictures/{name}/masks/{label}"):
                answer = page.client.get("/api/v1" + path)
                assert answer.status_code == 404
                assert b"PNG" not in answer.content[:8]
        page.ask("POST", "/visible", 204, json={"ids": list(names)})


def test_label_names_and_colours(tmp_path: Path) -> None:
    write_images(tmp_path, "r")
    with serving(tmp_path, start=False) as page:
        first = page.ask("POST", "/labels", 201, json={"name": "  big   cat "})
        assert first["name"] == "big cat"
        second = page.ask("POST", "/labels", 201, json={"name": "dog"})
        assert first["colour"] != second["colour"]
        assert "already" in page.ask("POST", "/labels", 422, json={"name": "BIG CAT"})["error"]
        for name in ("", " ", "a\x07b", "x" * 81):
            assert "label name" in page.ask("POST", "/labels", 422, json={"name": name})["error"]
        assert "#rrggbb" in page.ask("POST", "/labels", 422, json={"name": "x", "colour": "red"})["error"]
        page.ask("POST", "/labels", 422, json={"name": "x", "size": 3})
        changed = page.ask("PATCH", f"/labels/{first['id']}", json={"colour": "#ABCDEF"})
        assert changed == {**first, "colour": "#abcdef"}
        page.ask("DELETE", f"/labels/{second['id']}", 204)
        third = page.ask("POST", "/labels", 201, json={"name": "dog"})
        assert third["id"] > second["id"]  # ids are never used twice


def test_images_are_upright_and_may_be_kept(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 100, 1).repeat(3, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with serving(tmp_path, start=False) as page:
        image = page.images()["turned.jpg"]
        assert (image["width"], image["height"]) == (200, 100)
        path = f"/api/v1/pictures/{image['id']}/image"
        for side, size in ((1600, (200, 100)), (50, (50, 25)), (64, (64, 32))):
            answer = page.client.get(path, params={"side": side})
            shown = Image.open(io.BytesIO(answer.content))
            assert shown.size == size
            assert shown.getpixel((2, 5))[0] > shown.getpixel((size[0] - 3, 5))[0] + 100  # type: ignore[index, operator]
            again = page.client.get(path, params={"side": side}, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304
        assert len(list((tmp_path / ".fewseg/cache").glob("*/*.jpg"))) == 1  # the one for a gallery
        for side in (0, 15, 100_000):
            page.ask("GET", f"/pictures/{image['id']}/image", 422, params={"side": side})


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "r")
    with (
        serving(tmp_path, start=False),
        pytest.raises(FolderInUse, match="in use by another fewseg"),
        serving(tmp_path),
    ):
        pass
    with serving(tmp_path, start=False):
        pass  # closed ones let go


def test_two_people_at_once(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrrrrrr")
    with serving(tmp_path) as page:
        labels = [page.add_label("mine"), page.add_label("yours")]
        ids = {name: image["id"] for name, image in page.images().items()}

        def work(place: int) -> None:
            for name, mask in masks.items():
                url = f"/pictures/{ids[name]}/annotations/{labels[place]}"
                page.ask("PUT", url, content=png(mask))

        with ThreadPoolExecutor(2) as people:
            list(people.map(work, (0, 1)))
        project = page.wait()
        assert all(p["supports"] == labels for p in project["pictures"])
        assert [v["shots"] for v in project["labels"]] == [8, 8]
        for _ in range(16):
            page.ask("POST", "/undo")
        assert all(p["supports"] == [] for p in page.project()["pictures"])
