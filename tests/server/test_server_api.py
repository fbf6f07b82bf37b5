"""Sessions over HTTP: what is taught, found, forgotten, exported and refused."""

from __future__ import annotations

import io
import json
import struct
import threading
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pycocotools import mask as coco

from fewseg.inference.segmenter import Segmenter
from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits
from fewseg.server.sessions.sessions import SessionStore
from helpers.colour_method import ColourMethod, blob, iou
from helpers.server import SESSIONS, client, pair, png, refused


@pytest.fixture(scope="module")
def http() -> Any:
    with client() as one:
        yield one


def started(http: TestClient, *labels: str) -> str:
    """A new session's path, taught these colours."""
    path = f"{SESSIONS}/{http.post(SESSIONS).json()['id']}"
    for label in labels:
        assert http.post(f"{path}/shots", data={"label": label}, files=pair(*blob(label))).status_code == 201
    return path


# ------------------------------------------------------------------------------------------------ segmenting


def test_finds_what_the_segmenter_finds_in_every_format(http: TestClient) -> None:
    path = started(http, "red", "blue")
    image, _ = blob("blue", "red", size=(120, 50))
    segmenter = Segmenter(ColourMethod(), device="cpu")
    for label in ("red", "blue"):
        segmenter.teach(label, *blob(label))
    expected = segmenter.segment(image)
    found = http.post(f"{path}/segment", files={"image": png(image)}).json()
    assert (found["width"], found["height"]) == (120, 50)
    assert [label["name"] for label in found["labels"]] == ["red", "blue"]
    for label in found["labels"]:
        mask = coco.decode(label["rle"])
        np.testing.assert_array_equal(mask, expected.masks[label["name"]])
        assert label["area"] == mask.sum()
        assert label["score"] == pytest.approx(expected.scores[label["name"]], abs=1e-4)
        assert label["present"] is bool(expected.present[label["name"]])
        ys, xs = np.nonzero(mask)
        assert label["box"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    index = http.post(f"{path}/segment?format=index", files={"image": png(image)})
    assert json.loads(index.headers["x-fewseg-labels"]) == ["red", "blue"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(index.content))), expected.label_map)
    one = http.post(f"{path}/segment?label=blue", files={"image": png(image)}, headers={"Accept": "image/png"})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(one.content))), expected.masks["blue"] * 255)


def test_the_answers_format_is_negotiated(http: TestClient) -> None:
    path, image = started(http, "red", "blue"), png(blob("red")[0])
    ask = lambda **options: http.post(f"{path}/segment", files={"image": image}, **options)  # noqa: E731
    assert ask(headers={"Accept": "image/png"}).headers["content-type"] == "image/png"
    assert ask(headers={"Accept": "image/webp, */*;q=0.1"}).headers["content-type"] == "application/json"
    refused(ask(headers={"Accept": "text/html"}), 406, "accept application/json or image/png")
    refused(ask(params={"format": "png"}), 422, "name it with ?label=")
    refused(ask(params={"format": "tiff"}), 422, "format")


def frames(kind: str, *images: Image.Image) -> bytes:
    """Images as the frames, or pages, of one file."""
    file = io.BytesIO()
    images[0].save(file, kind, save_all=True, append_images=images[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "word"), [("GIF", "frames"), ("TIFF", "pages"), ("PNG", "frames"), ("WEBP", "frames")]
)
def test_an_upload_of_several_images_says_that_the_first_is_used(http: TestClient, kind: str, word: str) -> None:
    path, (image, mask) = started(http, "red"), blob("red")
    several = frames(kind, image, image.rotate(90))
    said = f"the image's file has several {word}: only the first is used"
    for query in ("", "?format=index", "?format=png"):
        answer = http.post(f"{path}/segment{query}", files={"image": several})
        assert answer.status_code == 200
        assert answer.headers["x-fewseg-note"] == said
    box = json.dumps({"box": [10, 10, 40, 40]})
    answer = http.post(f"{path}/outline", files={"image": several}, data={"marks": box})
    assert answer.headers["x-fewseg-note"] == said
    files = [("image", several), ("mask", frames("TIFF", *[Image.fromarray(mask)] * 2))]
    answer = http.post(f"{path}/shots", files=files, data={"label": "new"})
    assert answer.status_code == 201
    assert answer.headers["x-fewseg-note"] == f"{said}; the mask's file has several pages: only the first is used"
    assert "x-fewseg-note" not in http.post(f"{path}/segment", files={"image": png(image)}).headers


