"""Boxes, points and scribbles sent to sessions: what they teach, how they are seen, what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from fewseg.client import Client, ServerError
from fewseg.core.errors import InvalidSupport
from fewseg.images.prompts import parse_prompts
from fewseg.inference.segmenter import Segmenter
from fewseg.server.app import create_app
from fewseg.server.limits import Limits
from fewseg.server.sessions.schemas import PROMPTS
from helpers.colour_method import ColourMethod, blob
from helpers.server import SESSIONS, client, listening, pair, png, refused

pytest.importorskip("skimage")

SIZE = (240, 160)
BOX = (70, 30, 170, 130)
WAYS: dict[str, dict[str, Any]] = {
    "box": {"box": BOX},
    "points": {"points": [(120, 80, 1), (10, 80, 0)]},
    "scribble": {"scribble": [(105, 80), (120, 70), (135, 80)]},
    "two lines": {"scribble": [[(105, 80), (120, 70)], [(135, 80)]]},
}


@pytest.fixture(scope="module")
def embedded() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with client(Limits(sessions=1000, marks=3, places=20)) as one:
        yield one


def started(http: TestClient) -> str:
    """A new session's path."""
    return f"{SESSIONS}/{http.post(SESSIONS).json()['id']}"


def noisy(seed: int = 0) -> Image.Image:
    """A red disc on grey, with noise: superpixels have something to follow."""
    pixels = np.asarray(blob("red", size=SIZE)[0]) + np.random.default_rng(seed).normal(0, 8, (SIZE[1], SIZE[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def send(http: TestClient, path: str, marks: Any, *images: Image.Image, **fields: str) -> Any:
    """Teach `red` with texts of marks; whatever is no text becomes one, as JSON."""
    texts = [text if isinstance(text, str) else json.dumps(text) for text in marks]
    files = [("image", ("picture.png", png(image))) for image in images or [noisy()]]
    return http.post(f"{path}/shots", data={"label": "red", "marks": texts, **fields}, files=files)


# --------------------------------------------------------------------------------------- as the library does it


@pytest.mark.parametrize("way", WAYS)
def test_marks_teach_what_the_library_teaches(way: str, embedded: Segmenter) -> None:
    """To the pixel: the masks that marks become, the example made of them, and what it then finds."""
    library = embedded.with_supports()
    library.teach("red", noisy(), **WAYS[way])
    expected = library.mask_from_prompt(noisy(), **WAYS[way])
    with TestClient(create_app(embedded), base_url="http://localhost") as http:
        path, image = started(http), {"image": png(noisy())}
        text = {"marks": json.dumps(WAYS[way])}
        np.testing.assert_array_equal(
            coco.decode(http.post(f"{path}/outline", data=text, files=image).json()), expected
        )
        seen = http.post(f"{path}/outline?format=png", data=text, files=image)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(seen.content))), expected * 255)
        assert http.get(path).json()["labels"] == []  # nothing was kept
        taught = send(http, path, [WAYS[way]]).json()
        np.testing.assert_array_equal(coco.decode(taught["outlines"][0]), expected)
        refused(http.post(f"{path}/shots", data={"label": "red"}, files=pair(noisy(), expected)), 409, "already")
        found = http.post(f"{path}/segment", files={"image": png(noisy(1))}).json()["labels"][0]
        np.testing.assert_array_equal(coco.decode(found["rle"]), library.segment(noisy(1)).masks["red"])


def test_several_objects_in_several_images(http: TestClient) -> None:
    path, library = started(http), Segmenter(ColourMethod(), device="cpu")
    objects = [[{"box": BOX}, {"scribble": [(5, 5), (9, 9)]}], {"points": [(120, 80, 1)]}]
    taught = send(http, path, objects, noisy(0), noisy(1)).json()
    assert len(taught["shots"]) == 2
    for outline, image, marks in zip(taught["outlines"], (noisy(0), noisy(1)), objects, strict=True):
        expected = library.mask_from_prompts(image, parse_prompts(json.dumps(marks), "marks"))
        np.testing.assert_array_equal(coco.decode(outline), expected)
    (label,) = http.get(f"{path}/labels").json()
    assert label == {"name": "red", "shots": taught["shots"], "adapted": False, "kind": "thing"}


def test_coordinates_are_of_the_upright_image(http: TestClient) -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a quarter, clockwise
    buffer = io.BytesIO()
    noisy().save(buffer, "TIFF", exif=exif)
    box = {"marks": json.dumps({"box": [30, 70, 130, 170]})}
    answer = http.post(f"{started(http)}/outline", data=box, files={"image": buffer.getvalue()})
    upright = Image.fromarray(np.rot90(np.asarray(noisy()), -1))
    expected = Segmenter(ColourMethod(), device="cpu").mask_from_prompt(upright, box=(30, 70, 130, 170))
    np.testing.assert_array_equal(coco.decode(answer.json()), expected)


