"""Errors that say what they got, what they expected and what to do; the command line prints them as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FewsegError(Exception):
    """Base of every error that a person can mend; the command line exits with code 2."""


class InvalidImage(FewsegError):
    """A picture cannot be read or used."""


class InvalidMask(FewsegError):
    """A mask cannot be read or does not fit its picture."""


class InvalidSupport(FewsegError):
    """A support folder, label or support set cannot be used."""


class InvalidDataset(FewsegError):
    """A dataset folder, class list or episode list cannot be used."""


class InvalidCheckpoint(FewsegError):
    """A checkpoint cannot be read or does not fit the method."""


class InvalidOption(FewsegError):
    """An option has an unknown or impossible value."""


class OutputError(FewsegError):
    """A result cannot be written."""


def unknown(kind: str, got: str, known: Iterable[str]) -> InvalidOption:
    """An `InvalidOption` that suggests the nearest known names.

    >>> str(unknown("method", "dcma", ["dcama", "sccan"]))
    "unknown method 'dcma'; did you mean 'dcama'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif len(names) <= 20:
        hint = "known: " + ", ".join(names)
    else:
        hint = f"none of the {len(names)} known names is close"
    return InvalidOption(f"unknown {kind} {got!r}; {hint}")
