"""Fields of a method's config, written as words: `heads=4 attention=cosine`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from fewseg.core.errors import InvalidOption
from fewseg.models.methods import METHODS, create_method
from fewseg.models.methods.saved_names import literal, parsed_words


def method_options(method: str, words: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments for `create_method` from words KEY=VALUE; a VALUE that is no Python literal is a string.

    Unknown keys are passed on: `create_method` says what is near them.

    Raises:
        InvalidOption: a word without `=`, a key twice, a value of another type than the field's default, or something
            that is no field but has an option of its own.

    >>> method_options("dcama", ["heads=4", "attention=cosine", "skip_scales=(8,)"])
    {'heads': 4, 'attention': 'cosine', 'skip_scales': (8,)}
    """
    taken = {*inspect.signature(create_method).parameters, "image_size"}
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise InvalidOption(f"method option {word!r}: write it KEY=VALUE, e.g. heads=4")
        if key in values or key in taken:
            why = (
                "is given twice" if key in values else f"is no option of {method}: use the command's own, if it has it"
            )
            raise InvalidOption(f"method option {key} {why}")
        values[key] = _checked(method, key, literal(text))
    return values


def complete_options(method: str, words: Sequence[str]) -> dict[str, Any]:
    """The config that words KEY=VALUE describe, defaults included: equal for words that mean the same."""
    kind = METHODS.get(method)
    return {**({f.name: f.default for f in dataclasses.fields(kind.Config)} if kind else {}), **parsed_words(words)}


def _checked(method: str, key: str, value: Any) -> Any:
    """The value, if it has the type of the field's default; an int does for a float, a number for None."""
    kind = METHODS.get(method)
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(kind.Config)} if kind else {}
    if key not in defaults:
        return value
    default = defaults[key]
    if isinstance(default, float) and type(value) is int:
        return float(value)
    alike = type(value) is type(default) or (default is None and type(value) in (int, float))
    if alike and isinstance(default, tuple) and default:
        alike = {type(v) for v in value} <= {type(default[0])}
    if not alike:
        wanted = "number" if default is None else type(default).__name__
        if isinstance(default, tuple) and default:
            wanted = f"tuple of {type(default[0]).__name__}"
        raise InvalidOption(
            f"method option {key} is {value!r}: give a value of type {wanted}; the default is {default}"
        )
    return value