def test_one_image_at_a_time(http: TestClient) -> None:
    path, image = started(http, "red"), png(blob("red")[0])
    files = [("image", ("a.png", image)), ("image", ("b.png", image))]
    refused(http.post(f"{path}/segment", files=files), 422, "image")


def test_nothing_taught_or_unknown_label(http: TestClient) -> None:
    image = {"image": png(blob("red")[0])}
    refused(http.post(f"{started(http)}/segment", files=image), 409, "taught nothing yet")
    refused(http.post(f"{started(http, 'red')}/segment?label=rad", files=image), 404, "did you mean 'red'?")


# -------------------------------------------------------------------------------------------------- teaching


def test_teaches_lists_and_forgets(http: TestClient) -> None:
    path = started(http, "red")
    files = [*pair(*blob("red", place=0.4)), *pair(*blob("red", place=0.6))]
    taught = http.post(f"{path}/shots", data={"label": " red "}, files=files).json()
    assert (taught["name"], len(set(taught["shots"]))) == ("red", 3)
    assert http.get(f"{path}/labels").json() == [taught]
    left = http.delete(f"{path}/shots/{taught['shots'][1]}").json()["labels"]
    assert left == [
        {"name": "red", "shots": [taught["shots"][0], taught["shots"][2]], "adapted": False, "kind": "thing"}
    ]
    refused(http.delete(f"{path}/shots/{taught['shots'][1]}"), 404, "no shot")
    assert http.delete(f"{path}/labels/red").json()["labels"] == []
    refused(http.delete(f"{path}/labels/red"), 404, "no label 'red'")


def test_an_example_taught_twice_is_refused_and_nothing_added(http: TestClient) -> None:
    path = started(http, "red")
    files = [*pair(*blob("red", place=0.4)), *pair(*blob("red"))]  # the second one is there already
    refused(http.post(f"{path}/shots", data={"label": "red"}, files=files), 409, "already")
    assert len(http.get(f"{path}/labels").json()[0]["shots"]) == 1
    other = http.post(f"{path}/shots", data={"label": "rouge"}, files=pair(*blob("red")))
    assert other.status_code == 201  # the same example of another label is another


def test_names_with_slashes_and_other_letters(http: TestClient) -> None:
    path = started(http)
    for name in ("a/b", "../..", "Kätzchen 猫", "x?y#z"):
        taught = http.post(f"{path}/shots", data={"label": name}, files=pair(*blob("red")))
        assert taught.json()["name"] == name
        assert http.delete(f"{path}/labels/{quote(name, safe='')}").status_code == 200
    refused(http.post(f"{path}/shots", data={"label": "a\nb"}, files=pair(*blob("red"))), 422, "printable")
    refused(http.post(f"{path}/shots", data={"label": " "}, files=pair(*blob("red"))), 422, "label")
    refused(http.post(f"{path}/shots", data={"label": "x" * 101}, files=pair(*blob("red"))), 422, "100")


def test_a_chosen_value_of_an_index_mask(http: TestClient) -> None:
    path = started(http)
    image, mask = blob("red")
    index = np.where(mask > 0, 7, 3).astype(np.uint8)
    refused(http.post(f"{path}/shots", data={"label": "red"}, files=pair(image, index)), 422, "more than two values")
    sent = {"label": "red", "value": "7"}
    assert http.post(f"{path}/shots", data=sent, files=pair(image, index)).status_code == 201
    found = http.post(f"{path}/segment", files={"image": png(image)}).json()["labels"][0]
    assert iou(coco.decode(found["rle"]), mask) > 0.9
    for wrong in ("seven", "1,2", "-1", "1,2,3,4"):
        answer = http.post(f"{path}/shots", data={"label": "red", "value": wrong}, files=pair(image, index))
        refused(answer, 422, "write an index")


