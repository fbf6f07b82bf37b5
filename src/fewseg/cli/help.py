"""How `--help` of a command looks: what must be given first, then its own options, then shared groups in panels."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel, InlineText

OWN: Final = "Options"
"""Title of the panel of a command's own options."""


class Panels(DefaultFormatter):
    """Prints the panels of the dataclass `kind`."""

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        if panel.format == "command":  # --help itself
            return
        titles = panel_titles(self.kind)
        order = list(titles)
        for title in dict.fromkeys([OWN, *titles.values()]):
            shown = [_shown(entry) for entry in panel.entries if titles[entry.positive_names[0]] == title]
            if shown:
                shown.sort(key=lambda e: (not e.positional_label, not e.required, order.index(e.positive_names[0])))
                super().__call__(console, options, panel.copy(title=title, entries=shown))


def _shown(entry: HelpEntry) -> HelpEntry:
    """The entry with its explanation in one paragraph, and without a default that says nothing."""
    about = " ".join(str(entry.description.primary_renderable).split())
    default = None if entry.default in ("None", "", "off") else entry.default
    return entry.copy(description=InlineText.from_format(about, "plaintext"), default=default)


def panel_titles(kind: type[Any], prefix: str = "--") -> dict[str, str]:
    """Option to the title of its panel, in the order of the help: own ones, those of base classes, nested ones."""
    hints = get_type_hints(kind, include_extras=True)
    own: dict[str, str] = {}
    inherited: dict[str, str] = {}
    nested: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        flat = get_origin(hint) is Annotated and dataclasses.is_dataclass(get_args(hint)[0])
        inner: Any = get_args(hint)[0] if flat else hint
        option = f"{prefix}{field.name.strip('_').replace('_', '-')}"
        base = _base(kind, field.name)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            nested |= dict.fromkeys(panel_titles(inner, prefix if flat else f"{option}."), summary(inner))
        elif base is None:
            own[option] = OWN
        else:
            inherited[option] = summary(base) if len(dataclasses.fields(base)) > 1 else OWN
    order = [summary(base) for base in kind.__bases__] + [OWN]
    return own | dict(sorted(inherited.items(), key=lambda item: order.index(item[1]))) | nested


def _base(kind: type[Any], name: str) -> type[Any] | None:
    """The base class that a field comes from."""
    for base in filter(dataclasses.is_dataclass, kind.__bases__):
        if any(field.name == name for field in dataclasses.fields(base)):
            return base
    return None


def summary(kind: type[Any]) -> str:
    """The first sentence of a docstring, without its full stop."""
    return reflowed(inspect.getdoc(kind) or kind.__name__).split("\n")[0].split(". ")[0].rstrip(".")


def reflowed(text: str) -> str:
    """Paragraphs of a line each: how wide they are is the terminal's business."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def shown_default(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
