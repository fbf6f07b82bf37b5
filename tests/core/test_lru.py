"""The cache bounded by bytes."""

from __future__ import annotations

from fewseg.core.lru import LRUCache


def test_the_least_recently_used_values_go_first() -> None:
    cache: LRUCache[str, str] = LRUCache(100)
    cache.put("a", "A", 40)
    cache.put("b", "B", 40)
    assert cache.get("a") == "A"
    cache.put("c", "C", 40)
    assert [cache.get(key) for key in "abc"] == ["A", None, "C"]
    assert cache.bytes == 80


def test_the_bytes_stay_within_the_limit() -> None:
    cache: LRUCache[int, bytes] = LRUCache(1000)
    for i in range(50):
        cache.put(i % 7, bytes(90 + i), 90 + i)
        assert cache.bytes <= 1000
    assert cache.get(0) is not None
    before = len(cache)
    cache.put(8, bytes(2000), 2000)
    assert cache.get(8) is None
    assert len(cache) == before