def test_bad_images_and_masks(http: TestClient) -> None:
    path = started(http)
    image, mask = blob("red")

    def send(files: list[tuple[str, tuple[str, bytes]]]) -> Any:
        return http.post(f"{path}/shots", data={"label": "red"}, files=files)

    whole, drawn = png(image), png(mask)
    refused(send([("image", ("i", b"hello")), ("mask", ("m", drawn))]), 422, "not a readable image")
    refused(send([("image", ("i", whole[:90])), ("mask", ("m", drawn))]), 422, "damaged")
    refused(send([("image", ("i", b"")), ("mask", ("m", drawn))]), 422, "empty")
    refused(send(pair(image, mask * 0)), 422, "no foreground")
    refused(send(pair(image, mask[:-1])), 422, "its image 96x64")
    refused(send([("image", ("i", whole))]), 422, "send a mask, or marks, for each image")
    refused(http.post(f"{path}/shots", data={"label": "red", "image": "x", "mask": "y"}), 422, "send a file")
    refused(send([*pair(image, mask), ("image", ("i", whole))]), 422, "2 images and 1 masks")
    # A PostScript file would start another program.
    refused(send([("image", ("i", b"%!PS-Adobe-3.0 EPSF-3.0\n")), ("mask", ("m", drawn))]), 422, "not a readable")
    assert http.get(f"{path}/labels").json() == []


# --------------------------------------------------------------------------------------------------- keeping


def test_export_load_and_the_library_give_the_same(http: TestClient, tmp_path: Path) -> None:
    path, image = started(http, "red", "blue"), blob("blue", "red")[0]
    file = http.get(f"{path}/export")
    assert file.headers["content-disposition"].endswith('.fewseg"')
    (tmp_path / "taught.fewseg").write_bytes(file.content)
    library = Segmenter.load(tmp_path / "taught.fewseg", ColourMethod(), device="cpu").segment(image)
    made = http.post(f"{SESSIONS}/load", files={"file": file.content}, data={"name": "again"})
    assert made.json()["name"] == "again"
    assert made.json()["labels"] == http.get(path).json()["labels"]
    found = http.post(f"{SESSIONS}/{made.json()['id']}/segment", files={"image": png(image)}).json()
    for label in found["labels"]:
        np.testing.assert_array_equal(coco.decode(label["rle"]), library.masks[label["name"]])
    refused(http.get(f"{started(http)}/export"), 409, "taught nothing yet")