def test_answers_with_masks_stay_as_they_were(http: TestClient) -> None:
    answer = http.post(f"{started(http)}/shots", data={"label": "red"}, files=pair(*blob("red")))
    assert set(answer.json()) == {"name", "shots", "adapted", "kind"}


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ("", "marks cannot be read as JSON"),
        ("{", "marks cannot be read as JSON"),
        ("box", "write an object with box"),
        ([], "marks holds no prompts"),
        ({}, "expected an object with box"),
        (None, "expected an object with box"),
        ([[{"box": BOX}]], "expected an object with box"),
        ({"polygon": [(1, 2), (3, 4), (5, 6)]}, "expected an object with box"),
        ({"\ud800": 1}, "expected an object with box"),
        ({"box": BOX, "points": [(120, 80, 1)]}, "give exactly one of"),
        ({"box": None}, "give exactly one of"),
        ({"box": []}, "give 4 finite numbers"),
        ({"box": BOX[:3]}, "give 4 finite numbers"),
        ('{"box": [NaN, 1, 20, 30]}', "give 4 finite numbers"),
        ('{"box": [1, 1, Infinity, 30]}', "give 4 finite numbers"),
        ('{"box": [1, 1, 1%s, 30]}' % ("0" * 400), "give 4 finite numbers"),
        ({"box": (50, 20, 40, 30)}, "give x0 < x1 and y0 < y1"),
        ({"box": (-50, -20, -40, -3)}, "in an image of 240x160: give x0, y0, x1, y1 within it"),
        ({"box": (1e300, 0, 1.5e300, 9)}, "in an image of 240x160: give x0, y0, x1, y1 within it"),
        ({"points": []}, "give a list"),
        ({"points": [(1, 2)]}, "give 3 finite numbers"),
        ({"points": [(1, 2, 7)]}, "is 1 where it is inside and 0 where it is outside"),
        ({"points": [(1, 2, 0)]}, "no point is inside"),
        ({"points": [(-1, 2, 1)]}, "place -1, 2 lies outside the image of 240x160"),
        ({"points": [(1e300, 2, 1)]}, "place 1e+300, 2 lies outside the image of 240x160"),
        ('{"points": [[NaN, 2, 1]]}', "give 3 finite numbers"),
        ({"scribble": []}, "give a list"),
        ({"scribble": [[]]}, "give 2 finite numbers"),
        ({"scribble": "line"}, "give a list"),
        ({"scribble": [(1, 2), (1, 500)]}, "place 1, 500 lies outside the image of 240x160"),
    ],
)
def test_marks_that_cannot_be_meant(http: TestClient, marks: Any, said: str) -> None:
    path = started(http)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 240, 3), np.uint8))
    refused(send(http, path, [marks], image), 422, said)
    assert http.get(f"{path}/labels").json() == []


