"""How the masks of examples lie on their images, drawn where no file can say it: images with an EXIF orientation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from PIL import Image

from fewseg.formats.examples import SupportExample, header_of
from fewseg.images import open_image
from fewseg.images.draw import contact_sheet, overlay_of
from fewseg.images.encode import save_image

log = logging.getLogger(__name__)

MOST: Final = 30
"""Examples that are drawn at most."""
_SIDE: Final = 360


def draw_turned(examples: Iterable[SupportExample], path: Path) -> int:
    """Draw those examples that were turned upright, and say so in the log; gives how many there are.

    Raises as reading them does, and `OutputError`.
    """
    turned = [one for one in examples if one.load_mask is not None and header_of(one.image)[1] != 1]
    if turned:
        drawn = [_drawn(one) for one in turned[:MOST]]
        titles = [f"{one.label}: {Path(getattr(one.image, 'name', '')).name}" for one in turned[:MOST]]
        save_image(path, contact_sheet(drawn, titles, side=_SIDE), "JPEG", quality=88)
        log.warning("%d examples were turned upright (EXIF): %s shows how their masks were taken", len(turned), path)
    return len(turned)


def _drawn(example: SupportExample) -> Image.Image:
    image = open_image(example.image, at_least=_SIDE).image
    return overlay_of(image, {example.label: example.mask() == 1}, side=2 * _SIDE)
