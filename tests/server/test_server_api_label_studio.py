"""The back end for Label Studio, asked as Label Studio asks: its connector's and webhooks' requests, field by field."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from starlette.requests import Request

from fewseg.core.errors import FewsegError, FolderInUse, InvalidImage, InvalidMask, InvalidOption, InvalidSupport
from fewseg.core.types import Prediction
from fewseg.formats import brush_rle
from fewseg.inference.adaptation import fit
from fewseg.inference.objects.found import objects_of
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.segmenter import Segmenter
from fewseg.server.app import create_app
from fewseg.server.label_studio.backend import LabelStudio
from fewseg.server.label_studio.config import mask_tags
from fewseg.server.label_studio.regions import masks_of, results_of
from fewseg.server.label_studio.task_images import ImageSources
from fewseg.server.limits import Limits
from helpers.colour_method import blob, iou
from helpers.server import client, png
from helpers.touching import chain
from helpers.toy_method import toy

CONFIG = """<View>
  <!-- what annotators see -->
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="red" background="#f00"/><Label value="b" alias="blue"/>
  </BrushLabels>
  <Choices name="quality" toName="image"><Choice value="good"/></Choices>
</View>"""
POLYGONS = CONFIG.replace("BrushLabels", "PolygonLabels")


def read_bits(rle: list[int]) -> np.ndarray:
    """All values of brush run lengths, one bit after the other: written from the format's description alone."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def take(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        run, length = take(1), None
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(values, np.uint8)


def write_lists(values: np.ndarray) -> list[int]:
    """Brush run lengths of values that are all listed, as the editor writes where nothing repeats."""
    bits = f"{len(values):032b}" + "00111" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for start in range(0, len(values), 8):
        part = values[start : start + 8]
        bits += f"000{len(part) - 1:03b}" + "".join(f"{int(v):08b}" for v in part)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14))


@given(MASKS)
def test_brush_masks_go_there_and_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = brush_rle.encode(mask)
    np.testing.assert_array_equal(read_bits(rle), np.repeat(mask.reshape(-1), 4) * 255)
    np.testing.assert_array_equal(brush_rle.decode(rle, (width, height)), mask)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4)), elements=st.sampled_from([0, 1, 255]))
)
def test_masks_that_list_their_values_are_read(rgba: np.ndarray) -> None:
    height, width, _ = rgba.shape
    found = brush_rle.decode(write_lists(rgba.reshape(-1)), (width, height))
    # The editor's brush has a soft edge: half of the greatest alpha is where it ends.
    np.testing.assert_array_equal(found, rgba[..., 3] >= max(1, rgba[..., 3].max() / 2))


def test_long_runs_and_the_sdks_reader() -> None:
    mask = np.zeros((400, 300), np.bool_)
    mask[100:380] = True
    rle = brush_rle.encode(mask)
    np.testing.assert_array_equal(brush_rle.decode(rle, (300, 400)), mask)
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs label-studio-sdk")
    small = mask[::10, ::10]
    theirs = brush.decode_rle(brush_rle.encode(small)).reshape(40, 30, 4)
    np.testing.assert_array_equal(theirs[..., 3] > 0, small)
    written = brush.encode_rle(np.repeat(small.reshape(-1).astype(np.uint8) * 255, 4))
    np.testing.assert_array_equal(brush_rle.decode(written, (30, 40)), small)


@given(st.lists(st.integers(-3, 300), max_size=40))
def test_damaged_brush_masks_are_refused(rle: list[int]) -> None:
    with pytest.raises(InvalidMask):
        brush_rle.decode(rle, (20, 10))


# ------------------------------------------------------------------------------------------ what it is told


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def brush(label: str, mask: np.ndarray, tag: str = "tag") -> dict[str, Any]:
    return {
        "original_width": mask.shape[1], "original_height": mask.shape[0], "image_rotation": 0, "id": "x1",
        "value": {"format": "rle", "rle": brush_rle.encode(mask > 0), "brushlabels": [label]},
        "from_name": tag, "to_name": "image", "type": "brushlabels", "origin": "manual",
    }  # fmt: skip


