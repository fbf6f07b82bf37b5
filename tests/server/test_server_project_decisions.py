"""What a person decides about masks: not here, checked, accepted; with several people, labels and thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.server.engine.cache import ResultSummary
from fewseg.server.project.project import Project
from helpers.annotating import Page, serving, write_images


def taught(page: Page, masks: dict[str, np.ndarray], name: str = "disc") -> int:
    label = page.add_label(name)
    page.paint("0.png", label, masks["0.png"])
    page.wait()
    return label


def refuse(page: Page, name: str, label: int, status: int = 200, **query: object) -> dict:
    path = f"/pictures/{page.id(name)}/annotations/{label}"
    return page.ask("PUT", path, status, params={"from": "nothing", **query})


def test_a_mask_is_refused_for_good(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        assert page.mask("1.png", label).any()
        answer = refuse(page, "1.png", label)
        assert (answer["absent"], answer["present"], answer["checked"]) == ([label], {str(label): False}, True)
        assert page.project()["undo_text"] == "Say that disc is not in 1.png"
        project = page.wait()
        assert project["labels"][0]["shots"] == 1  # it is no example
        assert not page.mask("1.png", label).any()
        answer = page.ask("POST", "/export", json={"formats": ["png"], "which": "checked"})
        assert answer["pictures"] == 2
        written = Image.open(tmp_path / "fewseg-export/masks/disc/1.png")
        assert not np.asarray(written).any()
        page.paint("1.png", label, np.zeros_like(masks["1.png"]))  # erasing everything says the same
        assert page.images()["1.png"]["absent"] == [label]
        page.paint("1.png", label, masks["1.png"])
        assert page.images()["1.png"]["supports"] == [label]
    with serving(tmp_path) as page:
        assert page.ask("POST", "/undo")["pictures"][1]["absent"] == [label]
        page.ask("POST", "/undo")
        page.wait()
        assert page.mask("1.png", label).any()


def test_checked_masks_stay_as_they_were(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrb")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        before = page.images()
        answer = page.ask("PUT", f"/pictures/{before['1.png']['id']}/checked", json={"checked": True})
        assert (answer["confirmed"], answer["checked"]) == ([label], True)
        seen = page.mask("1.png", label)
        answer = page.ask("PUT", f"/pictures/{before['3.png']['id']}/checked", json={"checked": True})
        assert (answer["absent"], answer["checked"]) == ([label], True)
        page.paint("0.png", label, ~masks["0.png"])  # the opposite is taught
        page.wait()
        assert page.mask("2.png", label)[0, 0]
        np.testing.assert_array_equal(page.mask("1.png", label), seen)
        assert not page.mask("3.png", label).any()
        assert page.project()["labels"][0]["shots"] == 1
        answer = page.ask("PUT", f"/pictures/{before['1.png']['id']}/checked", json={"checked": False})
        assert (answer["confirmed"], answer["checked"]) == ([], False)
        page.wait()
        assert page.mask("1.png", label)[0, 0]


def test_a_new_label_opens_checked_images_where_it_is_found(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        taught(page, masks)
        for name in ("1.png", "2.png"):
            page.ask("PUT", f"/pictures/{page.id(name)}/checked", json={"checked": True})
        assert all(image["checked"] for image in page.images().values())
        other = page.add_label("blue")
        page.paint("2.png", other, masks["2.png"])
        page.wait()
        assert all(image["checked"] for image in page.images().values())  # nothing of it is shown anywhere else
        third = page.add_label("again")
        page.paint("0.png", third, masks["0.png"])
        page.wait()
        assert [name for name, image in page.images().items() if not image["checked"]] == ["1.png"]


def test_painted_beats_predicted_and_the_surer_wins(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrr")
    with serving(tmp_path) as page:
        disc = taught(page, masks)
        whole = page.add_label("all")
        page.paint("0.png", whole, np.ones_like(masks["0.png"]))
        page.wait()
        overlap = (page.mask("1.png", disc) > 0) & (page.mask("1.png", whole) > 0)
        assert not overlap.any()
        page.paint("1.png", disc, masks["1.png"])
        page.wait()
        assert not (page.mask("1.png", whole) > 0)[masks["1.png"]].any()
        first = page.images()["1.png"]["masks"][str(whole)]
        assert page.ask("PATCH", "/project", json={"exclusive": False})["exclusive"] is False
        assert page.images()["1.png"]["masks"][str(whole)] != first
        assert page.project()["undo_text"] == "Let labels overlap"
        assert page.ask("POST", "/undo")["exclusive"] is True


def test_thresholds_are_kept_and_one_step_back(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        first = page.images()["1.png"]
        sizes = []
        for cut in (0.1, 0.5, 0.9):
            body = page.ask("PATCH", f"/labels/{label}", json={"mask_threshold": cut})
            assert (body["mask_threshold"], body["own_thresholds"]) == (cut, True)
            sizes.append((page.mask("1.png", label) > 0).sum())
        assert sizes[0] >= sizes[1] >= sizes[2]
        assert sizes[0] > sizes[2]
        assert page.images()["1.png"]["masks"] != first["masks"]
        page.ask("PATCH", f"/labels/{label}", json={"presence_threshold": 1.0})
        assert page.images()["1.png"]["present"] == {str(label): False}
        assert page.project()["undo_text"] == "Set the thresholds of disc"
    with serving(tmp_path) as page:
        assert page.project()["labels"][0]["mask_threshold"] == 0.9
        project = page.ask("POST", "/undo")  # all settings in one step
        assert project["labels"][0]["own_thresholds"] is False
        page.wait()
        assert page.images()["1.png"]["masks"] == first["masks"]
        page.ask("POST", "/redo")
        assert page.ask("PATCH", f"/labels/{label}", json={"default_thresholds": True})["own_thresholds"] is False
        page.ask("PATCH", f"/labels/{label}", 422, json={"presence_threshold": 1.5})


def test_refused_and_checked_images_move_the_threshold(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrr")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        assert page.engine is not None
        engine = page.engine
        ids = {name: image["id"] for name, image in page.images().items()}
        threshold = page.project()["labels"][0]["presence_threshold"]
        found = engine.predictor.results
        for name, score in (("1.png", 0.95), ("2.png", 0.8), ("3.png", 0.7)):
            found[ids[name], label] = ResultSummary(found[ids[name], label].key, score, 0.1, 0.1)
        refuse(page, "2.png", label)
        assert page.project()["labels"][0]["presence_threshold"] == threshold  # a no alone would hide every mask
        page.ask("PUT", f"/pictures/{ids['1.png']}/checked", json={"checked": True})
        moved = page.project()["labels"][0]["presence_threshold"]
        assert 0.8 < moved <= 0.95
        assert page.images()["3.png"]["present"] == {str(label): False}


def test_two_people_never_overwrite_each_other(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rr")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        left, right, dot = (np.zeros_like(masks["0.png"]) for _ in range(3))
        left[:, :20], right[:, 70:], dot[:5, 40:45] = True, True, True
        path = f"/pictures/{page.id('0.png')}/annotations/{label}"
        base = page.paint("0.png", label, dot)["masks"][str(label)]
        page.ask("PUT", path, content=_png(left | dot), params={"r": base})
        page.ask("PUT", path, content=_png(right), params={"r": base})  # right was painted, and the dot erased
        np.testing.assert_array_equal(page.mask("0.png", label) > 0, left | right)
        page.ask("PUT", path, content=_png(dot), params={"r": 12345})  # of a mask that nobody knows
        np.testing.assert_array_equal(page.mask("0.png", label) > 0, left | right | dot)
        assert "changed" in page.ask("DELETE", path, 409, params={"r": base})["error"]
        page.wait()
        seen = page.images()["1.png"]["masks"][str(label)]
        page.paint("1.png", label, masks["1.png"])
        for query in ({"from": "prediction"}, {"from": "nothing"}):
            other = f"/pictures/{page.id('1.png')}/annotations/{label}"
            page.ask("PUT", other, 409, params={**query, "r": seen})
        checked = f"/pictures/{page.id('1.png')}/checked"
        page.ask("PUT", checked, 409, json={"checked": True, "masks": {str(label): seen}})
        assert page.images()["1.png"]["supports"] == [label]


def _png(mask: np.ndarray) -> bytes:
    from helpers.annotating import png

    return png(mask)


def test_decisions_survive_a_damaged_project(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        refuse(page, "2.png", label)
        page.ask("PUT", f"/pictures/{page.id('1.png')}/checked", json={"checked": True})
    (tmp_path / ".fewseg/project.json").write_text("no")
    project = Project(tmp_path)
    try:
        kinds = sorted(annotation.kind for annotation in project.state.annotations.values())
        assert kinds.count("absent") == 1
        assert len(kinds) == 3  # the check was lost, its mask was put back
    finally:
        project.close()


def test_suggestions_say_why_and_look_for_the_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = write_images(tmp_path, "rrbbg")
    with serving(tmp_path) as page:
        label = taught(page, masks)
        told = page.ask("GET", "/suggestions", params={"n": 3})
        names = {p["id"]: name for name, p in page.images().items()}
        assert [names[v["id"]] for v in told] == ["1.png"]  # no blue, no green
        assert "disc" in told[0]["reason"]
        refuse(page, "1.png", label)
        told = page.ask("GET", "/suggestions", params={"n": 3})
        assert {v["reason"] for v in told} == {"nothing like this is among the examples yet"}
