"""Examples from Label Studio's exports, JSON and JSON-MIN.

Of an image's annotations those that were cancelled are left out, and of several the ground truth, or else the newest,
counts; predictions and drafts do not. Polygons, brushes, bitmasks, rectangles and ellipses make masks. Where labels and
shapes are tags of their own, a region is two entries with one id. Images are looked for by their names; nothing is
fetched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from fewseg.core.errors import InvalidMask, InvalidSupport
from fewseg.formats import brush_rle
from fewseg.formats.annotated import AnnotatedImage, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.rasterise import check_size, corners, fill_ellipse, fill_polygons, png_mask, turned_box
from fewseg.formats.reading import Reading, Request, find_image, reading_of
from fewseg.images.kinds import SUFFIXES

_LABELS: Final = ("polygonlabels", "brushlabels", "bitmasklabels", "rectanglelabels", "ellipselabels", "labels")
_UPLOAD: Final = re.compile(r"^[0-9a-f]{8}-")
"""What stands before the name of an uploaded file."""


def is_label_studio(content: Any) -> bool:
    """Whether parsed JSON looks like an export of Label Studio."""
    entries = content if isinstance(content, list) else [content]
    return bool(entries) and all(isinstance(entry, dict) and _is_task(entry) for entry in entries[:20])


def _is_task(entry: dict[str, Any]) -> bool:
    listed = isinstance(entry.get("annotations", entry.get("completions")), list)
    return (listed and isinstance(entry.get("data"), dict)) or "annotation_id" in entry


def read_label_studio(path: Path, content: Any, request: Request) -> Reading:
    """The examples in a parsed export; raises `InvalidSupport`."""
    tasks = content if isinstance(content, list) else [content]
    if any(isinstance(task, dict) and "annotation_id" in task for task in tasks):
        tasks = list(_of_records(tasks))
    images = []
    for number, task in enumerate(tasks, 1):
        try:
            images.append(_annotated(task, f"task {_id(task, number)} of {path}", path, request))
        except InvalidSupport as error:
            request.left.bad(error)
    drawn = dict.fromkeys(shape.label for image in images for shape in image.shapes)
    if not drawn:
        raise request.left.nothing(f"{path} has no polygons, brushes, bitmasks, rectangles or ellipses with labels")
    return reading_of("Label Studio", drawn, images, request)


def _id(task: Any, number: int) -> str:
    return str(task.get("id", number))[:40] if isinstance(task, dict) else str(number)


def _of_records(records: list[Any]) -> Iterator[dict[str, Any]]:
    """Tasks as the whole export has them, of JSON-MIN's records: one an annotation, a key a tag."""
    tasks: dict[Any, dict[str, Any]] = {}
    for record in (record for record in records if isinstance(record, dict)):
        task = tasks.setdefault(str(record.get("id")), {"id": record.get("id"), "data": {}, "annotations": []})
        regions = []
        for key, value in record.items():
            if isinstance(value, list) and all(isinstance(v, dict) and "original_width" in v for v in value):
                regions += [{"value": v, **{k: v.get(k) for k in ("original_width", "original_height")}} for v in value]
            elif isinstance(value, str):
                task["data"][key] = value
        task["annotations"].append({"result": regions, "updated_at": record.get("updated_at")})
    yield from tasks.values()


def _annotated(task: Any, where: str, path: Path, request: Request) -> AnnotatedImage:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise InvalidSupport(f"{where} has no data: export it again as JSON")
    regions = _regions(task, where, request.left)
    sizes = {size for region in regions.values() if (size := _size(region)) is not None}
    if len(sizes) > 1:
        raise InvalidSupport(f"{where} has regions of images of different sizes: one image a task can be read")
    said = next(iter(sizes), None)
    shapes = [
        shape for key, region in regions.items() for shape in _shapes(region, f"region {key} of {where}", request)
    ]
    name = _image_name(task["data"], where)
    return AnnotatedImage(
        f"image {name:.200} of {where}",
        partial(_find, name, path, request.images),
        shapes,
        size=None if said is None else check_size(said, where),
        name=name,
        upright=True,  # it is drawn in a browser
    )


def _regions(task: dict[str, Any], where: str, left: LeftOut) -> dict[str, dict[str, Any]]:
    """The regions of the annotation that counts, by their ids; entries of one id are put together."""
    every = task.get("annotations", task.get("completions"))
    given = [entry for entry in every if isinstance(entry, dict)] if isinstance(every, list) else []
    kept = [entry for entry in given if not (entry.get("was_cancelled") or entry.get("skipped"))]
    for _ in range(len(given) - len(kept)):
        left.kind("annotations that were cancelled", where)
    if task.get("predictions"):
        left.kind("tasks' predictions", where)
    if not kept:
        return {}
    chosen = max(kept, key=lambda entry: (bool(entry.get("ground_truth")), str(entry.get("updated_at") or "")))
    for _ in range(len(kept) - 1):
        left.kind("older annotations of an image", where)
    joined: dict[str, dict[str, Any]] = {}
    results = chosen.get("result")
    for number, entry in enumerate(results if isinstance(results, list) else [], 1):
        if isinstance(entry, dict) and isinstance(entry.get("value"), dict):
            region = joined.setdefault(str(entry.get("id") or number), {"value": {}})
            region |= {key: entry[key] for key in ("original_width", "original_height") if entry.get(key)}
            region["value"] |= entry["value"]
    if not joined:
        left.kind("annotations without regions", where)
    return joined


