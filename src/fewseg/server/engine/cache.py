"""Predictions of the engine, cached in memory and on the disk, so that they are there at once after a restart.

A result is a probability map in 256 steps, stored as a PNG together with its score and uncertainty: at the model's size
a few kilobytes, for an adapted label at the image's, no larger than 1,024 pixels, some hundred. The key contains the
image's identity and a hash of everything the result depends on, so an entry never goes out of date; the oldest entries
are deleted when the cache outgrows its share of the disk.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from fewseg.core.errors import OutputError
from fewseg.core.files import make_folder, write_bytes
from fewseg.core.lru import LRUCache
from fewseg.images.encode import encode
from fewseg.inference import active_learning
from fewseg.models.presence import UNSCALED, PresenceScale, presence_scores
from fewseg.server.engine.model import probabilities

log = logging.getLogger(__name__)

DISK: Final = 4 << 30
"""Approximate limit of the cache on the disk, in bytes: results and thumbnails."""

MEMORY: Final = 256 << 20
"""Limit of the probability maps kept in memory, in bytes."""

_PRUNE_EVERY: Final = 500
"""Number of files written between two checks of the disk usage."""

_HALF_STEP: Final = 0.5 / 255
"""Rounding error of the 8-bit probabilities."""


@dataclass(frozen=True)
class ResultSummary:
    """Score and uncertainty of one result: all of a result but its map."""

    key: str
    score: float
    """Probability that the label is present in the image."""
    uncertainty: float
    """`fewseg.inference.active_learning.uncertainty` of the map, 0 to 1."""
    area: float
    """Share of the image that the mask covers."""

    @property
    def revision(self) -> int:
        """Integer that changes with the result; browsers cache masks by it."""
        return int(self.key[:12], 16) ^ int(self.key[24:36], 16)


class ResultCache:
    """Results by key, with thumbnails and image tokens; safe to use from several threads."""

    def __init__(
        self, folder: Path, *, scale: PresenceScale = UNSCALED, memory: int = MEMORY, disk: int = DISK
    ) -> None:
        """`scale` is the model's presence scale for the scores; files store unscaled scores, valid for any scale."""
        self.folder, self.scale, self.disk = folder, scale, disk
        self._lock = threading.Lock()
        self._summaries: dict[str, ResultSummary] = {}
        self._maps: LRUCache[str, NDArray[np.uint8]] = LRUCache(memory)
        self._written = 0
        self._files = {file.name for file in folder.glob("*/*") if not file.name.endswith(".tmp")}
        self._prune()

    def put(self, key: str, coarse: NDArray[np.uint8]) -> ResultSummary:
        """Store the probability map (h, w) of a result; in memory only where the disk is full."""
        values = probabilities(coarse)
        # The scale would amplify probabilities that differ from 0 and 1 by less than the rounding error.
        (score,) = presence_scores(values[None].clamp(_HALF_STEP, 1 - _HALF_STEP))
        uncertainty = float(active_learning.uncertainty(values))
        area = float((coarse >= 128).mean())
        summary = ResultSummary(key, self.scale(score), uncertainty, area)
        about = PngImagePlugin.PngInfo()
        about.add_text("fewseg", f"{score:.9g} {uncertainty:.9g} {area:.9g}")
        encoded = encode(Image.fromarray(coarse), "PNG", compress_level=1, pnginfo=about)
        with self._lock:
            self._summaries[key] = summary
        self._maps.put(key, coarse, coarse.nbytes)
        self._write(f"{key}.png", encoded)
        return summary

    def summary(self, key: str) -> ResultSummary | None:
        """Score and uncertainty of a result, None where it is not in the cache."""
        known = self._summaries.get(key)
        if known is not None or f"{key}.png" not in self._files:
            return known
        try:
            with Image.open(self.path(f"{key}.png"), formats=("PNG",)) as image:
                score, uncertainty, *rest = (float(v) for v in str(image.info["fewseg"]).split())
                area = rest[0] if rest else float((np.asarray(image) >= 128).mean())  # version 0.1 kept no area
        except (OSError, KeyError, ValueError, SyntaxError):
            self._forget(key)
            return None
        with self._lock:
            return self._summaries.setdefault(key, ResultSummary(key, self.scale(score), uncertainty, area))

    def coarse(self, key: str) -> NDArray[np.uint8] | None:
        """The probability map (h, w) of a result; None, and the result is dropped, where it is missing or damaged."""
        cached = self._maps.get(key)
        if cached is not None:
            return cached
        try:
            with Image.open(self.path(f"{key}.png"), formats=("PNG",)) as image:
                if image.mode != "L":
                    raise ValueError(image.mode)
                values = np.array(image)
        except (OSError, ValueError, SyntaxError):
            self._forget(key)
            return None
        self._maps.put(key, values, values.nbytes)
        return values

    def trim(self, keys: Set[str]) -> None:
        """Drop the summaries of all other results from memory, where there are many; their files stay."""
        if len(self._summaries) > 4 * len(keys) + 10_000:
            with self._lock:
                self._summaries = {key: value for key, value in self._summaries.items() if key in keys}

    def _forget(self, key: str) -> None:
        with self._lock:
            self._summaries.pop(key, None)
            self._files.discard(f"{key}.png")

    def put_tokens(self, key: str, tokens: NDArray[np.float16]) -> None:
        """Store the tokens (n, c) of an image: a small descriptor of its content."""
        encoded = io.BytesIO()
        np.save(encoded, tokens, allow_pickle=False)
        self._write(f"{key}.npy", encoded.getvalue())

    def tokens(self, key: str) -> NDArray[np.float16] | None:
        """The tokens (n, c) of an image, None where they are not in the cache."""
        if f"{key}.npy" not in self._files:
            return None
        try:
            values: NDArray[np.float16] = np.load(self.path(f"{key}.npy"), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.dtype == np.float16 and values.ndim == 2 else None

    def file(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of a cached file, made by `make` where it is missing."""
        if name in self._files:
            with contextlib.suppress(OSError):
                return self.path(name).read_bytes()
        content = make()
        self._write(name, content)
        return content

    def path(self, name: str) -> Path:
        """Where the file of that name is, or would be."""
        return self.folder / name[:2] / name

    def new_path(self, name: str) -> Path:
        """Where to write the file of that name; raises `OutputError`."""
        make_folder(self.path(name).parent)
        return self.path(name)

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_bytes(self.new_path(name), content)
        except OutputError as error:
            log.warning("the cache is not written to the disk: %s", error)
            return
        with self._lock:
            self._files.add(name)
            self._written += 1
            due = self._written % _PRUNE_EVERY == 0
        if due:
            self._prune()

    def _prune(self) -> None:
        """When the files exceed the limit, delete the oldest ones down to three quarters of it."""
        entries = []
        for file in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = os.stat(file)
                entries.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in entries)
        if total <= self.disk:
            return
        for _, size, file in sorted(entries):
            if total <= self.disk * 3 // 4:
                break
            with contextlib.suppress(OSError):
                file.unlink()
                total -= size
                self._forget(file.stem)
                with self._lock:
                    self._files.discard(file.name)
