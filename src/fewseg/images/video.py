"""Video files: their frames one after the other, and clips written from images. Reading and writing need PyAV."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fewseg.core.errors import InvalidImage, InvalidOption, OutputError, one_line
from fewseg.images.orientation import upright_values
from fewseg.images.read import fitted

log = logging.getLogger(__name__)

VIDEO_SUFFIXES: Final = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ogv"})
"""Endings of files that are taken for videos."""

LONGEST_SIDE: Final = 1280
"""Longest side of the clips that are written."""


_TICKS: Final = 60_000
"""Parts of a second in which times of frames are written: even for all usual rates, and few enough for MPEG-4."""

_ORIENTATIONS: Final = {
    (False, True, True): 1,
    (False, False, True): 2,
    (False, False, False): 3,
    (False, True, False): 4,
    (True, True, True): 5,
    (True, True, False): 6,
    (True, False, False): 7,
    (True, False, True): 8,
}
"""Whether a display matrix swaps the axes, and whether its two factors are positive, to EXIF orientation."""


@dataclass(frozen=True)
class Frame:
    """An image of a clip."""

    number: int
    """Counted from 0."""
    seconds: float
    """Since the beginning."""
    image: Image.Image
    """Upright, RGB."""


@dataclass(frozen=True)
class Clip:
    """What a video file says of itself."""

    path: Path
    size: tuple[int, int]
    """(width, height), upright."""
    rate: Fraction
    """Frames a second, on average."""
    frames: int
    """How many, about: what the file says, or its length times the rate; 0 if it says nothing."""


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the file's ending is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise InvalidOption("video files need PyAV: pip install 'fewseg[video]'") from None
    av.logging.set_level(None)
    return av


def _open(path: Path, stack: ExitStack) -> tuple[Any, Any]:
    """The container and its first video stream; raises `InvalidImage`."""
    av = _av()
    try:
        container = stack.enter_context(av.open(os.fspath(path)))
    except (OSError, ValueError, av.FFmpegError) as error:
        raise InvalidImage(f"{path} is no video that can be read ({one_line(error)}): check the path") from error
    if not container.streams.video:
        raise InvalidImage(f"{path} has no images, only sound: give a video")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def open_clip(path: str | os.PathLike[str]) -> Clip:
    """What the file says of itself; raises `InvalidImage` if it is no video, `InvalidOption` without PyAV."""
    file = Path(path)
    with ExitStack() as stack:
        container, stream = _open(file, stack)
        rate = _rate(stream)
        count = stream.frames
        if not count and container.duration:
            count = round(container.duration / 1_000_000 * rate)
    first = next(read_frames(file), None)
    if first is None:
        raise InvalidImage(f"{file} has no frames that can be decoded: get the whole file again")
    return Clip(file, first.image.size, rate, int(count))


def read_frames(path: str | os.PathLike[str], damage: list[str] | None = None) -> Iterator[Frame]:
    """The frames of a video in order, upright; numbers count those that can be decoded.

    What cannot be decoded is left out, with a line to `damage` for each part, so that one bad spot does not end a long
    clip. Raises `InvalidImage` where it is no video, or nothing of it can be decoded.
    """
    file, number = Path(path), 0
    damage = [] if damage is None else damage
    with ExitStack() as stack:
        container, stream = _open(file, stack)
        rate = _rate(stream)
        for frame in _decoded(container, stream, damage):
            pixels = np.asarray(frame.to_ndarray(format="rgb24"))
            upright = Image.fromarray(upright_values(pixels, _orientation(frame, file)))
            yield Frame(number, float(number / rate if frame.time is None else frame.time), upright)
            number += 1
    if damage and number == 0:
        raise InvalidImage(f"{file} is damaged ({damage[0]}): get the whole file again")


def _orientation(frame: Any, file: Path) -> int:
    """The EXIF orientation that does what the frame's display matrix does; 1 where it has none."""
    matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    lying = abs(b) > abs(a)
    factors, rest = ((b, c), (a, d)) if lying else ((a, d), (b, c))
    if 8 * max(map(abs, rest)) > min(map(abs, factors)):
        _tell_turn(os.fspath(file))
        return 1
    return _ORIENTATIONS[lying, factors[0] > 0, factors[1] > 0]


@lru_cache(maxsize=4096)
def _tell_turn(file: str) -> None:
    log.warning("%s is to be shown turned by a part of a right angle: its frames are taken as they are stored", file)


def _decoded(container: Any, stream: Any, damage: list[str]) -> Iterator[Any]:
    """Packet by packet: `container.decode` ends at the first that is damaged."""
    av = _av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:  # the file itself ends here
            damage.append(one_line(error))
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            damage.append(one_line(error))


def read_frame(path: str | os.PathLike[str], number: int) -> Image.Image:
    """One frame, counted from 0; raises `InvalidImage`, and `InvalidOption` for one that is not there."""
    if number < 0:
        raise InvalidOption(f"frame {number}: frames are counted from 0")
    last = -1
    for frame in read_frames(path):
        last = frame.number
        if last == number:
            return frame.image
    raise InvalidOption(f"{path} has no frame {number}: it has {last + 1}, counted from 0")


class ClipWriter:
    """Writes images of one size as an H.264 clip; raises `OutputError` where that fails."""

    def __init__(self, path: Path, clip: Clip, every: int, comment: str) -> None:
        """To `path`, images that are each `every`th frame of `clip`; `comment` goes into the file's metadata."""
        av = _av()
        self._path, self._av = path, av
        small = fitted(Image.new("1", clip.size), LONGEST_SIDE, enlarge=False).size
        self._size = (max(2, small[0] // 2 * 2), max(2, small[1] // 2 * 2))  # of half the colours, so even
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        try:
            self._container = av.open(os.fspath(path), "w", format="mp4", options={"movflags": "faststart"})
            self._container.metadata["comment"] = comment
            self._stream = self._container.add_stream(codec, rate=(clip.rate / every).limit_denominator(60_000))
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._last = -1
        except (OSError, ValueError, av.FFmpegError) as error:
            raise OutputError(f"cannot write {path.parent}: {one_line(error)}; choose another folder") from error

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            with closing(self._container):
                if failure[0] is None:
                    self._container.mux(self._stream.encode())
        except (OSError, self._av.FFmpegError) as error:
            if failure[0] is None:  # else that failure is the one to tell
                raise self._cannot(error) from error

    def add(self, image: Image.Image, seconds: float) -> None:
        """The next image, to be shown from this time on: frames of a clip may be apart by more and less."""
        if image.size != self._size:  # by an odd column or row, or a clip whose size changes on the way
            image = (
                image.resize(self._size) if abs(image.width - self._size[0]) > 1 else image.crop((0, 0, *self._size))
            )
        try:
            frame = self._av.VideoFrame.from_image(image)
            self._last = max(self._last + 1, round(seconds * _TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.FFmpegError) as error:
            raise self._cannot(error) from error

    def _cannot(self, error: Exception) -> OutputError:
        return OutputError(f"cannot write {self._path.parent}: {one_line(error)}; free space")


def what_was_written(path: Path) -> tuple[str | None, int]:
    """Comment and number of frames of a clip of `ClipWriter`; None and 0 where it is none, or was not finished."""
    av = _av()
    try:
        with av.open(os.fspath(path)) as container:
            return container.metadata.get("comment"), container.streams.video[0].frames
    except (OSError, ValueError, IndexError, av.FFmpegError):
        return None, 0
