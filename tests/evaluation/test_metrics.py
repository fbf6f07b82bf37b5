"""IoU against golden vectors and against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewseg.core.errors import InvalidMask
from fewseg.evaluation.metrics.iou import IoUMeter, intersection_and_union
from fewseg.models.presence import UNSCALED, PresenceScale, balanced_accuracy, fit_scale, roc_area

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.mark.parametrize("suffix", ["", "_ignore"])
def test_golden_vectors(suffix: str) -> None:
    with np.load(GOLDEN) as golden:
        data = {key: golden[key] for key in golden.files}
    meter = IoUMeter()
    for index, class_id in enumerate(data["class_id"]):
        ignore = data["ignore"][index] if suffix else None
        meter.add(int(class_id), data["pred"][index], data["target"][index], ignore)
    scores = meter.scores()
    assert scores.miou == pytest.approx(float(data[f"miou{suffix}"]), abs=1e-4)
    assert scores.fb_iou == pytest.approx(float(data[f"fb_iou{suffix}"]), abs=1e-4)
    assert list(scores.class_iou.values()) == pytest.approx(data[f"class_iou{suffix}"].tolist(), abs=1e-4)


def _slow_counts(prediction: np.ndarray, target: np.ndarray) -> tuple[list[int], list[int]]:
    """One pixel after the other."""
    both, either = [0, 0], [0, 0]
    for guess, truth in zip(prediction.flat, target.flat, strict=True):
        for side in (0, 1):
            both[side] += truth != 255 and guess == side and truth == side
            either[side] += truth != 255 and (guess == side or truth == side)
    return both, either


def test_matches_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    meter, sums = IoUMeter(), {}
    for _ in range(12):
        class_id = int(rng.integers(3))
        prediction = rng.integers(0, 2, (9, 7))
        target = rng.choice([0, 1, 255], (9, 7))
        counts = np.array(_slow_counts(prediction, target))
        assert np.array_equal(np.stack(intersection_and_union(prediction, target)), counts)
        sums[class_id] = sums.get(class_id, 0) + counts
        meter.add(class_id, prediction, target)
    scores = meter.scores()
    assert scores.class_iou == pytest.approx({c: 100 * s[0, 1] / s[1, 1] for c, s in sorted(sums.items())})
    assert scores.miou == pytest.approx(np.mean(list(scores.class_iou.values())))
    total = sum(sums.values())
    assert scores.fb_iou == pytest.approx(50 * (total[0, 0] / total[1, 0] + total[0, 1] / total[1, 1]))


def test_batches_count_like_single_masks() -> None:
    rng = np.random.default_rng(1)
    prediction, target = rng.integers(0, 2, (2, 4, 6, 5))
    both, either = intersection_and_union(prediction, target)
    assert both.shape == either.shape == (4, 2)
    one = intersection_and_union(prediction[2], target[2])
    assert np.array_equal(one[0], both[2])
    assert np.array_equal(one[1], either[2])


def test_edge_cases() -> None:
    empty = np.zeros((4, 4), np.uint8)
    meter = IoUMeter()
    assert meter.scores().class_iou == {}
    assert meter.add(0, empty, empty) == 0.0
    assert meter.scores().fb_iou == pytest.approx(50)
    assert meter.add(1, empty + 1, empty + 255) == 0.0
    with pytest.raises(InvalidMask, match="resize the prediction"):
        meter.add(0, empty, np.zeros((4, 5)))


def test_how_well_presence_is_told() -> None:
    here, away = np.array([0.9, 0.8, 0.7]), np.array([0.1, 0.2, 0.75])
    assert balanced_accuracy(here, away, 0.5) == pytest.approx(5 / 6)
    assert balanced_accuracy(here, away, 0.78) == pytest.approx((2 / 3 + 1) / 2)
    assert roc_area(here, away) == pytest.approx(8 / 9)
    assert roc_area(here, here) == 0.5


def test_scores_of_a_very_sure_model_keep_their_order() -> None:
    here, away = 1 - np.logspace(-5.5, -4, 40), 1 - np.logspace(-3.8, -2.8, 40)
    scale = fit_scale(here, away)
    scaled = [np.array([scale(v) for v in values]) for values in (here, away)]
    assert roc_area(*scaled) == 1
    assert balanced_accuracy(*scaled, 0.5) > 0.95


def test_scaled_scores_are_as_often_right_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.5
    sure = 1 / (1 + np.exp(-(rng.normal(size=4000) + 2.5 * truth + 1.0)))  # far too sure, and of everything
    scale = fit_scale(sure[truth], sure[~truth])
    scores = np.array([scale(v) for v in sure])
    for low in (0.05, 0.25, 0.45, 0.65, 0.85):
        some = (scores >= low) & (scores < low + 0.1)
        assert truth[some].mean() == pytest.approx(scores[some].mean(), abs=0.06)
    assert (np.diff(scores[np.argsort(sure)]) >= 0).all()


def test_scores_that_separate_or_say_nothing_stay_finite() -> None:
    apart = fit_scale(np.ones(5), np.zeros(5))
    assert 0.8 < apart(1.0) < 1
    assert 0 < apart(0.0) < 0.2
    turned = fit_scale(np.full(5, 0.2), np.full(5, 0.8))  # a scale never turns the order around
    assert turned(0.8) >= turned(0.2)
    assert turned(0.5) == pytest.approx(0.5, abs=0.01)


def test_without_a_scale_scores_are_what_they_were() -> None:
    assert PresenceScale.of({"presence_threshold": 0.3}) == UNSCALED
    assert [UNSCALED(v) for v in (0.0, 0.0001, 0.3, 1.0)] == [0.0, 0.0001, 0.3, 1.0]
    assert PresenceScale.of({"presence_slope": 2, "presence_offset": -1}) == PresenceScale(2.0, -1.0)