def _size(region: Mapping[str, Any]) -> tuple[Any, Any] | None:
    width, height = region.get("original_width"), region.get("original_height")
    return (width, height) if isinstance(width, (int, float)) and isinstance(height, (int, float)) else None


def _shapes(region: dict[str, Any], where: str, request: Request) -> Iterator[Shape]:
    """A shape for each label of the region."""
    value = region["value"]
    kind = region_kind(value)
    if kind is None or (kind == "points" and value.get("closed") is False):
        request.left.kind("regions that cover no area (key points, lines ...)", where)
        return
    given = [label for key in _LABELS for label in (value.get(key) if isinstance(value.get(key), list) else [])]
    labels = dict.fromkeys(label.strip() for label in given if isinstance(label, str) and label.strip())
    if not labels:
        request.left.kind("regions without a label", where)
    if labels and kind == "width":
        request.left.note(f"rectangles count as masks of their whole area; the first is {where}", once="rectangles")
    for label in labels:
        yield Shape(label, where, partial(region_mask, value, kind, where))


def region_kind(value: Mapping[str, Any]) -> str | None:
    """The key that tells what a region is; None for what covers no area."""
    for key in ("points", "rle", "imageDataURL", "radiusX"):
        if key in value:
            return key
    return "width" if "height" in value and "width" in value and "sequence" not in value else None


def region_mask(value: Mapping[str, Any], kind: str, where: str, size: Size) -> Mask:
    """The mask (H, W) of a region of a kind that `region_kind` tells; raises `InvalidSupport` or `InvalidMask`."""
    if kind == "rle":
        try:
            return brush_rle.decode(value["rle"] if isinstance(value["rle"], list) else [], size)
        except InvalidMask as error:
            raise InvalidSupport(f"{where}: {error}") from error
    if kind == "imageDataURL":
        return _bitmask(value[kind], size, where)
    share = np.array(size) / 100  # coordinates are per cent
    if kind == "points":
        return fill_polygons([corners(value["points"], where) * share], size, where)
    turn = _number(value, "rotation", where, 0)
    x, y = _number(value, "x", where) * share[0], _number(value, "y", where) * share[1]
    if kind == "radiusX":
        radii = (_number(value, "radiusX", where) * share[0], _number(value, "radiusY", where) * share[1])
        return fill_ellipse((x, y), radii, size, where, degrees=turn)
    width, height = _number(value, "width", where) * share[0], _number(value, "height", where) * share[1]
    return fill_polygons([turned_box(x, y, width, height, turn, (x, y))], size, where)


def _bitmask(text: Any, size: Size, where: str) -> Mask:
    try:
        data = base64.b64decode(str(text).partition("base64,")[2])
    except ValueError as error:
        raise InvalidSupport(f"{where} has a damaged bitmask ({error}): export it again") from error
    mask = png_mask(data, size, where)
    if mask.shape != size[::-1]:
        raise InvalidSupport(
            f"{where} has a bitmask of {mask.shape[1]}x{mask.shape[0]}, its image is {size[0]}x{size[1]}: export again"
        )
    return mask


def _number(value: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    given = value.get(key, default)
    try:
        number = float(given) if isinstance(given, (int, float)) else float("nan")
    except OverflowError:
        number = float("nan")
    if not abs(number) < 1e9:
        raise InvalidSupport(f"{where} has {key} {given!r:.40}: expected a number")
    return number


def _image_name(data: Mapping[str, Any], where: str) -> str:
    """The image among a task's data, as a path or address."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    likely = [value for value in texts.values() if PurePosixPath(_paths(value)[0]).suffix.lower() in SUFFIXES]
    named = [texts[key] for key in ("image", "img", "picture", "photo", "ocr", "url") if key in texts]
    if not (likely or named):
        raise InvalidSupport(f"{where} names no image: one image a task, in its data, can be read")
    return (likely if len(likely) == 1 else [*named, *likely])[0]


def _paths(name: str) -> list[str]:
    """The paths that an address may stand for below the folder of images."""
    if name.startswith("data:"):
        return ["image in the task itself"]
    try:
        parts = urlsplit(name)
        asked = parse_qs(parts.query)
    except ValueError:
        return [name]
    said = asked.get("d") or asked.get("filepath") or [unquote(parts.path)]
    path = PurePosixPath(said[0].replace("\\", "/"))
    plain = _UPLOAD.sub("", path.name)
    return [str(path).lstrip("/"), *([plain] if plain != path.name else [])]


def _find(name: str, path: Path, images: Path | None) -> Path:
    candidates = _paths(name)
    for candidate in candidates:
        try:
            return find_image(candidate, path, images)
        except InvalidSupport:
            continue
    return find_image(candidates[-1], path, images, anywhere=True)
