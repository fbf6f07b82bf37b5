"""Clusters of query tokens that are found when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fewseg.core.types import QueryFeatures


class LazyClusters:
    """Labels by query features; they are kept for as long as the features' tokens are.

    Which clusters a query needs depends on the support (with or without the positional part), and each costs as much as
    all else. Neither saved nor copied with the method.
    """

    def __init__(self) -> None:
        self._found = WeakTensorKeyDictionary()

    def get(self, query: QueryFeatures, key: tuple[Any, ...], find: Callable[[], Tensor]) -> Tensor:
        """The labels that `find` gives, which `key` tells from others of the same features."""
        found: dict[tuple[Any, ...], Tensor] = self._found.setdefault(query.tensors["tokens"], {})
        if key not in found:
            found[key] = find()
        return found[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyClusters:
        return LazyClusters()

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyClusters, ()
