"""Hook of mkdocs: every option of every command, in a table each, on the page of the command line.

A line `<!-- options: segment -->` becomes what `fewseg segment --help` says.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any

import griffe

from fewseg.cli.entry import COMMANDS

PAGE = "command-line.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its tables; others as they are."""
    if page.file.src_uri != PAGE:
        return markdown
    return re.sub(r"^<!-- options: (\w+) -->$", lambda found: section(found[1]), markdown, flags=re.MULTILINE)


def section(command: str) -> str:
    """What a command is for, and a table of its options."""
    if command not in COMMANDS:
        raise ValueError(f"{PAGE} names a command {command} that there is not")
    kind = importlib.import_module(f"fewseg.cli.{command}").Options
    rows = [f"| {name} | {default} | {about} |" for name, default, about in options(kind)]
    return "\n".join([inspect.getdoc(kind) or "", "", "| option | default | what it does |", "|---|---|---|", *rows])


def options(kind: type[Any], prefix: str = "--") -> Iterator[tuple[str, str, str]]:
    """Name, default and explanation of every option of a dataclass and of those within it, as cells of a table."""
    hints = typing.get_type_hints(kind)
    explained = explanations(kind)
    for field in dataclasses.fields(kind):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options(typing.cast("type[Any]", hint), f"{prefix}{name}.")
        else:
            names = [f"{prefix}{name}", *([f"{prefix}no-{name}"] if hint is bool else [])]
            about = explained.get(field.name, "").replace("|", "\\|")
            yield " ".join(f"<nobr>`{n}`</nobr>" for n in names), default(field), about


def default(field: dataclasses.Field[Any]) -> str:
    """What stands if the option is not given."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return "**must be given**"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"<nobr>`{text}`</nobr>" if len(text) < 30 else f"`{text}`"


@functools.cache
def package() -> Any:
    """The sources, read once: classes do not keep their fields' docstrings."""
    return griffe.load("fewseg")


def explanations(kind: type[Any]) -> dict[str, str]:
    """The docstring of every field, those of base classes too, in one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        members = package()[f"{base.__module__}.{base.__qualname__}".partition(".")[2]].members
        found |= {name: " ".join(m.docstring.value.split()) for name, m in members.items() if m.docstring}
    return found