def event(
    action: str, result: list[dict[str, Any]], image: Image.Image, number: int = 5, **more: Any
) -> dict[str, Any]:
    """As Label Studio's webhook tells of an annotation."""
    annotation = {"id": number, "result": result, "was_cancelled": False, "task": 3, "project": 12, "lead_time": 4.2}
    project = {"id": 12, "title": "Pets", "label_config": CONFIG, "created_at": "2026-01-02T10:00:00Z"}
    task = {"id": 3, "data": {"image": data_uri(image)}, "project": 12}
    return {"action": action, "annotation": annotation | more, "task": task, "project": project}


def tasks(*images: Image.Image | str, config: str = CONFIG) -> dict[str, Any]:
    """As Label Studio asks for predictions."""
    addresses = [image if isinstance(image, str) else data_uri(image) for image in images]
    return {
        "tasks": [{"id": n, "data": {"image": a}, "project": 12, "meta": {}} for n, a in enumerate(addresses)],
        "project": "12.1767348000", "label_config": config,
        "params": {"login": "", "password": "", "context": None},
    }  # fmt: skip


@pytest.fixture
def studio() -> Iterator[TestClient]:
    with client() as one:
        yield one


def teach(studio: TestClient, label: str = "red", **more: Any) -> Any:
    image, mask = blob(label)
    return studio.post("/label-studio/webhook", json=event("ANNOTATION_CREATED", [brush(label, mask)], image, **more))


def test_connecting_a_project(studio: TestClient) -> None:
    assert studio.get("/label-studio/health").json()["status"] == "UP"
    sent = {"project": "12.1767348000", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "k",
            "extra_params": None}  # fmt: skip
    before = studio.post("/label-studio/setup", json=sent).json()["model_version"]
    assert teach(studio).json()["model_version"] != before  # so that Label Studio asks for new predictions
    answer = studio.post("/label-studio/setup", json=sent | {"schema": "<View><Text name='t' value='$t'/></View>"})
    assert answer.status_code == 422
    assert "BrushLabels" in answer.json()["error"]


def test_an_annotation_teaches_and_tasks_come_back_with_brush_masks(studio: TestClient) -> None:
    answer = teach(studio)
    assert (answer.status_code, answer.json()["taught"]) == (201, {"red": 1})
    image, truth = blob("red", size=(120, 70))
    body = studio.post("/label-studio/predict", json=tasks(image, blob("green")[0])).json()
    assert len(body["results"]) == 2
    first = body["results"][0]
    (region,) = first["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "brushlabels")
    assert (region["original_width"], region["original_height"]) == (120, 70)
    assert region["value"]["brushlabels"] == ["red"]
    found = read_bits(region["value"]["rle"]).reshape(70, 120, 4)[..., 3] > 0
    assert iou(found, truth) > 0.9
    assert first["score"] == region["score"] > 0.9
    assert first["model_version"] == body["model_version"] == answer.json()["model_version"]


def test_polygons_for_polygon_labels(studio: TestClient) -> None:
    teach(studio)
    image, truth = blob("red", size=(120, 70))
    body = studio.post("/label-studio/predict", json=tasks(image, config=POLYGONS)).json()
    drawn = Image.new("1", image.size)
    for region in body["results"][0]["result"]:
        points = region["value"]["points"]
        assert region["type"] == "polygonlabels"
        assert np.min(points) >= 0
        assert np.max(points) <= 100
        ImageDraw.Draw(drawn).polygon([(x * 1.2 - 0.5, y * 0.7 - 0.5) for x, y in points], fill=1)
    assert iou(np.asarray(drawn), truth) > 0.9


def test_polygons_teach_too(studio: TestClient) -> None:
    image, mask = blob("red")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = [[50 + 18 * np.cos(a) / 0.96, 50 + 18 * np.sin(a) / 0.64] for a in angles]
    region = brush("red", mask) | {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["red"]}}
    told = event("ANNOTATION_CREATED", [region], image)
    told["project"]["label_config"] = POLYGONS
    assert studio.post("/label-studio/webhook", json=told).json()["taught"] == {"red": 1}
    found = studio.post("/label-studio/predict", json=tasks(image)).json()["results"][0]["result"][0]["value"]["rle"]
    assert iou(read_bits(found).reshape(64, 96, 4)[..., 3], mask) > 0.85


