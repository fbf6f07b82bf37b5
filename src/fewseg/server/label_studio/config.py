"""The tags for masks in a Label Studio labelling configuration, with their labels and image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from fewseg.core.errors import InvalidOption

KINDS: Final = {"brushlabels": "rle", "polygonlabels": "points", "bitmasklabels": "imageDataURL"}
"""Tags, in lower case, whose results are masks, and the key of a value that holds them."""

_LONGEST: Final = 1 << 20


@dataclass(frozen=True)
class MaskTag:
    """A tag for drawing masks."""

    name: str
    """Results refer to it as `from_name`."""
    kind: str
    """A key of `KINDS`."""
    image: str
    """Name of the image's tag: `to_name`."""
    key: str
    """Where a task's data holds the image's address."""
    labels: tuple[str, ...]

    def knows(self, label: str) -> bool:
        """Whether it offers the label."""
        return label in self.labels


def mask_tags(config: str) -> list[MaskTag]:
    """The tags for drawing masks, in order; raises `InvalidOption` where there are none or it is not XML."""
    root = _parsed(config)
    images = {e.get("name", ""): e.get("value", "").removeprefix("$") for e in root.iter() if e.tag.lower() == "image"}
    tags = []
    for element in root.iter():
        kind = element.tag.lower()
        target = element.get("toName", "").split(",")[0]
        if kind in KINDS and element.get("name") and images.get(target):
            offered = [e.get("alias") or e.get("value") or "" for e in element.iter() if e.tag.lower() == "label"]
            labels = tuple(dict.fromkeys(label for label in offered if label))
            tags.append(MaskTag(element.get("name", ""), kind, target, images[target], labels))
    if not tags:
        raise InvalidOption(
            "the labelling configuration has no BrushLabels, BitmaskLabels or PolygonLabels for an Image: "
            'add <BrushLabels name="mask" toName="image">'
        )
    return tags


def _parsed(config: str) -> ElementTree.Element:
    if len(config) > _LONGEST or "<!" in config.replace("<!--", "").replace("<![CDATA[", ""):
        # Entities could make a short text expand without end.
        raise InvalidOption("the labelling configuration is too long or declares a document type: send plain tags")
    try:
        return ElementTree.fromstring(config)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InvalidOption(f"the labelling configuration is not XML ({error}): copy it from Label Studio") from error
