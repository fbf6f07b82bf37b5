"""Finds annotation files that were edited by hand, which an export must not overwrite."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from fewseg.core.errors import OutputError
from fewseg.core.files import write_text

log = logging.getLogger(__name__)

COCO_MARK: Final = "Masks by fewseg"
YOLO_MARK: Final = "# Images and masks by fewseg"
"""Text near the beginning of the files about all images that fewseg wrote."""

_WHOLE: Final = {
    "coco": ("coco.json", COCO_MARK),
    "coco-rle": ("coco_rle.json", COCO_MARK),
    "yolo": ("yolo/data.yaml", YOLO_MARK),
}
_KEY: Final = "fewseg"
"""Key of a digest of the shapes that were written. labelme keeps keys that it does not know."""


def check_folder(out: Path, formats: Sequence[str]) -> None:
    """Raise `OutputError` where one of the formats' files about all images is there and was not written by fewseg."""
    for name in formats:
        if name in _WHOLE:
            file, mark = _WHOLE[name]
            _require_ours(out / file, mark)


def _require_ours(path: Path, mark: str) -> None:
    try:
        with path.open("rb") as file:
            if mark.encode() in file.read(400):
                return
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}; choose another folder") from error
    raise OutputError(f"{path} was not written by fewseg: choose another output folder, or move it away")


def write_correctable(
    path: Path, content: dict[str, Any], drawn: Callable[[dict[str, Any]], Any], *, indent: int | None = None
) -> int:
    """Write a JSON file of annotations unless it was corrected by hand; gives the number of files written.

    `drawn` picks from its content what a correction changes. Raises `OutputError`.
    """
    if _is_corrected(path, drawn):
        log.warning("%s was changed by hand and stays: delete it to have it made anew", path)
        return 0
    write_text(path, json.dumps({**content, _KEY: _digest(drawn(content))}, indent=indent) + "\n")
    return 1


def _is_corrected(path: Path, drawn: Callable[[dict[str, Any]], Any]) -> bool:
    """Whether the file exists and its shapes are not those that were written."""
    try:
        content = json.loads(path.read_bytes())
        return bool(content[_KEY] != _digest(drawn(content)))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True


def _digest(drawn: Any) -> str:
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16]
