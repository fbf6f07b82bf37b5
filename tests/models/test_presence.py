"""Scores of models that bring a scale: the same number wherever a score is made, kept or read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewseg.export.supports import save_supports
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import segment_tiled
from fewseg.models.presence import UNSCALED, PresenceScale, recall_threshold, task_threshold
from fewseg.server.engine.cache import ResultCache
from helpers.colour_method import ColourMethod, blob

SCALE = PresenceScale(0.5, -1.0)
EXTRA = {"presence_slope": SCALE.slope, "presence_offset": SCALE.offset, "presence_threshold": 0.4}


def taught(sharpness: float = 8.0, **extra: float) -> Segmenter:
    method = ColourMethod(sharpness=sharpness)
    method.extra = extra
    segmenter = Segmenter(method, device="cpu")
    segmenter.teach("red", *blob("red"))
    return segmenter


def test_scores_are_scaled_and_compared_on_that_scale() -> None:
    for name in ("red", "blue"):
        image = blob(name)[0]
        bare, scaled = (taught(**extra).segment(image) for extra in ({}, EXTRA))
        assert scaled.scores["red"] == SCALE(bare.scores["red"]) != bare.scores["red"]
        assert scaled.present["red"] == (scaled.scores["red"] >= 0.4)
        assert (scaled.masks["red"] == bare.masks["red"]).all()


def test_of_tiles_the_highest_scaled_score_counts() -> None:
    image = blob("red", size=(200, 100))[0]
    bare, scaled = (segment_tiled(taught(**extra), image, tile=96) for extra in ({}, EXTRA))
    assert scaled.scores["red"] == pytest.approx(SCALE(bare.scores["red"]))


def test_the_page_shows_what_segment_says_and_files_outlive_a_scale(tmp_path: Path) -> None:
    segmenter = taught(0.2, **EXTRA)
    image = blob("red")[0]
    coarse = segmenter.predict(segmenter.encode([segmenter.preprocess(image)]))[0][0]
    levels = (coarse * 255).round().to(torch.uint8).numpy()
    shown = ResultCache(tmp_path, scale=segmenter.presence_scale).put("a" * 64, levels)
    assert shown.score == pytest.approx(segmenter.segment(image).scores["red"], abs=0.02)
    for scale in (UNSCALED, PresenceScale(2.0, 1.0)):
        again = ResultCache(tmp_path, scale=scale).summary("a" * 64)
        anew = ResultCache(tmp_path / str(scale.slope), scale=scale).put("a" * 64, levels)
        assert again is not None
        assert again.score == pytest.approx(anew.score, abs=1e-6)


def test_what_was_saved_keeps_its_threshold_on_its_own_scale_only(tmp_path: Path) -> None:
    path = tmp_path / "red.fewseg"
    taught(**EXTRA).save(path)
    other = {"presence_threshold": 0.9}
    for extra, threshold in ((EXTRA, 0.4), ({**EXTRA, **other}, 0.4), (other, 0.9)):
        method = ColourMethod()
        method.extra = dict(extra)
        assert Segmenter.load(path, method, device="cpu").presence_threshold == threshold
        assert Segmenter.load(path, method, device="cpu", presence_threshold=0.7).presence_threshold == 0.7
    assert len({taught(**extra).fingerprint for extra in ({"presence_threshold": 0.4}, EXTRA)}) == 2


def test_programs_without_torch_are_told_the_scale(tmp_path: Path) -> None:
    save_supports(taught(**EXTRA), tmp_path / "supports.npz")
    with np.load(tmp_path / "supports.npz") as file:
        assert tuple(file["presence_scale"]) == SCALE


def test_any_scale_gives_a_number_from_0_to_1() -> None:
    for scale in (SCALE, PresenceScale(1000.0, 0.0), PresenceScale(1e-3, -900.0)):
        assert all(0 <= scale(sure) <= 1 for sure in (0.0, 1e-9, 0.01, 0.5, 1.0))


def test_the_threshold_misses_at_most_the_share() -> None:
    scores = np.linspace(0.01, 0.4, 40)
    threshold = recall_threshold(scores)
    assert (scores >= threshold).mean() >= 0.85
    assert (scores > threshold).mean() < 0.85
    assert recall_threshold(np.full(5, 0.9)) == 0.5
    assert recall_threshold(np.array([0.3])) == 0.3


@pytest.mark.parametrize(
    ("positives", "refused", "threshold"),
    [
        ([], [], 0.25),
        ([0.4, 0.6, 0.9], [], 0.25),
        ([0.1, 0.6, 0.9], [], 0.1),
        ([0.4, 0.6, 0.9], [0.1, 0.2], 0.25),
        ([], [1.0], 0.25),
    ],
)
def test_a_tasks_threshold(positives: list[float], refused: list[float], threshold: float) -> None:
    assert task_threshold(positives, refused, 0.25) == threshold


def test_refused_images_are_below_a_tasks_threshold() -> None:
    assert 0.3 < task_threshold([0.4, 0.6, 0.9], [0.3], 0.25) <= 0.4
    assert 0.3 < task_threshold([], [0.3], 0.25) < 0.31
