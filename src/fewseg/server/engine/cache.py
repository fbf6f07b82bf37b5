"""What the engine found, in memory and on the disk, so that a restart shows it at once.

A result is a map of probabilities in 256 steps at the model's size, a few kilobytes as a PNG that also holds its
numbers. Its key is made of the image's identity and of all that decided the result, so nothing is ever out of date:
it is only no longer asked for, and goes when the disk's share is used up.
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
from fewseg.inference.active_learning import uncertainty
from fewseg.models.presence import UNSCALED, PresenceScale, presence_scores
from fewseg.server.engine.model import Recent, probabilities

log = logging.getLogger(__name__)

DISK: Final = 4 << 30
"""Bytes that results and small images take on the disk, about."""

MEMORY: Final = 256 << 20
"""Bytes of maps that are kept in memory."""

_PRUNE_EVERY: Final = 500
"""Files written between two looks at how much there is."""


_HALF_STEP: Final = 0.5 / 255
"""Of the 8-bit probabilities."""


@dataclass(frozen=True)
class Found:
    """What is remembered of every result."""

    key: str
    score: float
    """How sure it is that the label is there at all."""
    doubt: float
    """`fewseg.inference.active_learning.uncertainty` of its map."""

    @property
    def revision(self) -> int:
        """A number that changes with the result."""
        return int(self.key[:12], 16) ^ int(self.key[24:36], 16)


class ResultCache:
    """Safe to use from several threads."""

    def __init__(
        self, folder: Path, *, scale: PresenceScale = UNSCALED, memory: int = MEMORY, disk: int = DISK
    ) -> None:
        """`scale` is the model's, for the scores; files hold unscaled ones, and outlive it."""
        self.folder, self.scale, self.disk = folder, scale, disk
        self._lock = threading.Lock()
        self._found: dict[str, Found] = {}
        self._maps: Recent[NDArray[np.uint8]] = Recent(memory)
        self._written = 0
        self._files = {file.name for file in folder.glob("*/*") if not file.name.endswith(".tmp")}
        self._prune()

    def put(self, key: str, coarse: NDArray[np.uint8]) -> Found:
        """Keep a result; where the disk is full it lives in memory only."""
        values = probabilities(coarse)
        # Each is known to half a step: a scale would make much of the rest.
        (score,) = presence_scores(values[None].clamp(_HALF_STEP, 1 - _HALF_STEP))
        doubt = float(uncertainty(values))
        found = Found(key, self.scale(score), doubt)
        about = PngImagePlugin.PngInfo()
        about.add_text("fewseg", f"{score:.9g} {doubt:.9g}")
        encoded = io.BytesIO()
        Image.fromarray(coarse).save(encoded, "PNG", compress_level=1, pnginfo=about)
        with self._lock:
            self._found[key] = found
        self._maps.put(key, coarse)
        self._write(f"{key}.png", encoded.getvalue())
        return found

    def found(self, key: str) -> Found | None:
        """The numbers of a result, None where it is not known."""
        known = self._found.get(key)
        if known is not None or f"{key}.png" not in self._files:
            return known
        try:
            with Image.open(self._path(f"{key}.png"), formats=("PNG",)) as image:
                score, doubt = (float(v) for v in str(image.info["fewseg"]).split())
        except (OSError, KeyError, ValueError, SyntaxError):
            self._forget(key)
            return None
        with self._lock:
            return self._found.setdefault(key, Found(key, self.scale(score), doubt))

    def coarse(self, key: str) -> NDArray[np.uint8] | None:
        """The map (s, s) of a result, None where it is gone or damaged; then the result is no longer known."""
        kept = self._maps.get(key)
        if kept is not None:
            return kept
        try:
            with Image.open(self._path(f"{key}.png"), formats=("PNG",)) as image:
                if image.mode != "L":
                    raise ValueError(image.mode)
                values = np.array(image)
        except (OSError, ValueError, SyntaxError):
            self._forget(key)
            return None
        self._maps.put(key, values)
        return values

    def trim(self, keys: Set[str]) -> None:
        """Forget the numbers of other results than these, where there are many; their files keep them."""
        if len(self._found) > 4 * len(keys) + 10_000:
            with self._lock:
                self._found = {key: found for key, found in self._found.items() if key in keys}

    def _forget(self, key: str) -> None:
        with self._lock:
            self._found.pop(key, None)
            self._files.discard(f"{key}.png")

    def put_tokens(self, key: str, tokens: NDArray[np.float16]) -> None:
        """Keep what an image shows."""
        encoded = io.BytesIO()
        np.save(encoded, tokens, allow_pickle=False)
        self._write(f"{key}.npy", encoded.getvalue())

    def tokens(self, key: str) -> NDArray[np.float16] | None:
        """What an image shows, None where it is not known."""
        if f"{key}.npy" not in self._files:
            return None
        try:
            values: NDArray[np.float16] = np.load(self._path(f"{key}.npy"), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return values if values.dtype == np.float16 and values.ndim == 2 else None

    def file(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The content of a file here, made where it is missing."""
        if name in self._files:
            with contextlib.suppress(OSError):
                return self._path(name).read_bytes()
        content = make()
        self._write(name, content)
        return content

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        try:
            make_folder(path.parent)
            write_bytes(path, content)
        except OutputError as error:
            log.warning("not kept on the disk: %s", error)
            return
        with self._lock:
            self._files.add(name)
            self._written += 1
            due = self._written % _PRUNE_EVERY == 0
        if due:
            self._prune()

    def _prune(self) -> None:
        """Delete what was written longest ago, down to three quarters of the share, when there is more than that."""
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
