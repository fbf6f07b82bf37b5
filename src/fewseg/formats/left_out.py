"""What is left out while examples are read: said in the log, or an error."""

from __future__ import annotations

import logging
from typing import Final

from fewseg.core.errors import FewsegError, InvalidSupport, sayable

log = logging.getLogger(__name__)

_NAMED: Final = 20
"""So many entries that cannot be used are named one by one."""


class LeftOut:
    """The entries of annotation files that are not taught.

    Entries that cannot be used (damaged, without area, of an image that is missing) are named one by one, and are an
    error with `strict`. Entries that are no masks (points, lines, cancelled annotations) are counted by kind.
    """

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._bad: dict[str, FewsegError] = {}
        self._kinds: dict[str, list[str]] = {}
        self._notes: set[str] = set()

    @property
    def any(self) -> bool:
        """Whether an entry could not be used."""
        return bool(self._bad)

    def nothing(self, otherwise: str) -> FewsegError:
        """The error to raise where nothing is left: about the first entry that could not be used, if there is one."""
        return next(iter(self._bad.values()), InvalidSupport(otherwise))

    def bad(self, reason: FewsegError | str) -> None:
        """Leave out the entry that the line, or error, names; raises it when that is not wanted."""
        error, line = reason if isinstance(reason, FewsegError) else InvalidSupport(reason), str(reason)
        if self._strict:
            raise error
        if line not in self._bad:
            self._bad[line] = error
            if len(self._bad) <= _NAMED:
                log.warning("left out: %s", sayable(line))

    def kind(self, what: str, where: str) -> None:
        """Count an entry that is no mask, such as `lines`; `say` tells how many."""
        self._kinds.setdefault(what, []).append(where)

    def note(self, line: str, *, once: str = "") -> None:
        """Say how something was read that could be read in another way: each line, or each `once`, a single time."""
        if (once or line) not in self._notes:
            self._notes.add(once or line)
            log.warning("%s", sayable(line))

    def say(self) -> None:
        """Say what was counted."""
        for what, places in self._kinds.items():
            log.warning("left out: %s (%d); the first is %s", what, len(places), sayable(places[0]))
        self._kinds.clear()
        if (more := len(self._bad) - _NAMED) > 0:
            log.warning("left out: %d more entries that cannot be used; --strict ends at the first", more)
