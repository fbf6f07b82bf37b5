"""Episodes of the papers' code: recorded ones, and what each way of drawing promises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.types import Episode
from fewseg.data.episodes.draw_published import draw_coco, draw_fss, draw_pascal, draw_walk, pools_of

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "episodes.json").read_text("utf-8"))
PAIRS = [(line[:-4], int(line[-2:]) - 1) for line in GOLDEN["pascal_pool"]]


def _plain(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    return [{"query": e.query, "support": list(e.support), "class_id": e.class_id} for e in episodes]


@pytest.mark.parametrize("shots", [1, 5])
def test_pascal_as_recorded(shots: int) -> None:
    drawn = _plain(draw_pascal(PAIRS, shots, 75))
    assert drawn[:10] + drawn[70:] == GOLDEN[f"pascal_{shots}shot"]


@pytest.mark.parametrize("shots", [1, 5])
def test_coco_as_recorded(shots: int) -> None:
    pools = {int(class_id): names for class_id, names in GOLDEN["coco_pool"].items()}
    assert _plain(draw_coco(pools, shots, 20)) == GOLDEN[f"coco_{shots}shot"]


@pytest.mark.parametrize("shots", [1, 5])
def test_fss_as_recorded(shots: int) -> None:
    pools = pools_of([(name, name.startswith("beta")) for name in reversed(GOLDEN["fss_pool"])])
    drawn = draw_fss(dict(sorted(pools.items())), shots)
    assert [{"query": e.query, "support": list(e.support)} for e in drawn] == GOLDEN[f"fss_{shots}shot"]
    assert draw_fss(dict(sorted(pools.items())), shots, 7) == drawn[:7]


def test_walk() -> None:
    pairs = [*PAIRS, ("2007_000000", 0)]
    five, one = draw_walk(pairs, 5, 130, 3), draw_walk(pairs, 1, 130, 3)
    assert [e.query for e in five[:60]] == [name for name, _ in PAIRS], "images, not pairs"
    assert {e.class_id for e in five if e.query == "2007_000000"} == {0, 3}
    pools = pools_of(pairs)
    for many, few in zip(five, one, strict=True):
        assert (few.query, few.class_id, few.support) == (many.query, many.class_id, many.support[:1])
        assert len({many.query, *many.support}) == 6
        assert set(many.support) <= set(pools[many.class_id])
    assert five == draw_walk(pairs, 5, 130, 3)
    assert five != draw_walk(pairs, 5, 130, 4)


def test_classes_too_small() -> None:
    with pytest.raises(InvalidDataset, match="class 1 has 1 test images"):
        draw_pascal([("a", 0), ("b", 0), ("c", 1)], 1, 5)
    assert {e.class_id for e in draw_walk([("a", 0), ("b", 0), ("c", 1)], 1, 5)} == {0}
    with pytest.raises(InvalidDataset, match="no class to test has 3 images"):
        draw_walk([("a", 0), ("b", 0), ("c", 1)], 2, 5)
    with pytest.raises(InvalidOption, match="shots 0"):
        draw_coco({0: ["a", "b"]}, 0, 5)
