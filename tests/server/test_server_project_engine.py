"""The work in the background: what is encoded and when, what comes first, what fails alone, what pages hear of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewseg.core.errors import InvalidImage
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine import cache as engine_cache
from fewseg.server.engine import events as events_module
from fewseg.server.engine.cache import ResultCache
from fewseg.server.engine.events import Events
from fewseg.server.engine.model import EngineModel, probabilities
from helpers.annotating import Page, serving, write_images
from helpers.colour_method import ColourMethod, blob, iou
from helpers.toy_method import toy

uvicorn = pytest.importorskip("uvicorn")


class Watched(ColourMethod):
    """Notes what it is asked for; waits at a gate before every answer, fails where told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_encoded, self.segmented = 0, 0
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Exception | None = None
        self.reached = threading.Semaphore(0)

    def encode_support(self, images: torch.Tensor, masks: torch.Tensor) -> SupportSet:
        self.supports_encoded += 1
        return super().encode_support(images, masks)

    def _segment(self, query: QueryFeatures, support: SupportSet) -> torch.Tensor:
        self.reached.release()
        self.gate.wait(60)
        if self.fail is not None and query.batch > 1:
            raise self.fail
        self.segmented += query.batch
        return super()._segment(query, support)


def watched(**options: Any) -> tuple[Watched, Segmenter]:
    method = Watched(**options)
    segmenter = Segmenter(method, device="cpu")
    assert segmenter.method is method
    return method, segmenter


