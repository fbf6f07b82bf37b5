"""Names in files that earlier versions wrote: methods, fields of configs, keys of weights.

One table, read in both directions. Files are upgraded when they are read (`upgraded`, `upgraded_state`,
`upgraded_words`). Fingerprints and support keys hash the names of the first version (`first_identity`, `first_key`), so
that renaming something changes none: taught supports and cached results stay valid.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fewseg.core.errors import InvalidOption

_LIGHT_FIELDS: Final[dict[str, Any]] = {
    "decoder": "light",
    "balance": True,
    "skip_support": True,
    "use_background": True,
}
"""Fields that DCAMA's config had when the light decoder was an option of it, as light checkpoints have them."""

_PAPER_FIELDS: Final[dict[str, Any]] = {"decoder": "published", "looks": 1, "follow_edges": False}
"""Likewise the fields that only the light decoder needed, as checkpoints of the paper's DCAMA have them."""

_PAPER_DEFAULTS: Final[dict[str, Any]] = {
    "attention_scales": (8, 16, 32),
    "heads": 8,
    "dropout": 0.5,
    "attention": "dot",
    "identity_start": False,
    "position_weight": 1.0,
    "boundary_refinement": False,
}
"""What the light decoder's other fields were, unless given: the paper's defaults, not those of dcama_light."""

_FIELDS: Final = {"balance": "class_balanced", "follow_edges": "boundary_refinement"}
"""Old to new names. `looks` counted the first pass too: `refinement_steps` is one less."""

_ADDED_FIELDS: Final[dict[str, dict[str, Any]]] = {"hsnet": {"support_masking": True}}
"""Fields that configs did not have at first, with what holds where they are not there."""

_LIGHT_KEYS: Final = (
    ("decoder.leniency", "calibration.logit_offset"),
    ("decoder.sureness", "calibration.temperature"),
    ("decoder.usual", "calibration.base_prototype"),
    ("decoder.look.seen.", "decoder.refinement.inputs."),
    ("decoder.look.", "decoder.refinement."),
    ("decoder.evidence.", "decoder.inputs."),
)
"""Old to new beginnings of the names of dcama_light's weights; the first that fits counts."""


def upgraded(method: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Method and config as they are called now. Raises `ValueError` for a choice that there is no more."""
    if method != "dcama" or not config.keys() & {"decoder", "looks", "follow_edges", "balance"}:
        return method, dict(config)
    if config.get("decoder", "published") != "light":
        return method, {_FIELDS.get(k, k): v for k, v in config.items() if k not in _PAPER_FIELDS}
    if not config.get("use_background", True):
        raise ValueError("the light decoder has no use_background=False any more")
    values = {_FIELDS.get(k, k): v for k, v in config.items() if k not in {*_LIGHT_FIELDS, "looks"}}
    return "dcama_light", {**_PAPER_DEFAULTS, **values, "refinement_steps": config.get("looks", 1) - 1}


def upgraded_state(method: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of the method, named as now, by the names that they are called now."""
    return {_renamed(method, key, _LIGHT_KEYS): value for key, value in state.items()}


def upgraded_words(method: str, words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """`upgraded` for a config written as words KEY=VALUE."""
    given = parsed_words(words)
    name, config = upgraded(method, given)
    if config == given:
        return name, tuple(words)
    return name, tuple(f"{key}={value}" for key, value in config.items())


def parsed_words(words: Iterable[str]) -> dict[str, Any]:
    """Words KEY=VALUE as a mapping; a VALUE that is no Python literal is a string."""
    pairs = (word.partition("=") for word in words)
    return {key: literal(text) for key, _, text in pairs}


def literal(text: str) -> Any:
    """The Python value that a text writes, a list as a tuple; the text itself where it writes none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return tuple(value) if isinstance(value, list) else value


def first_identity(method: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method and its complete config as the first version called them."""
    old = {new: old for old, new in _FIELDS.items()}
    if method == "dcama_light":
        values = {old.get(k, k): v for k, v in config.items() if k != "refinement_steps"}
        return "dcama", {**values, **_LIGHT_FIELDS, "looks": config["refinement_steps"] + 1}
    if method == "dcama":
        return method, {**{old.get(k, k): v for k, v in config.items()}, **_PAPER_FIELDS}
    added = _ADDED_FIELDS.get(method, {}).items()
    return method, {k: v for k, v in config.items() if (k, v) not in added}


def first_key(method: str, key: str) -> str:
    """The name of a weight as the first version called it."""
    return _renamed(method, key, [(new, old) for old, new in _LIGHT_KEYS])


def _renamed(method: str, key: str, table: Iterable[tuple[str, str]]) -> str:
    for before, after in table if method == "dcama_light" else ():
        if key.startswith(before):
            return after + key.removeprefix(before)
    return key


def refuse_old_options(method: str, options: Iterable[str]) -> None:
    """Raise `InvalidOption` for options of a method that have another name now, or belong to another method."""
    old = set(options) if method == "dcama" else set()
    if old & _PAPER_FIELDS.keys():
        raise InvalidOption(
            "dcama has the paper's decoder alone: for the light one use method dcama_light (without decoder and "
            "balance; looks=3 is refinement_steps=2, follow_edges is boundary_refinement)"
        )
    if "balance" in old:
        raise InvalidOption("option balance of dcama is called class_balanced now: give class_balanced=True")
