"""Hook of mkdocs: every option of every command, in tables, on the page of the command line.

A line `<!-- options: segment -->` becomes what `fewseg segment --help` says.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from fewseg.cli.entry import COMMANDS
from fewseg.cli.help import OWN, panel_titles, shown_default
from fewseg.cli.parser import options_of
from fewseg.cli.renamed_options import RENAMED_OPTIONS, RENAMED_UNLESS_NUMBER

PAGE = "command-line.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its tables; others as they are."""
    if page.file.src_uri != PAGE:
        return markdown
    markdown = re.sub(r"^<!-- options: (\w+) -->$", lambda found: section(found[1]), markdown, flags=re.MULTILINE)
    return markdown.replace("<!-- renamed options -->", renamed())


def section(command: str) -> str:
    """What a command is for, and a table of its options for each panel of its help."""
    kind = options(command)
    titles = panel_titles(kind)
    rows = dict(table(kind))
    parts = [inspect.getdoc(kind) or ""]
    for title in dict.fromkeys(titles.values()):
        head = [] if title == OWN else [f"**{title}**", ""]
        own = [rows[option] for option, of in titles.items() if of == title]
        parts.append("\n".join([*head, "| option | default | what it does |", "|---|---|---|", *own]))
    return "\n\n".join(parts)


def renamed() -> str:
    """A table of the options' old spellings."""
    rows = [
        f"| {command} | `{old}` | `{new}` |"
        for command, names in RENAMED_OPTIONS.items()
        for old, new in (names | RENAMED_UNLESS_NUMBER.get(command, {})).items()
    ]
    return "\n".join(["| command | old | new |", "|---|---|---|", *rows])


def options(command: str) -> type[Any]:
    """The dataclass of a command's options."""
    if command not in COMMANDS:
        raise ValueError(f"{PAGE} names a command {command} that there is not")
    kind: type[Any] = importlib.import_module(f"fewseg.cli.{command}").Options
    return kind


def table(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Every option with its row: names, default and explanation."""
    for argument in options_of(kind):
        names = " ".join(f"<nobr>`{name}`</nobr>" for name in argument.names)
        about = " ".join((argument.parameter.help or "").split()).replace("|", "\\|")
        yield argument.name, f"| {names} | {default(argument)} | {about} |"


def default(argument: Any) -> str:
    """What stands if the option is not given."""
    if argument.required:
        return "**must be given**"
    value = argument.field_info.default
    if value in (None, (), dataclasses.MISSING):
        return ""
    text = shown_default(value)
    if isinstance(value, bool):
        return text
    return f"<nobr>`{text}`</nobr>" if len(text) < 30 else f"`{text}`"
