"""Annotation files of other tools with one part exchanged, left out or broken."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

from helpers.bad_cases import SEGMENT, Case, encoded, good_files

BAD_VALUES: Final = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, -0.5, float("nan"), float("inf"), "", "x", "9" * 5000, "../../a",
    "\ud800",    [], [[]], {}, [None], {"x": None}, [1e9] * 8, [[0, 0], [1e9, 0], [1e9, 1e9]],
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def garbled(document: Any, count: int, seed: str) -> Iterator[tuple[str, bytes]]:
    """Documents with one part exchanged or left out, and broken text."""
    drawn = random.Random(seed)
    every = list(places(document))
    for number in range(count):
        changed, path = copy.deepcopy(document), drawn.choice(every)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if drawn.random() < 0.2:
            del holder[path[-1]]
            what = "nothing"
        else:
            holder[path[-1]] = bad = drawn.choice(BAD_VALUES)
            what = repr(bad)[:20] if not isinstance(bad, int) or bad < 10**9 else "large"
        yield f"{number} {'.'.join(map(str, path))} = {what}", json.dumps(changed).encode()
    whole = json.dumps(document).encode()
    yield "cut", whole[: len(whole) // 2]
    yield "nested", b"[" * 200_000
    yield "text", b"\xff\xfe\0not JSON"
    yield "twice", whole + whole


def coco() -> dict[str, Any]:
    rle = {"size": [40, 60], "counts": [10, 20, 2370]}
    compressed = {"size": [40, 60], "counts": "PPYo0"}
    common = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [
            {**common, "id": n, "bbox": [15, 10, 25, 20], "area": 9, "segmentation": segmentation}
            for n, segmentation in enumerate(([[15, 10, 40, 10, 40, 30, 15, 30]], rle, compressed), 1)
        ],
    }  # fmt: skip


def labelme() -> dict[str, Any]:
    mask = base64.b64encode(encoded(Image.new("L", (6, 5), 255), "PNG")).decode()
    shape = {"label": "red", "group_id": None, "flags": {}}
    return {
        "version": "5.5.0", "flags": {}, "imagePath": "a.jpg", "imageData": None, "imageHeight": 40, "imageWidth": 60,
        "shapes": [
            {**shape, "shape_type": "polygon", "points": [[15, 10], [40, 10], [40, 30]]},
            {**shape, "shape_type": "rectangle", "points": [[15, 10], [40, 30]]},
            {**shape, "shape_type": "circle", "points": [[20, 20], [25, 20]]},
            {**shape, "shape_type": "mask", "points": [[15, 10], [20, 14]], "mask": mask},
        ],
    }  # fmt: skip


def label_studio() -> list[dict[str, Any]]:
    region = {"original_width": 60, "original_height": 40, "image_rotation": 0, "from_name": "p", "to_name": "image"}
    polygon = {"points": [[25, 25], [66, 25], [66, 75]], "closed": True, "polygonlabels": ["red"]}
    brush = {"format": "rle", "rle": [0, 0, 37, 128, 57, 27, 224, 1], "brushlabels": ["red"]}
    result = [
        {**region, "id": "a", "type": "polygonlabels", "value": polygon},
        {**region, "id": "b", "type": "brushlabels", "value": brush},
    ]
    annotation = {"id": 1, "result": result, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"}
    return [{"id": 1, "annotations": [annotation], "data": {"image": "/data/upload/1/0123abcd-a.jpg"}}]


def via() -> dict[str, Any]:
    shape = {"name": "polygon", "all_points_x": [15, 40, 40], "all_points_y": [10, 10, 30]}
    region = {"shape_attributes": shape, "region_attributes": {"class": "red"}}
    return {"a.jpg100": {"filename": "a.jpg", "size": 100, "regions": [region], "file_attributes": {}}}


CVAT: Final = (
    '<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="a.jpg" width="60" height="40">'
    '<polygon label="red" points="15,10;40,10;40,30" z_order="0"/><mask label="red" rle="3, 2" left="1" top="1" '
    'width="5" height="1" z_order="0"/></image></annotations>'
)
LAUGHS: Final = (
    '<!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>"
)


def annotation_cases() -> Iterator[Case]:
    documents = {
        "coco": (coco(), 60),
        "labelme": (labelme(), 40),
        "label studio": (label_studio(), 25),
        "via": (via(), 15),
    }
    for kind, (document, count) in documents.items():
        for what, content in garbled(document, count, kind):
            yield Case(f"{kind} {what}", (*SEGMENT, "--support", "j/x.json"), {"j/x.json": content})
    changes = {
        "laughs": ("<annotations>", f"{LAUGHS}<annotations>&j;"),
        "outside": ("<annotations>", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations>&x;'),
        "deep": ("<version>", "<v>" * 100_000 + "<version>"),
        "cut": ("</image></annotations>", ""),
        "huge": ('width="60"', 'width="99999999999999999999"'),
        "letters": ('height="40"', 'height="x"'),
        "points": ("15,10;40,10", "15;nan,inf;1e400,1"),
        "runs": ('rle="3, 2"', f'rle="{2**63}, {2**63}"'),
        "mask outside": ('left="1"', 'left="-999999999"'),
        "no label": ('label="red"', ""),
        "encoding": ('version="1.0"', 'version="1.0" encoding="nonsense"'),
        "no images": ('<image id="0"', '<nothing id="0"'),
    }
    for what, (old, new) in changes.items():
        content = CVAT.replace(old, new).encode()
        yield Case(f"cvat {what}", (*SEGMENT, "--support", "j/annotations.xml"), {"j/annotations.xml": content})
    yaml = b"names: [red]\ntrain: images\n"
    for what, files in {
        "numbers": {"y/labels/a.txt": b"0 nan inf 1e400 2 3 4"},
        "class": {"y/labels/a.txt": b"99999999999 0.1 0.1 0.9 0.1 0.9 0.9"},
        "few": {"y/labels/a.txt": b"0 0.5 0.5\n0"}, "binary": {"y/labels/a.txt": bytes(range(256))},
        "yaml": {"y/data.yaml": b"names: [" * 3000}, "alias": {"y/data.yaml": b"a: &a [x]\nnames: *b\n"},
        "download": {"y/data.yaml": b"names: {0: red}\ndownload: touch ran\ntrain: ../../../../etc\n"},
        "tag": {"y/data.yaml": b"names: !!python/object/apply:os.system ['touch ran']\n"},
    }.items():  # fmt: skip
        base = {
            "y/data.yaml": yaml,
            "y/images/a.jpg": good_files()["j/a.jpg"],
            "y/labels/a.txt": b"0 0.2 0.2 0.8 0.2 0.8 0.8",
        }
        yield Case(f"yolo {what}", (*SEGMENT, "--support", "y"), {**base, **files})
    voc = {"v/JPEGImages/a.jpg": good_files()["j/a.jpg"], "v/SegmentationClass/a.png": good_files()["s/red/a.png"]}
    for what, content in {"empty": b"", "colons": b"red:1:2\n", "twice": b"red\nred\n", "many": b"x\n" * 99_999,
                          "binary": bytes(range(256))}.items():  # fmt: skip
        yield Case(f"voc labelmap {what}", (*SEGMENT, "--support", "v"), {**voc, "v/labelmap.txt": content})
