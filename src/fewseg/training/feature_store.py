"""Storage of cached backbone maps: in memory, or in files that later runs and other processes use too."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint, InvalidOption, one_line
from fewseg.core.files import make_folder
from fewseg.core.tensor_files import read_tensors, write_tensors
from fewseg.models.backbones import FeaturePyramid

_FORMAT: Final = "fewseg.maps.1"
"""Part of the hash that names a file: a change to how images or views are made needs another."""


@dataclass(frozen=True)
class CachedView:
    """Backbone maps of one view of an image."""

    maps: tuple[Tensor, ...]
    """Every block's map (C, h, w)."""
    mask: Tensor | None
    """(s, s), uint8, of an augmented view; None for the plain one, which has a mask for every class."""


class FeatureStore(Protocol):
    """Stores views by key."""

    shared: bool
    """Whether views that one process stores can be read by the others."""

    def __contains__(self, key: Hashable) -> bool: ...

    def put(self, key: Hashable, view: CachedView) -> None:
        """Store a view."""

    def get(self, key: Hashable) -> CachedView:
        """A view that was stored."""


class MemoryStore:
    """Stores views in this process's memory."""

    shared = False

    def __init__(self) -> None:
        self._views: dict[Hashable, CachedView] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._views

    def put(self, key: Hashable, view: CachedView) -> None:
        """See `FeatureStore`."""
        self._views[key] = view

    def get(self, key: Hashable) -> CachedView:
        """See `FeatureStore`."""
        return self._views[key]


class FolderStore:
    """A file for every view, written atomically, its checksum compared when it is read first, and mapped into memory.

    A file's name is a hash of everything its content depends on: `about`, the view and the pixels of its image. So a
    changed image, backbone or setting finds no file instead of a wrong one, runs with other classes or folds share
    files, and files no longer used can be deleted.

    Args:
        folder: made where missing.
        about: describes what all views depend on.
        content: describes what a key's view depends on; called once for a key.
    """

    shared = True

    def __init__(self, folder: str | os.PathLike[str], about: str, content: Callable[[Hashable], str]) -> None:
        self.folder = make_folder(Path(folder) / _digest(_FORMAT, about)[:16])
        self._content = content
        self._paths: dict[Hashable, Path] = {}
        self._checked: set[Path] = set()

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is a readable file; one that was cut short is not."""
        try:
            with safe_open(self._path(key), "pt"):  # fails where the file is shorter than its head says
                return True
        except (SafetensorError, OSError):
            return False

    def put(self, key: Hashable, view: CachedView) -> None:
        """See `FeatureStore`; raises `OutputError`."""
        tensors = {f"map.{number:03}": block.contiguous() for number, block in enumerate(view.maps)}
        if view.mask is not None:
            tensors["mask"] = view.mask.contiguous()
        make_folder(self._path(key).parent)
        write_tensors(self._path(key), tensors, {})

    def get(self, key: Hashable) -> CachedView:
        """See `FeatureStore`; raises `InvalidOption` where the file was removed, or is damaged, and removes it then."""
        path = self._path(key)
        try:
            tensors = self._read_again(path) if path in self._checked else read_tensors(path)[0]
        except (SafetensorError, OSError, InvalidCheckpoint) as error:
            with suppress(OSError):
                path.unlink()
            raise InvalidOption(
                f"cannot read cached maps {path} ({one_line(error)}): run again, and missing files are computed anew"
            ) from error
        self._checked.add(path)
        mask = tensors.pop("mask", None)
        return CachedView(tuple(tensors[name] for name in sorted(tensors)), mask)

    @staticmethod
    def _read_again(path: Path) -> dict[str, Tensor]:
        """The tensors of a file whose checksum this process has compared, mapped into memory."""
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    def _path(self, key: Hashable) -> Path:
        if key not in self._paths:
            name = _digest(self._content(key))
            self._paths[key] = self.folder / name[:2] / f"{name[2:34]}.safetensors"
        return self._paths[key]


def describe_backbone(backbone: FeaturePyramid) -> str:
    """A hash of the architecture and of every weight."""
    digest = hashlib.sha256(json.dumps(backbone.spec.to_json(), sort_keys=True).encode())
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