def test_files_of_other_models_and_damaged_ones_are_refused(http: TestClient, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    from fewseg.core.tensor_files import CHECKSUM

    other = Segmenter(ColourMethod(sharpness=3.0), device="cpu")
    other.teach("red", *blob("red"))
    other.save(tmp_path / "other.fewseg")
    load = lambda content: http.post(f"{SESSIONS}/load", files={"file": content})  # noqa: E731
    refused(load((tmp_path / "other.fewseg").read_bytes()), 422, "another model")
    good = http.get(f"{started(http, 'red')}/export").content
    refused(load(good[:-8]), 422, "not a saved segmenter")
    refused(load(b"{}"), 422, "not a saved segmenter")
    (tmp_path / "good").write_bytes(good)
    with safe_open(tmp_path / "good", "pt") as file:
        about = {key: value for key, value in file.metadata().items() if key != CHECKSUM}
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    for change in (lambda t: t[..., :1], lambda t: t * float("nan"), lambda t: t.expand(2, -1, -1).contiguous()):
        save_file({k: change(t).contiguous() for k, t in tensors.items()}, tmp_path / "bad", about)
        refused(load((tmp_path / "bad").read_bytes()), 422, "damaged")
    assert str(tmp_path) not in load(b"x").text
    assert "/tmp" not in load(b"x").text


# ---------------------------------------------------------------------------------------------------- limits


def test_sessions_shots_and_labels_are_bounded() -> None:
    with client(Limits(sessions=2, shots=2, labels=1)) as http:
        path = started(http, "red")
        started(http)
        answer = http.post(SESSIONS)
        refused(answer, 429, "2 sessions are kept already")
        assert 3500 < int(answer.headers["retry-after"]) <= 3600
        refused(http.post(f"{path}/shots", data={"label": "blue"}, files=pair(*blob("blue"))), 413, "at most 1 labels")
        files = [*pair(*blob("red", place=0.4)), *pair(*blob("red", place=0.6))]
        refused(http.post(f"{path}/shots", data={"label": "red"}, files=files), 413, "at most 2 examples")
        assert len(http.get(f"{path}/labels").json()[0]["shots"]) == 1
        assert http.delete(path).status_code == 204
        refused(http.get(path), 404, "no session")
        assert http.post(SESSIONS, json={"name": "third"}).json()["name"] == "third"
        assert [s["name"] for s in http.get(SESSIONS).json()] == ["", "third"]


def test_idle_sessions_expire_and_used_ones_stay() -> None:
    now = [0.0]
    sessions = SessionStore(Limits(idle_minutes=1), clock=lambda: now[0])
    idle, used = sessions.create(), sessions.create()
    now[0] = 50.0
    sessions.get(used.id)
    now[0] = 70.0
    assert [s.id for s in sessions.all()] == [used.id]
    assert sessions.seconds_left(used.id) == 40.0
    with pytest.raises(ApiError, match="idle ones are forgotten"):
        sessions.get(idle.id)


def test_memory_of_examples_is_bounded_over_all_sessions() -> None:
    from fewseg.server.model import ServedModel, supports_bytes

    model = ServedModel(Segmenter(ColourMethod(), device="cpu"))
    example = model.encode("red", *blob("red"))
    limits = Limits()
    object.__setattr__(limits, "taught_mb", 2.5 * supports_bytes({"red": example}) / (1 << 20))
    sessions = SessionStore(limits)
    first, second = sessions.create(), sessions.create()
    sessions.teach(first.id, "red", [example])
    sessions.teach(second.id, "red", [example])
    with pytest.raises(ApiError, match="forget examples"):
        sessions.teach(second.id, "blue", [example])
    sessions.delete(first.id)
    assert sessions.teach(second.id, "blue", [example]).shots == 2


def test_teaching_at_the_same_time_loses_nothing() -> None:
    from fewseg.server.model import ServedModel

    model = ServedModel(Segmenter(ColourMethod(), device="cpu"))
    sessions = SessionStore(Limits())
    session = sessions.create()

    def teach(number: int) -> None:
        for shot in range(4):
            mask = blob("red", place=0.3 + 0.1 * shot)[1].copy()
            mask[number, number] = 255
            example = model.encode("red", blob("red", place=0.3 + 0.1 * shot)[0], mask)
            sessions.teach(session.id, f"label {number % 2}", [example])

    threads = [threading.Thread(target=teach, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sessions.get(session.id).shots == 24


def header(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size: all that may be read of it."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\1IDAT"


def test_images_over_the_limit_are_refused_before_they_are_decoded() -> None:
    with client(Limits(megapixels=1)) as http:
        path = started(http, "red")
        refused(http.post(f"{path}/segment", files={"image": header(2000, 600)}), 413, "2000x600, over 1 megapixels")
        refused(http.post(f"{path}/segment", files={"image": header(60000, 60000)}), 413, "megapixels")
        files = [("image", ("i", png(blob("red")[0]))), ("mask", ("m", header(40000, 30000)))]
        refused(http.post(f"{path}/shots", data={"label": "a"}, files=files), 413, "the mask")
