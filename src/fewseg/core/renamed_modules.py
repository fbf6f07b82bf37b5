"""Names that modules had in version 0.1, which can be imported until the next version, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

RENAMED: Final = {
    "fewseg.backbones": "fewseg.models.backbones",
    "fewseg.checkpoints": "fewseg.models.checkpoints",
    "fewseg.datasets": "fewseg.data.datasets",
    "fewseg.devices": "fewseg.core.devices",
    "fewseg.episodes": "fewseg.data.episodes",
    "fewseg.methods": "fewseg.models.methods",
    "fewseg.segmenter": "fewseg.inference.segmenter",
    "fewseg.types": "fewseg.core.types",
}
"""Packages and modules by their old names; what is in a package kept its name within it."""


class _Renamed(MetaPathFinder, Loader):
    """Finds modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if _new_name(fullname) is None else ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = _new_name(module.__name__)
        assert new is not None
        warnings.warn(f"{module.__name__} is now {new}; the old name ends with the next version", DeprecationWarning, 2)
        content = vars(importlib.import_module(new))
        module.__dict__.update({name: value for name, value in content.items() if name not in _OWN})


_OWN: Final = frozenset({"__name__", "__spec__", "__loader__", "__package__", "__path__", "__file__", "__cached__"})
"""What a module keeps of its own; `__getattr__`, which imports public names when they are used, is not among it."""


def _new_name(name: str) -> str | None:
    """The name of a renamed module today."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None


def find_renamed_modules() -> None:
    """From now on, old names can be imported."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())