def test_a_correction_encodes_one_example_and_no_image_again(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrbb")
    method, segmenter = watched()
    with serving(tmp_path, segmenter) as page:
        page.ask("PATCH", "/project", json={"exclusive": False})  # else a mask depends on the others'
        disc, other = page.add_label("disc"), page.add_label("other")
        page.paint("0.png", disc, masks["0.png"])
        page.paint("1.png", disc, masks["1.png"])
        page.paint("3.png", other, masks["3.png"])
        page.wait()
        assert method.supports_encoded == 3
        queries = method.queries_encoded
        before, shown = method.segmented, page.images()
        page.paint("0.png", disc, masks["0.png"] & (np.arange(96) > 30))
        page.wait()
        assert method.supports_encoded == 4
        assert method.queries_encoded == queries <= 5
        assert method.segmented - before == 3  # the other label's masks stand, and those made by hand
        for name, image in page.images().items():
            assert image["masks"].get(str(other)) == shown[name]["masks"].get(str(other))
        page.ask("POST", "/undo")
        page.wait()
        assert method.segmented - before == 3  # known from before
        assert page.images() == shown


def test_what_is_on_screen_comes_first(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "r" * 8)
    method, segmenter = watched()
    with serving(tmp_path, segmenter) as page:
        label = page.add_label("disc")
        method.gate.clear()
        page.paint("0.png", label, masks["0.png"])
        assert method.reached.acquire(timeout=60)
        visible = [page.id("6.png"), page.id("4.png"), "gone"]
        page.ask("POST", "/visible", 204, json={"ids": visible})
        assert page.engine is not None
        order: list[str] = []
        page.engine.predictor.cache.put = _noting(page, order)  # type: ignore[method-assign]
        method.gate.set()
        page.wait()
        assert order[1:3] == ["6.png", "4.png"]
        assert len(order) == 7


def _noting(page: Page, order: list[str]) -> Any:
    assert page.engine is not None
    names = {p.identity: p.name for p in page.engine.project.images.values()}
    put = page.engine.predictor.cache.put

    def noting(key: str, coarse: np.ndarray) -> Any:
        order.append(names[key[:24]])
        return put(key, coarse)

    return noting


def test_a_change_overtakes_what_is_under_way(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "r" * 6)
    method, segmenter = watched()
    with serving(tmp_path, segmenter) as page:
        labels = [page.add_label(f"disc {i}") for i in range(3)]
        method.gate.clear()
        for label in labels:
            page.paint("0.png", label, masks["0.png"])
        assert method.reached.acquire(timeout=60)
        assert [p["state"] for p in page.images().values()].count("working") == 1
        page.paint("1.png", labels[2], masks["1.png"])
        method.gate.set()
        project = page.wait()
        # Without stopping in between the first image alone would have had three results of the older examples.
        assert method.segmented <= 5 * 3 + 1
        assert project["progress"]["done"] == 6


def test_an_image_that_fails_stops_no_other(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrr")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:200])
    (tmp_path / "text.png").write_text("no image")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        project = page.wait()
        images = page.images()
        assert {n: p["state"] for n, p in images.items()} == {
            **{f"{i}.png": "done" for i in (0, 1, 3)},
            "2.png": "failed",
            "text.png": "failed",
        }
        assert "2.png is damaged" in images["2.png"]["error"]
        assert str(tmp_path) not in images["2.png"]["error"] + images["text.png"]["error"]
        assert project["progress"]["done"] == project["progress"]["total"] == 3  # that can be read
        page.ask("POST", f"/pictures/{images['2.png']['id']}/assist", 422, json={"points": [[5, 5, 1]]})
        (tmp_path / "2.png").write_bytes(whole)  # mended, and a new one besides
        blob("red")[0].save(tmp_path / "new.png")
        page.wait(lambda p: [v["state"] for v in p["pictures"]].count("done") == 5)
        assert iou(page.mask("2.png", label), masks["2.png"]) > 0.9


def test_an_image_deleted_while_serving(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrr")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        gone = page.id("1.png")
        (tmp_path / "1.png").unlink()
        page.wait(lambda p: len(p["pictures"]) == 2)
        page.ask("GET", f"/pictures/{gone}/image", 404)
        (tmp_path / "0.png").unlink()  # the only example
        project = page.wait(lambda p: len(p["pictures"]) == 1)
        assert "0.png" in project["notices"][0]
        assert project["pictures"][0]["state"] == "untaught"
        write_images(tmp_path, "r")
        project = page.wait(lambda p: len(p["pictures"]) == 2 and p["pictures"][1]["state"] == "done")
        assert project["notices"] == []
        assert project["pictures"][0]["supports"] == [label]


def test_an_example_that_cannot_be_used_is_said_and_the_others_serve(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrr")
    with serving(tmp_path, start=False) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.paint("1.png", label, masks["1.png"])
    file = next((tmp_path / ".fewseg/annotations").glob(f"{page_id(tmp_path, '1.png')}-*.png"))
    file.write_bytes(b"damaged")
    with serving(tmp_path) as page:
        page.wait()
        images = page.images()
        assert images["0.png"]["error"] is None
        assert "not a readable mask" in images["1.png"]["error"]
        assert iou(page.mask("2.png", label), masks["2.png"]) > 0.9
        page.paint("1.png", label, masks["0.png"])
        page.wait()
        assert page.images()["1.png"]["error"] is None


def page_id(folder: Path, name: str) -> str:
    values = json.loads((folder / ".fewseg/project.json").read_text())
    return next(p["id"] for p in values["pictures"] if p["path"] == name)


def test_a_model_that_fails_on_many_is_asked_one_by_one(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrrr")
    method, segmenter = watched()
    method.fail = MemoryError("too many")
    with serving(tmp_path, segmenter, start=False) as page:
        assert page.engine is not None
        page.engine.model.batch = 4
        page.engine.start()
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
        assert {p["state"] for p in page.images().values()} == {"done"}


@pytest.mark.parametrize("options", [{}, {"tta_flip": True, "tta_scales": (1.0, 2.0)}])
def test_results_are_those_of_the_segmenter(tmp_path: Path, options: dict[str, Any]) -> None:
    masks = write_images(tmp_path, "rgb")
    mine = Segmenter(toy(64), device="cpu", **options)
    theirs = Segmenter(toy(64), device="cpu", **options)
    for name in ("0.png", "1.png"):
        theirs.teach("it", tmp_path / name, masks[name])
    coarse = theirs.predict(theirs.encode([theirs.preprocess(tmp_path / n) for n in masks]))
    expected = np.stack([one[0].numpy() for one in coarse])
    model = EngineModel(mine)
    support = LabelSupport.concatenate([model.encode_example(tmp_path / n, masks[n]) for n in ("0.png", "1.png")])
    features = model.features([model.preprocess(tmp_path / n) for n in masks])
    together = np.stack(model.coarse(features, support))
    alone = np.concatenate([model.coarse([f], support) for f in features])
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert np.abs(probabilities(together).numpy() - expected).max() <= 1 / 250
    clear = np.abs(expected - 0.5) > 1e-5
    np.testing.assert_array_equal((together >= 128)[clear], (expected >= 0.5)[clear])


def test_the_cache_survives_what_happens_to_files(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrr")
    with serving(tmp_path) as page:
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        page.wait()
    files = sorted((tmp_path / ".fewseg/cache").glob("*/*.png"))
    assert len(files) == 2
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-20])  # its numbers can be read, its pixels cannot
    with serving(tmp_path) as page:
        page.wait()
        for name in ("1.png", "2.png"):
            image = page.images()[name]
            path = f"/api/v1/pictures/{image['id']}/masks/{label}"
            if page.client.get(path).status_code == 404:  # found out only now: found again
                page.wait(lambda p, name=name: p["pictures"][int(name[0])]["state"] == "done")
            assert iou(page.mask(name, label), masks[name]) > 0.9


def test_memory_and_disk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "_PRUNE_EVERY", 50)
    cache = ResultCache(tmp_path, memory=1_000, disk=4_000)
    rng = np.random.default_rng(0)
    for i in range(151):
        cache.put(f"{i:048x}", rng.integers(0, 256, (8, 8), np.uint8))
    sizes = sum(f.stat().st_size for f in tmp_path.glob("*/*"))
    assert sizes < 4_000 + 50 * 250
    assert cache.coarse(f"{150:048x}") is not None
    assert cache.coarse(f"{1:048x}") is None
    assert cache.summary(f"{1:048x}") is None


def test_features_are_bounded_and_results_the_same(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrr")
    method, segmenter = watched()
    with serving(tmp_path, segmenter, features=60_000) as page:  # of one image
        assert page.engine is not None
        label = page.add_label("disc")
        for name in ("0.png", "1.png", "2.png"):
            page.paint(name, label, masks[name])
            page.wait()
        assert method.queries_encoded > 3
        assert page.engine.encoder.feature_cache.bytes <= 60_000
        assert iou(page.mask("3.png", label), masks["3.png"]) > 0.9


def test_the_rest_of_a_batch_is_read_though_one_cannot_be(tmp_path: Path) -> None:
    write_images(tmp_path, "rr")
    with serving(tmp_path, start=False) as page:
        assert page.engine is not None
        encoder, images = page.engine.encoder, list(page.engine.project.images.values())
        encoder.read_ahead(images)
        (tmp_path / "0.png").unlink()
        encoder.read_ahead([])
        with pytest.raises(InvalidImage):
            encoder.features(images)
        assert len(encoder.features(images[1:])) == 1


# ------------------------------------------------------------------------------------------ events


@contextmanager
def over_http(page: Page) -> Iterator[str]:
    """The page's server on a real port."""
    config = uvicorn.Config(page.client.app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/v1"
    finally:
        server.should_exit = True
        thread.join(10)


def test_the_stream_of_events(tmp_path: Path) -> None:
    masks = write_images(tmp_path, "rrrr")
    with serving(tmp_path) as page, over_http(page) as url:
        stream = urllib.request.urlopen(f"{url}/events", timeout=60)
        assert stream.headers["content-type"].startswith("text/event-stream")

        def event() -> tuple[str, Any]:
            lines: dict[str, str] = {}
            while True:
                line = stream.readline().decode().rstrip("\n")
                if not line and "event" in lines:
                    assert int(lines["id"]) >= 0
                    return lines["event"], json.loads(lines["data"])
                if ": " in line:
                    lines.update([line.split(": ", 1)])

        kind, value = event()
        assert (kind, value) == ("project", page.project())
        label = page.add_label("disc")
        page.paint("0.png", label, masks["0.png"])
        seen, states, last = set(), {}, None
        while len([s for s in states.values() if s == "done"]) < 4 or last != {"done": 4, "total": 4}:
            kind, value = event()
            seen.add(kind)
            if kind == "picture":
                states[value["name"]] = value["state"]
            elif kind == "project":
                states.update({p["name"]: p["state"] for p in value["pictures"]})
            else:
                last = {k: value[k] for k in ("done", "total")}
        assert seen == {"project", "picture", "progress"}
        assert page.engine is not None
        assert len(page.engine.events.subscribers) == 1
        stream.close()
        page.add_label("more")
        end = time.monotonic() + 60
        while page.engine.events.subscribers and time.monotonic() < end:
            page.engine.events.project()
            time.sleep(0.05)
        assert page.engine.events.subscribers == []


def test_a_slow_page_gets_one_event_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_PENDING", 5)

    async def main() -> None:
        events = Events()
        described: list[tuple[str, str | None]] = []

        def describe(kind: str, identifier: str | None) -> Any:
            described.append((kind, identifier))
            return None if identifier == "gone" else {"kind": kind}

        stream = events.listen(describe)
        assert (await anext(stream)).startswith("retry")
        assert "event: project" in await anext(stream)
        for i in (1, 2, 1, 1, 2):
            events.image(str(i))
        events.image("gone")
        events.progress()
        assert "event: picture" in await anext(stream)
        for i in range(1000):
            events.image(str(i))
            events.progress()
        for _ in range(2):  # what was taken before: the second image, the progress
            await anext(stream)
        assert described[1:] == [("picture", "1"), ("picture", "2"), ("picture", "gone"), ("progress", None)]
        assert "event: project" in await anext(stream)
        assert described[5:] == [("project", None)]
        events.progress()
        assert "event: progress" in await anext(stream)
        events.close()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert events.subscribers == []

    asyncio.run(main())


def test_a_quiet_stream_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE", 0.01)
    monkeypatch.setattr(events_module, "MAX_SUBSCRIBERS", 3)

    async def main() -> None:
        events = Events()
        streams = [events.listen(lambda *_: {}) for _ in range(5)]
        for stream in streams:
            await anext(stream)
        assert "event: project" in await anext(streams[-1])
        assert (await anext(streams[-1])).startswith(":")
        for stream in streams[:2]:  # too many listen: the first are let go
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert len(events.subscribers) == 3

    asyncio.run(main())
