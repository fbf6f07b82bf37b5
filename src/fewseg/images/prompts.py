"""Prompts: boxes, points and scribbles that stand for an object where nobody painted its mask.

Beside an image `name.jpg` in a support folder they are in `name.weak.json`, one of

    {"box": [40, 25, 210, 180]}
    {"points": [[120, 90, 1], [20, 30, 0]]}
    {"scribble": [[80, 60], [120, 90], [160, 95]]}

or a list of such objects, one for every object of the label. Coordinates are pixels x, y of the upright image, from
its left upper corner; a point's third number is 1 inside and 0 outside; a scribble is a line inside, or a list of them.
`fewseg.inference.interactive` makes masks of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewseg.core.bounds import bounded
from fewseg.core.errors import InvalidSupport

Place: TypeAlias = tuple[float, float]
"""x, y in pixels of the upright image, from its left upper corner."""
Point: TypeAlias = tuple[float, float, int]
"""A place, and 1 where it is inside or 0 where it is outside."""
Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1."""

ENDING: Final = ".weak.json"
"""What stands behind an image's name in the name of its file of prompts."""

_MOST: Final = 500
"""Greatest number of objects that a file of prompts marks; each takes time."""
_KINDS: Final = "box [x0, y0, x1, y1], points [[x, y, 1 inside or 0 outside], ...] or scribble [[x, y], ...]"


@dataclass(frozen=True)
class Prompt:
    """A prompt for one object: a box around it, points or a scribble on it; exactly one of the three."""

    box: Box | None = None
    points: tuple[Point, ...] = ()
    scribble: tuple[tuple[Place, ...], ...] = ()
    """Lines inside the object."""

    @classmethod
    def of(cls, *, box: Any = None, points: Any = None, scribble: Any = None) -> Prompt:
        """From what a person or a JSON file gives; raises `InvalidSupport` for anything that cannot be meant.

        >>> Prompt.of(box=[3, 4, 20, 30])
        Prompt(box=(3.0, 4.0, 20.0, 30.0), points=(), scribble=())
        """
        given = [name for name, v in (("box", box), ("points", points), ("scribble", scribble)) if v is not None]
        if len(given) != 1:
            raise InvalidSupport(f"{' and '.join(given) or 'nothing'} given: give exactly one of {_KINDS}")
        if box is not None:
            x0, y0, x1, y1 = _numbers(box, 4, "box", "x0, y0, x1, y1")
            if not (x0 < x1 and y0 < y1):
                raise InvalidSupport(f"box {x0:g}, {y0:g}, {x1:g}, {y1:g} is empty: give x0 < x1 and y0 < y1")
            return cls(box=(x0, y0, x1, y1))
        if points is not None:
            marked = [_numbers(p, 3, "point", "x, y, and 1 inside or 0 outside") for p in _items(points, "points")]
            if any(kind not in (0, 1) for _, _, kind in marked):
                raise InvalidSupport("a point's third number is 1 where it is inside and 0 where it is outside")
            if not any(kind for _, _, kind in marked):
                raise InvalidSupport("no point is inside: give at least one as x, y, 1")
            return cls(points=tuple((x, y, int(kind)) for x, y, kind in marked))
        lines = _items(scribble, "scribble")
        if not _deep(lines[0]):
            lines = [lines]
        drawn = [[_numbers(p, 2, "place of a scribble", "x, y") for p in _items(line, "line")] for line in lines]
        return cls(scribble=tuple(tuple((x, y) for x, y in line) for line in drawn))

    def as_json(self) -> dict[str, Any]:
        """The object that `parse_prompts` reads this prompt from.

        >>> Prompt.of(scribble=[[8, 6], [12, 9]]).as_json()
        {'scribble': (((8.0, 6.0), (12.0, 9.0)),)}
        """
        return {kind: drawn for kind, drawn in vars(self).items() if drawn}

    @property
    def places(self) -> int:
        """How many places its points and lines have."""
        return len(self.points) + sum(map(len, self.scribble))

    def check_within(self, size: tuple[int, int]) -> None:
        """Raise `InvalidSupport` where a point or a line leaves an image of `size` (width, height)."""
        places = [(x, y) for x, y, _ in self.points] + [place for line in self.scribble for place in line]
        for x, y in places:
            if not (0 <= x <= size[0] and 0 <= y <= size[1]):
                raise InvalidSupport(
                    f"place {x:g}, {y:g} lies outside the image of {size[0]}x{size[1]}: give pixels x, y of the "
                    "upright image"
                )


def _items(value: Any, what: str) -> list[Any]:
    try:
        items = [] if isinstance(value, (str, bytes, dict)) else list(value)
    except TypeError:
        items = []
    if not items:
        raise InvalidSupport(f"{what} {value!r:.60}: give a list, e.g. {_KINDS}")
    return items


def _deep(value: Any) -> bool:
    """Whether an item of a scribble is a line, not a place."""
    try:
        return not isinstance(value, str) and not isinstance(next(iter(value)), (int, float, np.number))
    except (TypeError, StopIteration):
        return False


def _numbers(value: Any, count: int, what: str, meaning: str) -> tuple[float, ...]:
    try:
        numbers = () if isinstance(value, (str, bytes)) else tuple(float(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InvalidSupport(f"{what} {value!r:.60}: give {count} finite numbers, {meaning}")
    return numbers


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSON file, as `parse_prompts` reads them; raises `InvalidSupport` for anything else."""
    try:
        prompts = parse_prompts(bounded(path).read_bytes(), str(path))
    except OSError as error:
        raise InvalidSupport(f"{path} cannot be read ({error}): check the file") from error
    if len(prompts) > _MOST:
        raise InvalidSupport(f"{path} marks {len(prompts)} objects, at most {_MOST}: paint a mask instead")
    return prompts


def parse_prompts(text: str | bytes, name: str) -> tuple[Prompt, ...]:
    """The prompts of a JSON text: one object with `box`, `points` or `scribble`, or a list of them, one an object.

    Raises `InvalidSupport`, which calls the text `name`, for anything else.

    >>> parse_prompts('{"points": [[3, 4, 1]]}', "prompts")
    (Prompt(box=None, points=((3.0, 4.0, 1),), scribble=()),)
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSupport(f"{name} cannot be read as JSON ({error}): write an object with {_KINDS}") from error
    entries = content if isinstance(content, list) else [content]
    prompts = []
    for entry in entries:
        if not isinstance(entry, dict) or not entry or not set(entry) <= {"box", "points", "scribble"}:
            raise InvalidSupport(f"{name} holds {entry!r:.60}: expected an object with {_KINDS}")
        try:
            prompts.append(Prompt.of(**entry))
        except InvalidSupport as error:
            raise InvalidSupport(f"{name}: {error}") from None
    if not prompts:
        raise InvalidSupport(f"{name} holds no prompts: give an object with {_KINDS}")
    return tuple(prompts)


def require_foreground(mask: NDArray[np.bool_], whose: str) -> None:
    """Raise `InvalidSupport` where the prompts of `whose` became an empty mask, which nothing can be learnt from."""
    if not mask.any():
        raise InvalidSupport(f"the prompts of {whose} outline nothing: draw a larger box, or a point inside")
