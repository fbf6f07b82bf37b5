"""What earlier runs left in an output folder: the entries of its results.json, and of the journal of a stopped run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeAlias

from fewseg.core.errors import OutputError

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, Any]
"""An image's entry in results.json."""

FORMAT: Final = "fewseg.results.v1"
RESULTS: Final = "results.json"
JOURNAL: Final = "journal.jsonl"
FOLDERS: Final = ("labels", "masks", "objects", "overlays")
"""Folders within the output folder."""
EARLIER: Final = "earlier"
"""Folder for files in them that results.json does not list any more."""


def files_of(record: Record) -> list[str]:
    """The files of masks that an entry names: label map, masks and instance maps."""
    of_labels = [label[key] for label in record["labels"].values() for key in ("mask", "instances") if key in label]
    return [record["label_map"], *of_labels]


def earlier_records(root: Path) -> Iterator[Record]:
    """Entries of results.json, then those of the journal, which are newer.

    Raises `OutputError` for a folder that belongs to something else.
    """
    results, journal = root / RESULTS, root / JOURNAL
    ours = journal.exists()
    if results.exists():
        ours = True
        yield from _whole(_listed(results), results)
    if not ours:
        foreign = [name for name in FOLDERS if (root / name).is_dir() and any((root / name).iterdir())]
        if foreign:
            raise OutputError(f"{root / foreign[0]} holds files that are not ours: choose another output folder")
    if journal.exists():
        yield from _whole(_journalled(journal), journal)


def _listed(results: Path) -> list[Any]:
    """The entries of results.json; none if it is ours and damaged. Raises `OutputError` if it is not ours."""
    foreign = OutputError(f"{results} is not one of ours: choose another output folder")
    try:
        text = results.read_text("utf-8", errors="replace")
    except OSError:
        raise foreign from None
    try:
        content = json.loads(text)
    except ValueError:
        if FORMAT not in text[:100]:
            raise foreign from None
        log.warning("%s is damaged: starting anew", results)
        return []
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise foreign
    listed = content.get("pictures")
    if not isinstance(listed, list):
        log.warning("%s lists no images: starting anew", results)
        return []
    return listed


def _journalled(journal: Path) -> Iterator[Any]:
    try:
        lines = journal.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise OutputError(f"cannot read {journal}: {error.strerror or error}; choose another folder") from error
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # an empty line, or the last one of a run that was killed
            continue


def _whole(entries: Iterable[Any], file: Path) -> Iterator[Record]:
    """The entries that have all that is looked at here; the images of others are done again."""
    kinds = {"picture": str, "name": str, "made_by": str, "source": list, "label_map": str, "labels": dict}
    for entry in entries:
        known = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        if (
            known
            and isinstance(entry.get("overlay"), (str, NoneType))
            and all(
                isinstance(label, dict) and isinstance(label.get("mask"), str) for label in entry["labels"].values()
            )
        ):
            yield entry
        else:
            log.warning("%s has a damaged entry, which is left out: %.80r", file, entry)
