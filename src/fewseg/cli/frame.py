"""`fewseg frame`: a frame of a video as an image, to paint masks on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewseg.core.errors import InvalidOption, OutputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Save a frame of a video as an image: paint masks on it, then teach with `fewseg segment --frame --mask`."""

    video: Path
    """The video file."""
    out: Path
    """Where the image goes; PNG keeps it as it is."""
    number: int = 0
    """Which frame, counted from 0."""


def run(options: Options) -> int:
    """Save the frame."""
    from PIL import Image

    from fewseg.core.files import make_folder, replacing
    from fewseg.images import SUFFIXES
    from fewseg.images.video import read_frame

    if options.out.suffix.lower() not in SUFFIXES:
        raise InvalidOption(f"{options.out} is no name of an image: end it in .png")
    image = read_frame(options.video, options.number)
    make_folder(options.out.parent)
    with replacing(options.out) as temporary:
        try:
            image.save(temporary, Image.registered_extensions()[options.out.suffix.lower()], quality=95)
        except ValueError as error:
            raise OutputError(f"cannot write {options.out}: {error}") from error
    return 0