def test_an_empty_outline_is_not_taught(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    image, box = noisy(), {"box": BOX}
    monkeypatch.setattr(Segmenter, "mask_from_prompts", lambda *_: np.zeros((image.height, image.width), bool))
    path, text = started(http), {"marks": json.dumps(box)}
    assert not coco.decode(http.post(f"{path}/outline", data=text, files={"image": png(image)}).json()).any()
    refused(send(http, path, [box], image), 422, "the prompts of 'red' outline nothing: draw a larger box")


def test_examples_of_a_label_help(http: TestClient) -> None:
    """As in the library, when the label is named and when the example is one more of it."""
    path, library = started(http), Segmenter(ColourMethod(), device="cpu")
    image, mask = blob("red", place=0.3)
    assert http.post(f"{path}/shots", data={"label": "red"}, files=pair(image, mask)).status_code == 201
    library.teach("red", image, mask)
    other, there = blob("red", place=0.7)
    row, column = (int(v.mean()) for v in np.nonzero(np.asarray(there)))
    prompt = {"points": [(column, row, 1)]}
    expected = library.mask_from_prompt(other, **prompt, label="red")
    text, files = {"marks": json.dumps(prompt)}, {"image": png(other)}
    for label in ({"label": "red"}, {}, {"label": "new"}):
        answer = http.post(f"{path}/outline", data={**text, **label}, files=files).json()
        alone = library.mask_from_prompt(other, **prompt)
        np.testing.assert_array_equal(coco.decode(answer), expected if label == {"label": "red"} else alone)
    np.testing.assert_array_equal(coco.decode(send(http, path, [prompt], other).json()["outlines"][0]), expected)


def test_an_image_comes_with_a_mask_or_with_marks(http: TestClient) -> None:
    path, marks = started(http), [WAYS["box"]]
    both = http.post(f"{path}/shots", data={"label": "red", "marks": json.dumps(marks)}, files=pair(*blob("red")))
    refused(both, 422, "send one or the other for each image")
    refused(send(http, path, []), 422, "send a mask, or marks, for each image")
    refused(send(http, path, marks, noisy(0), noisy(1)), 422, "2 images and 1 texts of marks")
    refused(send(http, path, marks, value="7"), 422, "value 7 chooses in a mask")
    file = [("image", ("i", png(noisy()))), ("marks", ("m.json", json.dumps(marks).encode()))]
    refused(http.post(f"{path}/shots", data={"label": "red"}, files=file), 422, "marks.0: send text, not a file")
    refused(send(http, path, [WAYS["box"], {"box": 3}], noisy(0), noisy(1)), 422, "marks 2: box 3")
    assert http.get(f"{path}/labels").json() == []  # not the first of two either


def test_what_is_wrong_with_the_request_for_an_outline(http: TestClient) -> None:
    path, image, box = started(http), {"image": png(noisy())}, {"marks": json.dumps(WAYS["box"])}
    refused(http.post(f"{path}/outline", files=image), 422, "marks: Field required")
    refused(http.post(f"{path}/outline", data=box), 422, "image: Field required")
    refused(http.post(f"{path}/outline", data={"marks": "{"}, files=image), 422, "cannot be read as JSON")
    refused(http.post(f"{path}/outline", data=box, files={"image": b"hello"}), 422, "not a readable image")
    refused(http.post(f"{path}/outline?format=index", data=box, files=image), 422, "format")
    refused(http.post(f"{path}/outline", data=box, files=image, headers={"Accept": "text/html"}), 406, "accept")
    refused(http.post(f"{SESSIONS}/none/outline", data=box, files=image), 404, "no session")


def test_deep_and_long_json() -> None:
    with client() as http:
        path = started(http)
        for text in ("[" * 100_000, "1" * 5000, "[" + "9" * 5000 + "]"):
            refused(send(http, path, [text]), 422, "marks cannot be read as JSON")


def test_how_much_is_marked_is_bounded(http: TestClient) -> None:
    path = started(http)
    refused(send(http, path, [[WAYS["box"]] * 2] * 2, noisy(0), noisy(1)), 413, "4 objects are marked in one request")
    refused(send(http, path, [{"scribble": [(1, 2)] * 21}]), 413, "of 21 places, at most 20")
    refused(send(http, path, [" " * 1200] * 2, noisy(0), noisy(1)), 413, "2400 characters, at most 2300 are read")
    refused(send(http, path, [" " * (1 << 21)]), 400, "a text in the form has more than 1 MB")


NUMBERS = st.integers(-30, 30) | st.floats() | st.sampled_from([10**400, -1e308])
PLACES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4)
OBJECTS = st.one_of(
    st.fixed_dictionaries({"box": st.lists(NUMBERS, min_size=3, max_size=5)}),
    st.fixed_dictionaries({"points": st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 2)), max_size=4)}),
    st.fixed_dictionaries({"scribble": PLACES | st.lists(PLACES, max_size=3)}),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["box", "points", "scribble"]), inner),
    max_leaves=10,
)
MARKED = OBJECTS | st.lists(OBJECTS, max_size=4) | ANYTHING
UNHURRIED = settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@UNHURRIED
@given(marks=MARKED)
def test_any_marks_are_taught_or_refused(http: TestClient, marks: Any) -> None:
    path = started(http)
    answer = send(http, path, [json.dumps(marks)], blob("red", size=(24, 16))[0])
    if answer.status_code != 201:
        assert answer.status_code in (413, 422)
        refused(answer, answer.status_code, "")
    http.delete(path)


@UNHURRIED
@given(marks=MARKED)
def test_the_documented_schema_describes_what_is_read(marks: Any) -> None:
    """Beyond it are only that a box has an inside, that one of the points is inside, and that numbers are finite."""
    schema = pytest.importorskip("jsonschema_rs", reason="comes with schemathesis").validator_for(PROMPTS)
    text, read, refusal = json.dumps(marks), (), ""
    try:
        read = parse_prompts(text, "marks")
    except InvalidSupport as error:
        refusal = str(error)
    if read:
        written = [mark.as_json() for mark in read]
        assert schema.is_valid(json.loads(json.dumps(written)))
        assert parse_prompts(json.dumps(written), "marks") == read
    elif not any(said in refusal for said in ("x0 < x1", "no point is inside", "finite numbers")):
        assert not schema.is_valid(json.loads(text))


# ----------------------------------------------------------------------------------------------------- the client


def test_the_client_takes_marks_as_the_segmenter_does() -> None:
    library = Segmenter(ColourMethod(), device="cpu")
    with listening(create_app(library)) as address, Client(address).session() as session:
        for way, marks in WAYS.items():
            mask = session.outline(noisy(), **marks)
            np.testing.assert_array_equal(mask, library.mask_from_prompt(noisy(), **marks))
            assert mask.dtype == bool
            assert session.teach(way, noisy(), **marks) == session.labels[way]
            with pytest.raises(ServerError, match="already"):
                session.teach(way, noisy(), mask)
        assert session.teach("array", noisy(), box=np.array(BOX))
        with pytest.raises(InvalidSupport, match="exactly one"):
            session.outline(noisy())
        with pytest.raises(InvalidSupport, match="box and points given"):
            session.teach("two", noisy(), box=BOX, points=[(1, 2, 1)])
        for wrong, said in (({}, "nothing says where"), ({"mask": noisy(), "box": BOX}, "send one or the other")):
            with pytest.raises(ServerError, match=said):
                session.teach("wrong", noisy(), **wrong)
        with pytest.raises(ServerError, match="2 images and 1 texts of marks"):
            session.teach("wrong", [noisy(0), noisy(1)], box=BOX)
        assert "wrong" not in session.labels
