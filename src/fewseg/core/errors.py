"""Errors of one line each: the value given, the value expected, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FewsegError(Exception):
    """Base of every error that a person can mend; the command line exits with code 2."""


class InvalidImage(FewsegError):
    """An image cannot be read or used."""


class InvalidMask(FewsegError):
    """A mask cannot be read or does not fit its image."""


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


class FolderInUse(OutputError):
    """Another process writes the folder."""


class WorkerError(FewsegError):
    """Processes that share the work cannot be started or used."""


def unknown(kind: str, got: str, known: Iterable[str]) -> InvalidOption:
    """An `InvalidOption` that suggests the nearest known names.

    >>> str(unknown("method", "dcma", ["dcama", "sccan"]))
    "unknown method 'dcma'; did you mean 'dcama'?"
    """
    names = sorted(set(known))
    every = "known: " + ", ".join(names) if len(names) <= 20 else f"none of the {len(names)} known names is close"
    hint = did_you_mean(got, names) or every
    return InvalidOption(f"unknown {kind} {got!r}; {hint}")


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """A question that names the nearest known names; empty where none is near.

    >>> did_you_mean("rod", ["red", "rod 2", "blue"])
    "did you mean 'rod 2' or 'red'?"
    """
    near = difflib.get_close_matches(str(got), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def one_line(reason: BaseException) -> str:
    """The exception's message on one line, its type's name where it has none."""
    return sayable(" ".join(str(reason).split())) or type(reason).__name__


def sayable(text: str) -> str:
    """The text with half characters, which JSON may hold and no file or terminal takes, written as \\udXXX."""
    return text.encode("utf-8", "backslashreplace").decode()
