"""Modules can be imported by the names they had in version 0.1."""

from __future__ import annotations

import importlib
import sys

import pytest

from fewseg.core.renamed_modules import RENAMED


@pytest.mark.parametrize("old", [*RENAMED, "fewseg.datasets.coco20i", "fewseg.methods.prototype"])
def test_old_names_give_what_the_new_ones_have(old: str) -> None:
    prefix = next(name for name in RENAMED if old == name or old.startswith(f"{name}."))
    new = importlib.import_module(RENAMED[prefix] + old.removeprefix(prefix))
    spec = new.__spec__
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match="is now"):
        found = importlib.import_module(old)
    public = [name for name in dir(new) if not name.startswith("_")]
    assert public or hasattr(new, "__path__")
    assert all(getattr(found, name) is getattr(new, name) for name in public)
    assert new.__spec__ is spec


def test_other_names_are_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fewseg.nothing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fewseg.methods.nothing")
