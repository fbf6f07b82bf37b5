"""The numbers of a run as JSON: written after every measurement, so that a run that was stopped goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder, write_text

FORMAT: Final = "fewseg.bench.1"

FILE: Final = "results.json"

Row: TypeAlias = dict[str, Any]
"""JSON values of one measurement."""


@dataclass
class Results:
    """Rows of every part, by the case that they belong to."""

    about: dict[str, Any]
    """The machine, versions, and the settings that all rows share."""
    parts: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    """Part to case to rows."""
    folder: Path | None = None
    """Where `results.json` goes after every case; nowhere if not given."""

    def has(self, part: str, case: str) -> bool:
        """Whether that was measured already."""
        return case in self.parts.get(part, {})

    def of(self, part: str, case: str) -> list[Row]:
        """What was measured for it."""
        return self.parts[part][case]

    def put(self, part: str, case: str, rows: list[Row]) -> None:
        """Keep, and write where there is a folder."""
        self.parts.setdefault(part, {})[case] = rows
        if self.folder is not None:
            self.write(self.folder / FILE)

    def rows(self, part: str) -> list[Row]:
        """All rows of a part, in the order in which they were measured."""
        return [row for rows in self.parts.get(part, {}).values() for row in rows]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"format": FORMAT, "about": self.about, "parts": self.parts}

    def write(self, path: Path) -> None:
        """As JSON, atomically; raises `OutputError`."""
        write_text(path, json.dumps(_finite(self.to_json()), indent=1) + "\n")

    @classmethod
    def from_json(cls, values: Any, source: str = "the file") -> Results:
        """Raises `InvalidOption` for what is no result of `fewseg bench`."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InvalidOption(f"{source} holds no results of fewseg bench ({FORMAT}): give its results.json")
        about: Any = values.get("about")
        parts: Any = values.get("parts")
        if not isinstance(about, dict) or not _are_rows(parts):
            raise InvalidOption(f"{source} is damaged: remove it to measure again")
        return cls(about, parts)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises `InvalidOption` where it cannot be read."""
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")), str(path))
        except (OSError, ValueError) as error:
            raise InvalidOption(f"{path} cannot be read: {error}; give the results.json of fewseg bench") from error


def open_results(
    folder: Path | None, about: dict[str, Any], *, overwrite: bool, parts: Collection[str] | None = None
) -> Results:
    """New results, or those in the folder to go on with; to overwrite is to go on without `parts`, all if not given.

    Raises `InvalidOption` where those were measured otherwise or elsewhere: numbers would not compare.
    """
    if folder is None:
        return Results(about)
    path = make_folder(folder) / FILE
    if not path.exists() or (overwrite and parts is None):
        return Results(about, folder=folder)
    found = Results.read(path)
    if overwrite:
        found.parts = {part: rows for part, rows in found.parts.items() if part not in (parts or ())}
        if not found.parts:
            return Results(about, folder=folder)
    remedy = f"overwrite {', '.join(found.parts)} too" if overwrite else "--overwrite"
    for key, value in about.items():
        if key not in _MAY_CHANGE and found.about.get(key) != value:
            raise InvalidOption(
                f"{path} was measured with {key} {found.about.get(key)!r}, not {value!r}: "
                f"give another folder, or {remedy}"
            )
    found.folder = folder
    return found


_MAY_CHANGE: Final = {"load", "date", "memory_gib"}
"""What may differ between a run and its continuation."""


def _are_rows(parts: Any) -> bool:
    """Whether that is parts, in them cases, and in those rows."""
    if not isinstance(parts, dict) or not all(isinstance(cases, dict) for cases in parts.values()):
        return False
    found = [rows for cases in parts.values() for rows in cases.values()]
    return all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in found)


def _finite(value: Any) -> Any:
    """JSON has no infinities: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
