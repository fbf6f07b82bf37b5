"""A cache bounded by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """The most recently used values, at most `limit` bytes of them; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recently used one; None where it is not in the cache."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of `size` bytes, and evict the least recently used ones; one over the limit is not kept."""
        with self._lock:
            self.bytes -= self._entries.pop(key, (None, 0))[1]
            if size > self.limit:
                return
            self._entries[key] = value, size
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= self._entries.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._entries)
