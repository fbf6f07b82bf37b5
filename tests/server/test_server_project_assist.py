"""From clicks, scribbles and boxes to regions; which images are suggested."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.core.errors import InvalidOption
from fewseg.inference.superpixels import Regions, cut
from fewseg.server.engine.assist import Assistant
from helpers.annotating import Page, serving, write_images
from helpers.colour_method import iou

pytest.importorskip("skimage")

SIZE = (240, 160)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A red disc with a dark stripe through it, and a second red disc, on noise; the first disc's mask."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(128, 6, (SIZE[1], SIZE[0], 3))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    first, second = (x - 70) ** 2 + (y - 80) ** 2 < 45**2, (x - 190) ** 2 + (y - 80) ** 2 < 30**2
    pixels[first | second] += (70, -80, -80)
    pixels[first & (np.abs(y - 80) < 6)] -= 60
    return pixels.clip(0, 255).astype(np.uint8), first


@pytest.fixture
def page(tmp_path: Path) -> object:
    Image.fromarray(scene()[0]).save(tmp_path / "scene.png")
    with serving(tmp_path) as page:
        yield page


def asked(page: Page, status: int = 200, **body: object) -> np.ndarray:
    content = page.ask("POST", f"/pictures/{page.id('scene.png')}/assist", status, json=body)
    if status != 200:
        return content["error"]  # type: ignore[no-any-return]
    mask = np.asarray(Image.open(io.BytesIO(content)))
    assert mask.shape == SIZE[::-1]
    assert set(np.unique(mask)) <= {0, 255}
    return mask > 0


def test_boxes_clicks_and_scribbles(page: Page) -> None:
    disc = scene()[1]
    box = (20, 30, 120, 130)
    assert iou(asked(page, box=box), disc) > 0.75  # the stripe may stay out
    other = (np.hypot(*(np.mgrid[: SIZE[1], : SIZE[0]] - np.array([80, 190])[:, None, None]))) < 30
    assert iou(asked(page, box=(158, 48, 222, 112)), other) > 0.85
    inside = asked(page, box=(-50, 30, 120, 900))  # reaches out of the image
    assert not inside[:, 120:].any()
    upper = asked(page, points=[[70, 55, 1]])
    assert (upper & disc).sum() / upper.sum() > 0.9
    assert upper[55, 70]
    both = asked(page, points=[[70, 55, 1], [70, 105, 1]])
    assert both[105, 70]
    patch, patches = (asked(page, points=p, mode="superpixel") for p in ([[70, 55, 1]], [[70, 55, 1], [70, 105, 1]]))
    assert (patches & disc).sum() > (patch & disc).sum() * 1.2
    line = asked(page, scribble=[[70, 45], [70, 115]])
    assert iou(line, disc) > 0.75
    assert line[80, 70]
    without = asked(page, scribble=[[70, 45], [70, 115]], points=[[70, 105, 0]])
    assert not without[105, 70]


def test_the_labels_examples_in_other_images_help(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrb")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        assert page.engine is not None
        engine = page.engine
        images = {p.shown_name: p for p in engine.project.images.values()}

        def known(name: str) -> np.ndarray | None:
            return engine.call(lambda: engine.predictor.by_other_images(images[name], label, engine.plan))

        assert known("0.png") is None  # its own example does not count
        other = known("1.png")
        assert other is not None
        found = np.asarray(Image.fromarray(other).resize(masks["1.png"].shape[::-1])) >= 0.5
        assert iou(found, masks["1.png"]) > 0.8
        kept, engine.predictor.results = engine.predictor.results, {}  # as if it were not predicted yet
        np.testing.assert_array_equal(known("1.png"), other)
        engine.predictor.results = kept
        row, column = (int(v.mean()) for v in np.nonzero(masks["1.png"]))
        body = {"points": [[column, row, 1]], "label": label}
        answer = page.ask("POST", f"/pictures/{page.id('1.png')}/assist", json=body)
        assert iou(np.asarray(Image.open(io.BytesIO(answer))) > 0, masks["1.png"]) > 0.8


@pytest.mark.parametrize("mode", ["grow", "superpixel"])
def test_a_larger_size_gives_a_larger_region(page: Page, mode: str) -> None:
    areas = [asked(page, points=[[70, 55, 1]], mode=mode, size=size).sum() for size in (0, 0.5, 1)]
    assert areas[0] < areas[1] < areas[2]
    assert asked(page, points=[[190, 80, 1]], mode=mode, size=0.5)[80, 190]
    narrow = asked(page, points=[[70, 55, 1], [70, 105, 0], [190, 80, 0]], mode=mode, size=1)
    assert narrow[55, 70]
    assert not narrow[105, 70]
    assert not narrow[80, 190]


def test_what_cannot_be_meant_is_refused(page: Page) -> None:
    assert "no place inside" in asked(page, 422)
    assert "no place inside" in asked(page, 422, points=[[5, 5, 0]])
    for box in ([50, 50, 50, 90], [90, 50, 50, 90], [300, 10, 400, 50], [-50, 10, -20, 50]):
        assert "x0 < x1" in asked(page, 422, box=box)
    for body in ({"points": [[1, 2]]}, {"points": [[1, 2, 3]]}, {"size": 2}, {"mode": "magic"}, {"box": [1, 2, 3]}):
        asked(page, 422, **body)
    asked(page, points=[[-5, 9999, 1]])  # nearest pixel of the image
    asked(page, box=[3, 3, 4, 4])


def test_regions_fit_together(tmp_path: Path) -> None:
    Image.fromarray(scene()[0]).save(tmp_path / "scene.png")
    features = torch.nn.functional.normalize(torch.rand(8, 20, 20, generator=torch.Generator().manual_seed(0)), dim=0)
    regions = cut(tmp_path / "scene.png", features)
    n = regions.count
    assert 100 < n <= 1000
    assert set(np.unique(regions.labels)) == set(range(n))
    assert (np.sort(regions.order) == np.arange(n)).all()
    for node in range(n, 2 * n - 1):
        children = np.flatnonzero(regions.parents == node)
        assert len(children) == 2
        assert set(regions.members(node)) == set(regions.members(children[0])) | set(regions.members(children[1]))
        assert regions.heights[node] >= regions.heights[children].max()
        assert regions.shares[node] == pytest.approx(regions.shares[children].sum())
    assert regions.shares[2 * n - 2] == pytest.approx(1)
    values = regions.walk(np.full(n, 0.3), np.full(n, 0.1), np.array([0]), np.array([n - 1]))
    assert values[0] == 1
    assert values[n - 1] == 0
    assert values.min() >= -1e-9
    assert values.max() <= 1 + 1e-9


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (2000, 3)])
def test_tiny_and_thin_images(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "0.png")
    with serving(tmp_path) as page:
        path = f"/pictures/{page.id('0.png')}/assist"
        for body in ({"points": [[0, 0, 1]]}, {"points": [[0, 0, 1]], "mode": "superpixel"}, {"box": [0, 0, *size]}):
            mask = np.asarray(Image.open(io.BytesIO(page.ask("POST", path, json=body))))
            assert mask.shape == size[::-1]
            assert mask[0, 0] == 255 or "box" in body


def test_regions_are_cut_once_and_after_a_change_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.engine is not None
    assistant = Assistant(page.engine)
    image = next(iter(page.engine.project.images.values()))
    first = assistant.regions(image)
    assert isinstance(first, Regions)
    assert assistant.regions(image) is first
    assistant.prepare(image)
    with pytest.raises(InvalidOption, match="no place inside"):
        assistant.region(image)
    page.ask("POST", f"/pictures/{image.id}/prepare", 204)


def test_suggestions(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrbbg")
    with serving(tmp_path) as page:
        assert len(page.ask("GET", "/suggestions", params={"n": 2})) == 2  # before anything is known
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        names = {p["id"]: name for name, p in page.images().items()}
        for by in ("uncertainty", "coverage"):
            told = page.ask("GET", "/suggestions", params={"n": 3, "by": by})
            assert all(v["reason"] and 0 <= v["score"] <= 2 for v in told)
            assert "0.png" not in [names[v["id"]] for v in told]
        covering = [names[v["id"]] for v in page.ask("GET", "/suggestions", params={"n": 2, "by": "coverage"})]
        assert {name in ("2.png", "3.png") for name in covering} == {True, False}  # a blue and the green, no red
        page.ask("PUT", f"/pictures/{page.id(covering[0])}/checked", json={"checked": True})
        again = page.ask("GET", "/suggestions", params={"n": 5, "by": "coverage"})
        assert covering[0] not in [names[v["id"]] for v in again]
        page.ask("GET", "/suggestions", 422, params={"n": 0})
        page.ask("GET", "/suggestions", 422, params={"by": "magic"})