def bitmask(label: str, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    """As the editor draws it: black where it is, and transparent elsewhere."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = mask
    value = {"imageDataURL": data_uri(Image.fromarray(pixels)), "bitmasklabels": [label]}
    return brush(label, mask, "bits") | {"type": "bitmasklabels", "value": value, "id": "x2"} | more


MIXED = CONFIG.replace(
    "<Choices", '<BitmaskLabels name="bits" toName="image"><Label value="red"/></BitmaskLabels><Choices'
)


def test_brushes_and_bitmasks_of_one_label_teach_together() -> None:
    tags = mask_tags(MIXED)
    mask = blob("red")[1] > 0
    top, rest = mask.copy(), mask.copy()
    top[32:], rest[:32] = False, False
    for turn in (0, 90, 270):
        regions = [brush("red", top) | {"image_rotation": turn}, bitmask("red", rest * 255, image_rotation=turn)]
        masks, left_out = masks_of(regions, tags, 10_000)
        np.testing.assert_array_equal(masks["red"], mask)
        assert left_out == {}
    soft = np.where(mask, 255, 0).astype(np.uint8)
    soft[0, :5] = 100  # the soft edge of a brush
    np.testing.assert_array_equal(masks_of([bitmask("red", soft)], tags, 10_000)[0]["red"], mask)
    with pytest.raises(InvalidSupport, match="96x64, outside its image of 96x10"):
        masks_of([bitmask("red", soft, original_height=10)], tags, 10_000)
    for wrong in ({"imageDataURL": "data:image/png;base64,xx"}, {"imageDataURL": 5}, {"rle": [0]}, {}):
        with pytest.raises(FewsegError):
            masks_of([bitmask("red", soft) | {"value": {**wrong, "bitmasklabels": ["red"]}}], tags, 10_000)


def test_bitmasks_for_bitmask_labels(studio: TestClient) -> None:
    teach(studio)
    image, truth = blob("red", size=(120, 70))
    config = MIXED.replace("BrushLabels", "Labels")
    (region,) = studio.post("/label-studio/predict", json=tasks(image, config=config)).json()["results"][0]["result"]
    assert (region["from_name"], region["type"]) == ("bits", "bitmasklabels")
    (mask,) = masks_of([region], mask_tags(config), 10_000)[0].values()
    assert iou(mask, truth) > 0.9


def test_regions_that_do_not_teach_are_said(studio: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    image, mask = blob("red")
    box = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0}
    others: list[dict[str, Any]] = [
        {"type": "rectanglelabels", "from_name": "box", "value": {**box, "rectanglelabels": ["red"]}},
        {"type": "keypointlabels", "from_name": "key", "value": {"x": 1, "y": 1, "width": 1}},
        {"type": "choices", "from_name": "quality", "value": {"choices": ["good"]}},
        brush("cow", mask),
        {"type": "brushlabels", "from_name": "tag"},
    ]
    told = studio.post("/label-studio/webhook", json=event("ANNOTATION_CREATED", [brush("red", mask), *others], image))
    assert told.json()["taught"] == {"red": 1}
    for kind in ("1 rectanglelabels", "1 keypointlabels", "1 regions without a label", "1 regions without a value"):
        assert kind in caplog.text
    assert "choices" not in caplog.text


def test_annotations_are_replaced_and_forgotten(studio: TestClient) -> None:
    teach(studio)
    teach(studio, "blue", number=6)
    image, mask = blob("red", place=0.4)
    both = [brush("red", mask[:, ::1]), brush("red", mask), {"type": "choices", "from_name": "quality", "value": {}}]
    told = studio.post("/label-studio/webhook", json=event("ANNOTATION_UPDATED", both, image)).json()
    assert told["taught"] == {"blue": 1, "red": 1}
    gone = event("ANNOTATIONS_DELETED", [], image) | {"annotations": [{"id": 5}]}
    assert studio.post("/label-studio/webhook", json=gone).json()["taught"] == {"blue": 1}
    skipped = event("ANNOTATION_UPDATED", both, image, number=6, was_cancelled=True)
    assert studio.post("/label-studio/webhook", json=skipped).json()["taught"] == {}
    assert (
        studio.post("/label-studio/webhook", json={"action": "START_TRAINING", "project": {"id": 12}}).status_code
        == 201
    )


def test_several_annotations_in_one_event(studio: TestClient) -> None:
    one, two = event("x", [brush("red", blob("red")[1])], blob("red")[0]), None
    two = event("x", [brush("blue", blob("blue")[1])], blob("blue")[0], number=6, task=4)
    told = {
        "action": "ANNOTATIONS_CREATED", "project": one["project"],
        "annotation": [one["annotation"], two["annotation"]],
        "task": [two["task"] | {"id": 4}, one["task"]],
    }  # fmt: skip
    assert studio.post("/label-studio/webhook", json=told).json()["taught"] == {"red": 1, "blue": 1}


def test_what_could_not_be_learnt_is_in_the_log(studio: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    sent = event("ANNOTATION_CREATED", [brush("red", blob("red")[1])], blob("red")[0])
    sent["task"]["data"] = {"image": "https://elsewhere.example/a.png"}
    assert studio.post("/label-studio/webhook", json=sent).status_code == 422
    assert "annotation 5: images are not fetched from elsewhere.example" in caplog.text
    # The good ones of an event are learnt all the same.
    good = event("ANNOTATION_CREATED", [brush("red", blob("red")[1])], blob("red")[0], number=8)
    both = {"annotation": [sent["annotation"], good["annotation"]], "task": [sent["task"], good["task"]]}
    for number, (annotation, task) in enumerate(zip(both["annotation"], both["task"], strict=True)):
        annotation["task"] = task["id"] = 100 + number
    asked = {**good, **both, "action": "ANNOTATIONS_CREATED"}
    assert studio.post("/label-studio/webhook", json=asked).status_code == 422
    gone = event("ANNOTATIONS_DELETED", [], blob("red")[0]) | {"annotations": [{"id": 77}]}
    assert studio.post("/label-studio/webhook", json=gone).json()["taught"] == {"red": 1}


def test_projects_do_not_mix_and_nothing_taught_gives_nothing(studio: TestClient) -> None:
    teach(studio)
    other = tasks(blob("red")[0]) | {"project": "13.1"}
    assert studio.post("/label-studio/predict", json=other).json()["results"][0]["result"] == []
    assert studio.post("/label-studio/predict", json=other | {"project": "../x"}).status_code == 422


def test_one_bad_task_does_not_spoil_the_others(studio: TestClient) -> None:
    teach(studio)
    body = studio.post("/label-studio/predict", json=tasks("data:image/png;base64,xx", blob("red")[0])).json()
    assert [len(r["result"]) for r in body["results"]] == [0, 1]
    answer = studio.post("/label-studio/predict", json=tasks("http://10.0.0.1/a.png"))
    assert answer.status_code == 422
    assert "not fetched from 10.0.0.1:80" in answer.json()["error"]


def test_what_was_taught_outlives_the_server(tmp_path: Path) -> None:
    with client(label_studio_folder=tmp_path) as first:
        version = teach(first).json()["model_version"]
    with client(label_studio_folder=tmp_path) as second:
        body = second.post("/label-studio/predict", json=tasks(blob("red")[0])).json()
        assert body["model_version"] == version
        assert len(body["results"][0]["result"]) == 1


def test_one_server_at_a_time_keeps_its_examples_in_a_folder(tmp_path: Path) -> None:
    with client(label_studio_folder=tmp_path), pytest.raises(FolderInUse, match="in use by another fewseg"):
        client(label_studio_folder=tmp_path)
    client(label_studio_folder=tmp_path)


def test_what_another_model_was_taught_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with client(label_studio_folder=tmp_path) as first:
        teach(first)
    (taught,) = tmp_path.glob("*.fewseg")
    content = taught.read_bytes()
    taught.write_bytes(content[:-9])
    with client(label_studio_folder=tmp_path) as second:
        teach(second)
    assert (tmp_path / f"{taught.stem}.unused-1.fewseg").read_bytes() == content[:-9]
    assert taught.read_bytes() == content
    assert "kept as" in caplog.text


# ---------------------------------------------------------------------------------------- configuration, addresses


def test_configurations() -> None:
    (tag,) = mask_tags(CONFIG)
    assert (tag.name, tag.kind, tag.image, tag.key, tag.labels) == (
        "tag",
        "brushlabels",
        "image",
        "image",
        ("red", "blue"),
    )
    for wrong in ("", "<View>", "<View/>", '<!DOCTYPE x [<!ENTITY a "aaaa">]><View>&a;</View>', "\0"):
        with pytest.raises(InvalidOption):
            mask_tags(wrong)


def token(kind: str) -> str:
    """A personal access token, as Label Studio makes them."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"token_type": kind, "exp": 8_000_000_000, "user_id": 1})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


class Site(http.server.BaseHTTPRequestHandler):
    """Label Studio: an image, redirects to it and elsewhere, and access tokens that are good for two requests."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012
    issued: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        header = self.headers.get("Authorization")
        self.seen.append((self.path, header))
        away = {
            "/away": "http://127.0.0.1:1/x",
            "/loop": "/loop",
            "/file": "file:///etc/passwd",
            "/here": "/data/a.png",
        }
        content = png(blob("red")[0])
        status = 302 if self.path in away else 404 if self.path == "/none" else 200
        if self.path.startswith(("/private", "/tasks/")) and header != "Bearer " + (self.issued or [""])[-1]:
            status = 401
        if sum(seen == header for _, seen in self.seen) >= 2 and self.path.startswith("/private"):
            self.issued.append("none")
        self.answer(status if "*/*" in self.headers["Accept"] else 406, content, away.get(self.path))  # as 1.23 does

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.path == "/api/token/refresh/" and sent == {"refresh": token("refresh")}
        self.issued.append(f"access-{len(self.issued)}")
        self.answer(200 if good else 401, json.dumps({"access": self.issued[-1]}).encode())

    def answer(self, status: int, content: bytes, location: str | None = None) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_images_come_from_allowed_hosts_only(site: str) -> None:
    limits, expected = Limits(), png(blob("red")[0])
    home = ImageSources(home=site, key="secret")
    Site.seen.clear()
    for address in ("/data/a.png", f"{site}/data/a.png", f"{site}/here", expected and data_uri(blob("red")[0])):
        assert home.fetch(address, limits).read() == expected
    assert {key for _, key in Site.seen} == {"Token secret"}
    Site.seen.clear()
    listed = ImageSources(hosts=[site.removeprefix("http://")], key="secret")
    assert listed.fetch(f"{site}/a.png", limits).read() == expected
    assert Site.seen == [("/a.png", None)]  # the key is for Label Studio alone
    refused = {
        f"{site}/away": "not fetched from 127.0.0.1:1",
        f"{site}/loop": "redirects",
        f"{site}/file": "not fetched from",
        f"{site}/none": "answers 404",
        "file:///etc/passwd": "not fetched from file:///etc/passwd: give an http or https address",
        "http://localhost.evil.example/": "not fetched from",
        f"http://evil@{site[7:]}/": "not fetched from",
        f"{site}@evil.example/": "not fetched from",
        "//evil.example/a.png": "not fetched from",
        "gopher://x": "not fetched from",
        "data:image/png": "no content",
        "a.png": "not fetched from",
    }
    for address, said in refused.items():
        with pytest.raises(InvalidImage, match=said):
            home.fetch(address, limits)
    with pytest.raises(InvalidImage, match="--label-studio-url"):
        ImageSources().fetch("/data/upload/1/a.png", limits)
    with pytest.raises(InvalidImage, match="more than 1 MB"):
        ImageSources().fetch("data:," + "a" * 1_100_000, Limits(request_mb=1))
    with pytest.raises(InvalidOption, match="write it as http"):
        ImageSources(home="localhost:8080")


def test_personal_tokens_are_exchanged_and_renewed(site: str) -> None:
    limits, expected = Limits(), png(blob("red")[0])
    Site.seen.clear()
    Site.issued.clear()
    home = ImageSources(home=site, key=token("refresh"))
    for _ in range(5):
        assert home.fetch("/private/a.png", limits).read() == expected
    assert {header for _, header in Site.seen} <= {f"Bearer access-{n}" for n in range(12)}
    assert len([name for name in Site.issued if name != "none"]) in (3, 4)  # not for each request
    Site.issued.append("given")
    with pytest.raises(InvalidImage, match=r"answers 401; check that the token of LABEL_STUDIO_API_KEY"):
        ImageSources(home=site, key=token("access")).fetch("/private/b.png", limits)
    assert Site.seen[-1][1] == f"Bearer {token('access')}"
    with pytest.raises(InvalidImage, match=r"legacy tokens"):
        ImageSources(home=site, key="0123456789abcdef").fetch("/private/b.png", limits)
    with pytest.raises(InvalidImage, match=r"answers 401; set LABEL_STUDIO_API_KEY"):
        ImageSources(home=site).fetch("/private/b.png", limits)
    with pytest.raises(InvalidImage, match=r"refuses the token of LABEL_STUDIO_API_KEY \(401\): make a new personal"):
        ImageSources(home=site, key=token("other")).fetch("/private/b.png", limits)
    Site.seen.clear()
    elsewhere = ImageSources(hosts=[site.removeprefix("http://")], key=token("refresh"))
    elsewhere.fetch(f"{site}/a.png", limits)
    assert Site.seen == [("/a.png", None)]


@pytest.mark.parametrize("address", ["s3://bucket/a b.jpg", "gs://bucket/k.jpg", "azure-blob://c/é.png"])
def test_addresses_in_clouds_are_resolved_by_label_studio(site: str, address: str) -> None:
    Site.seen.clear()
    home = ImageSources(home=f"{site}/", key=token("refresh"))
    assert home.fetch(address, Limits(), task=7).read() == png(blob("red")[0])
    path, _, encoded = Site.seen[-1][0].partition("?fileuri=")
    assert path == "/tasks/7/resolve/"
    assert base64.urlsafe_b64decode(encoded).decode() == address
    with pytest.raises(InvalidImage, match="--label-studio-url") as error:
        ImageSources().fetch(address, Limits(), task=7)
    assert "--image-hosts" not in str(error.value)
    with pytest.raises(InvalidImage, match="send the task's id"):
        home.fetch(address, Limits(), task="../x")


def test_any_number_of_tasks_is_answered_and_images_are_segmented_once(
    studio: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(studio)
    made: list[None] = []
    segment = LabelStudio.segment
    monkeypatch.setattr(LabelStudio, "segment", lambda *a: made.append(None) or segment(*a))
    images = [blob("red", place=0.3 + n / 20)[0] for n in range(4)]
    many = studio.post("/label-studio/predict", json=tasks(*images * 150))
    assert many.status_code == 200
    assert [len(result["result"]) for result in many.json()["results"]] == [1] * 600
    assert len(made) == 4
    version = many.json()["model_version"]
    assert teach(studio, "blue", number=6).json()["model_version"] != version
    studio.post("/label-studio/predict", json=tasks(*images))  # by what is taught now
    assert len(made) == 8


def test_a_request_that_breaks_off_goes_on_when_it_is_repeated(
    studio: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    teach(studio)
    made: list[None] = []
    segment = LabelStudio.segment
    monkeypatch.setattr(LabelStudio, "segment", lambda *a: made.append(None) or segment(*a))

    async def gone(self: object) -> bool:
        return len(made) == 3

    images = [blob("red", place=0.3 + n / 20)[0] for n in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(Request, "is_disconnected", gone)
        assert studio.post("/label-studio/predict", json=tasks(*images)).status_code == 503
    assert "hung up after 3 of 5 tasks" in caplog.text
    assert studio.post("/label-studio/predict", json=tasks(*images)).status_code == 200
    assert len(made) == 5


# ------------------------------------------------------------------------------------------ adaptation

DISCS = [blob("red", place=0.3 + 0.1 * place) for place in range(6)]
"""Images with a red disc, and its mask."""


def adapting(**options: Any) -> TestClient:
    """A server over a model with a backbone, which labels can be adapted with."""
    return TestClient(create_app(Segmenter(toy(64), device="cpu"), **options), base_url="http://localhost")


def annotated(http: TestClient, number: int) -> Any:
    image, mask = DISCS[number]
    sent = event("ANNOTATION_CREATED", [brush("red", mask)], image, number=number)
    answer = http.post("/label-studio/webhook", json=sent)
    assert answer.status_code == 201
    return answer.json()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_labels_of_label_studio_are_adapted_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SHORTEST", 60)
    monkeypatch.setattr(fit, "STEPS", 60)

    def predicted(http: TestClient) -> Any:
        """The answer without the ids of regions, which are always others."""
        answer = http.post("/label-studio/predict", json=tasks(DISCS[5][0])).json()
        for region in answer["results"][0]["result"]:
            del region["id"]
        return answer

    with adapting(label_studio_folder=tmp_path) as http:
        for number in range(5):
            version = annotated(http, number)["model_version"]
        until(lambda: predicted(http)["model_version"] != version and (tmp_path / "adapted-12.fewseg").exists())
        adapted = predicted(http)
        assert adapted["results"][0]["result"]
    with adapting(label_studio_folder=tmp_path) as http:
        assert predicted(http) == adapted
    with adapting(label_studio_folder=tmp_path, adapt=False) as http:
        assert predicted(http)["model_version"] == version


def test_label_studio_without_adaptation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segmenter, "adapt", lambda *given, **options: pytest.fail("it was adapted"))
    with adapting(adapt=False) as http:
        for number in range(5):
            annotated(http, number)


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels"])
def test_single_objects_become_regions(tag: str) -> None:
    config = f'<View><Image name="i" value="$i"/><{tag} name="m" toName="i"><Label value="cell"/></{tag}></View>'
    mask = np.pad(chain(3, 14.0), 8) > 0
    thing, stuff = (objects_of({"cell": mask}, {"cell": ObjectShape(kind=kind)}, {}) for kind in ("thing", "stuff"))
    found = Prediction({"cell": mask}, {}, mask.astype(np.uint16), {"cell": 0.7}, {"cell": True}, thing)
    made = results_of(found, mask_tags(config))
    assert len(made) == 3
    masks, _ = masks_of(made, mask_tags(config), 100_000)
    assert iou(masks["cell"], mask) > 0.95
    assert [region["score"] for region in made] == [1.0] * 3
    assert [region["score"] for region in results_of(replace(found, objects=stuff), mask_tags(config))] == [0.7]
