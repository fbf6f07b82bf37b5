"""Examples from CVAT's XML, "CVAT for images 1.1" and "CVAT for video 1.1".

A label's polygons, boxes, ellipses and masks in an image make one mask; lines, points, tags and skeletons are left out.
CVAT's masks are run lengths row by row within their box, background first. Boxes and ellipses may be turned clockwise
about their centres. Tracks of videos have shapes in every frame, interpolated ones too; what is `outside` is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np

from fewseg.core.errors import InvalidSupport
from fewseg.formats.annotated import AnnotatedImage, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.parse import parse_xml
from fewseg.formats.rasterise import check_size, fill_ellipse, fill_polygons, place_mask, turned_box
from fewseg.formats.reading import Reading, Request, find_image, reading_of

NAME: Final = "annotations.xml"
_AREAS: Final = ("polygon", "box", "ellipse", "mask")
_NO_AREAS: Final = ("polyline", "points", "tag", "cuboid", "skeleton")


def is_cvat(file: Path) -> bool:
    """Whether a file begins as CVAT's XML; others are called annotations.xml too."""
    with file.open("rb") as stream:
        start = stream.read(4096).replace(b"\0", b"")
    return b"<annotations" in start and b"<version>" in start


def read_cvat(path: Path, request: Request) -> Reading:
    """The examples in an XML file of CVAT; raises `InvalidSupport`."""
    root = parse_xml(path)
    if root.tag != "annotations":
        raise InvalidSupport(f"{path} is no annotation file of CVAT: export 'CVAT for images 1.1'")
    if root.find("track") is not None:
        images = list(_frames(root, path, request))
    else:
        images = [image for entry in root.iter("image") if (image := _image(entry, path, request)) is not None]
    listed = [name.text.strip() for name in root.iterfind("meta//labels/label/name") if name.text]
    drawn = dict.fromkeys(shape.label for image in images for shape in image.shapes)
    if not drawn:
        raise request.left.nothing(f"{path} has no polygons, boxes, ellipses or masks: draw some in CVAT")
    labels = [*(label for label in listed if label in drawn), *drawn]
    return reading_of("CVAT", labels, images, request)


def _image(entry: Element, path: Path, request: Request) -> AnnotatedImage | None:
    name, subset = entry.get("name", ""), entry.get("subset", "")
    if subset and not request.wants_split(subset):
        return None
    where = f"image {name:.200} of {path}"
    try:
        size = check_size((entry.get("width"), entry.get("height")), where) if entry.get("width") else None
        find = partial(_find, name, subset, path, request.images)
        return AnnotatedImage(where, find, _shapes(entry, where, request.left), size, name=name, upright=True)
    except InvalidSupport as error:
        request.left.bad(error)
        return None


def _find(name: str, subset: str, path: Path, images: Path | None) -> Path:
    try:
        return find_image(f"{subset}/{name}" if subset else name, path, images)
    except InvalidSupport:
        return find_image(name, path, images)


def _shapes(entry: Element, where: str, left: LeftOut) -> list[Shape]:
    shapes = []
    for number, child in enumerate(entry, 1):
        about = f"{child.tag} {number} of {where}"
        label = (child.get("label") or "").strip()
        if child.tag in _NO_AREAS:
            left.kind("shapes that cover no area (lines, points, tags ...)", about)
        elif child.tag in _AREAS and not label:
            left.kind("shapes without a label", about)
        elif child.tag in _AREAS:
            shapes.append(Shape(label, about, partial(_filled, dict(child.attrib), child.tag, about)))
            if child.tag == "box":
                left.note(f"boxes count as masks of their whole area; the first is {about}", once="boxes")
    return shapes


def _frames(root: Element, path: Path, request: Request) -> Iterator[AnnotatedImage]:
    """The frames of a video with the shapes of all tracks, those with a key frame first."""
    size = root.find("meta//original_size")
    stated = None if size is None else check_size((size.findtext("width"), size.findtext("height")), str(path))
    frames: dict[int, list[Shape]] = {}
    keys: set[int] = set()
    for track in root.iter("track"):
        label = (track.get("label") or "").strip()
        for child in track:
            frame = child.get("frame", "")
            about = f"{child.tag} of track {track.get('id', '?')} in frame {frame:.20} of {path}"
            if child.get("outside") == "1":
                continue
            if child.tag not in _AREAS or not label or not frame.isdecimal() or len(frame) > 9:
                request.left.kind("shapes of tracks without area, label or frame", about)
                continue
            if child.get("keyframe") == "1":
                keys.add(int(frame))
            fill = partial(_filled, dict(child.attrib), child.tag, about)
            frames.setdefault(int(frame), []).append(Shape(label, about, fill))
    for number in sorted(frames, key=lambda frame: (frame not in keys, frame)):
        find = partial(_frame, number, path, request.images)
        where = f"frame {number} of {path}"
        yield AnnotatedImage(where, find, frames[number], stated, name=f"frame_{number:06d}", upright=True)


def _frame(number: int, path: Path, images: Path | None) -> Path:
    for ending in (".PNG", ".png", ".jpg", ".jpeg", ".JPG"):
        try:
            return find_image(f"frame_{number:06d}{ending}", path, images)
        except InvalidSupport:
            continue
    raise InvalidSupport(
        f"image frame_{number:06d}.PNG of {path} is missing: export the video again with its images, or as 'CVAT for "
        "images 1.1'"
    )


def _filled(entry: dict[str, str], kind: str, where: str, size: Size) -> Mask:
    turn = _number(entry, "rotation", where, "0")
    if kind == "polygon":
        pairs = [pair.split(",") for pair in entry.get("points", "").split(";")]
        if any(len(pair) != 2 for pair in pairs):
            raise InvalidSupport(f"{where} has points that are no pairs x, y: {entry.get('points', '')!r:.60}")
        return fill_polygons([[value for pair in pairs for value in pair]], size, where)
    if kind == "box":
        x0, y0, x1, y1 = (_number(entry, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        return fill_polygons([turned_box(x0, y0, x1 - x0, y1 - y0, turn, middle)], size, where)
    if kind == "ellipse":
        cx, cy, rx, ry = (_number(entry, key, where) for key in ("cx", "cy", "rx", "ry"))
        return fill_ellipse((cx, cy), (rx, ry), size, where, degrees=turn)
    return _mask(entry, size, where)


def _mask(entry: dict[str, str], size: Size, where: str) -> Mask:
    """Run lengths row by row within a box, background first."""
    left, top, width, height = (round(_number(entry, key, where)) for key in ("left", "top", "width", "height"))
    if not (0 < width <= size[0] + 2 and 0 < height <= size[1] + 2):
        raise InvalidSupport(f"{where} is {width}x{height}, its image {size[0]}x{size[1]}: export it again")
    text = entry.get("rle", "")
    if len(text) > 24 * (width * height + 2):
        raise InvalidSupport(f"{where} has run lengths that do not add up to {width}x{height} pixels")
    try:
        runs = [int(run) for run in text.split(",")]
    except ValueError:
        raise InvalidSupport(f"{where} has damaged run lengths: {text!r:.60}") from None
    if any(not 0 <= run <= width * height for run in runs) or sum(runs) != width * height:
        raise InvalidSupport(f"{where} has run lengths that do not add up to {width}x{height} pixels")
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return place_mask(part, (left, top), size, where)


def _number(entry: dict[str, str], key: str, where: str, default: str = "") -> float:
    try:
        number = float(entry.get(key, default))
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e9:
        raise InvalidSupport(f"{where} has {key}={entry.get(key, '')!r:.40}: expected a number")
    return number
