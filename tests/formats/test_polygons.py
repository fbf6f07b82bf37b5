"""Polygons of masks with many holes: exact, and joined by the shortest cuts."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from fewseg.formats import polygons
from fewseg.formats.polygons import MAX_CHANGE, one_ring, regions, signed_area
from fewseg.formats.rasterise import fill_polygons


def pierced(side: int, share: float) -> np.ndarray:
    """A full mask but for single pixels here and there."""
    return np.random.default_rng(0).random((side, side)) >= share


def filled(mask: np.ndarray, found: list[shapely.Polygon]) -> np.ndarray:
    return fill_polygons([one_ring(region) for region in found], (mask.shape[1], mask.shape[0]), "")


def test_very_many_holes_stay_exact() -> None:
    mask = pierced(400, 0.1)
    found = regions(mask, tolerance=1.0)  # without its holes cut smaller, which would change the region too much
    assert max(len(region.interiors) for region in found) > 12000
    assert sum(region.area for region in found) == mask.sum()
    np.testing.assert_array_equal(filled(mask, found), mask)


def test_a_grid_of_holes_stays_exact() -> None:
    mask = np.ones((121, 121), bool)
    mask[1:-1:2, 1:-1:2] = False  # all holes touch, and most cuts are as short as others
    found = regions(mask)
    assert len(found[0].interiors) == 3600
    np.testing.assert_array_equal(filled(mask, found), mask)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_what_is_not_tried_would_not_have_been_kept(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = pierced(100, share)
    found = regions(mask, tolerance=1.5)
    monkeypatch.setattr(polygons, "_MANY_HOLES", np.inf)
    tried = regions(mask, tolerance=1.5)
    assert [region.wkb for region in found] == [region.wkb for region in tried]


def test_too_much_work_leaves_the_exact_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = pierced(100, 0.005)
    mask &= np.add.outer(np.arange(100) ** 2, np.arange(100) ** 2) < 90**2
    exact, simple = regions(mask), regions(mask, tolerance=1.5)
    assert shapely.get_num_coordinates(simple).sum() < 0.9 * shapely.get_num_coordinates(exact).sum()
    whole = shapely.MultiPolygon(exact)
    assert whole.symmetric_difference(shapely.MultiPolygon(simple)).area <= MAX_CHANGE / (1 - MAX_CHANGE) * whole.area
    monkeypatch.setattr(polygons, "_MOST_WORK", 10)
    assert [region.wkb for region in regions(mask, tolerance=1.5)] == [region.wkb for region in exact]


@pytest.mark.parametrize("tolerance", [0.0, 2.0])
def test_every_cut_is_the_shortest(tolerance: float) -> None:
    mask = pierced(40, 0.05)
    mask[3:9, 4:20] = mask[20:31, 11:15] = False
    (region,) = [found for found in regions(mask, tolerance=tolerance) if found.area > 1]
    rings = [np.asarray(ring.coords)[:-1] for ring in (region.exterior, *region.interiors)]
    rings[1:] = sorted(rings[1:], key=lambda ring: ring[:, 0].min())
    cuts = 0.0
    for n in range(1, len(rings)):
        before = np.concatenate(rings[:n])
        cuts += np.sqrt(((rings[n][:, None] - before) ** 2).sum(2)).min()
    ring = one_ring(region)
    assert len(ring) == sum(map(len, rings)) + 2 * (len(rings) - 1)
    length = np.linalg.norm(ring - np.roll(ring, -1, 0), axis=1).sum()
    assert length == pytest.approx(region.length + 2 * cuts)
    assert signed_area(ring) == pytest.approx(region.area)
