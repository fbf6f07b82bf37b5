"""Figures of the default model: calibration on novel classes, and the course of its training.

    python scripts/show_default.py DATA --run runs/default [--per-class 4] [--out docs/img/default-model]

Every novel class of both collections (see `split`) is asked for in images that hold it and in as many that do not,
with one and with five shots. OUT/reliability.png shows the pixels' probabilities and the ROC curve of `present`, with
the fitted temperature and without, and how often scores are right; the numbers are printed. OUT/training.png shows loss
and validation of RUN, a folder of scripts/train_default.py; without --run it is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewseg.core.files import make_folder, replacing
from fewseg.core.types import IGNORE
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.sources import open_source
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.checkpoints import load_method
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.models.presence import PresenceScale, balanced_accuracy, presence_scores, roc_area
from fewseg.training.calibration.episodes import with_negatives
from fewseg.training.data import ValidationSet
from fewseg.training.log import read_metrics
from split import MIN_AREA, sources  # the script beside this one

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10
SMOOTHED = 20
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
LINES = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")
COLOURS = {"without the factors": "#7f7f7f", "as shipped": "#0072b2"}


@dataclass
class Tally:
    """Counts behind reliability diagrams and ROC curves."""

    pixels: NDArray[np.float64]
    """(BINS, 3): number of pixels, sum of their probabilities, how many were foreground."""
    scores: list[tuple[float, float]]
    """Presence scores of each pair, unscaled: with the class, without it."""

    @property
    def error(self) -> float:
        """Expected calibration error of the pixels."""
        return _calibration_error(self.pixels)

    def scaled(self, scale: PresenceScale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores as users see them: of queries with the class, of those without it."""
        positives, negatives = np.array([[scale(score) for score in pair] for pair in self.scores]).T
        return positives, negatives


def _calibration_error(bins: NDArray[np.float64]) -> float:
    count, sure, right = bins.T
    return float(np.abs(sure - right).sum() / count.sum())


def test_sets(data: Path, per_class: int, seed: int) -> list[ValidationSet]:
    """Episodes of the novel classes, one and five shots."""
    sets = []
    for text in sources(data):
        source = open_source(text, min_area=MIN_AREA)
        for shots in (1, 5):
            drawn = draw_test_episodes(source.dataset, source.novel, shots, per_class, seed)
            sets.append(ValidationSet(source.dataset, tuple(drawn)))
    return sets


@torch.no_grad()
def measure(method: DCAMALight, sets: list[ValidationSet], seed: int) -> dict[str, Tally]:
    """Tallies with the fitted temperature and without it, on the same queries."""
    fitted = method.calibration.temperature.clone()
    temperatures = {"without the factors": torch.zeros_like(fitted), "as shipped": fitted}
    tallies = {name: Tally(np.zeros((BINS, 3)), []) for name in temperatures}
    for part, *pair in with_negatives(sets, seed):
        scores: dict[str, list[float]] = {name: [] for name in temperatures}
        for episode in pair:
            tensors = collate([episode_tensors(part.dataset, episode, method.config.image_size)])
            query, support = method.encode_query(tensors.query), method.encode_support(tensors.images, tensors.masks)
            counts, truth = (tensors.query_mask != IGNORE)[0], (tensors.query_mask == 1)[0]
            for name, temperature in temperatures.items():
                method.calibration.temperature.copy_(temperature)
                foreground = method.segment(query, support).softmax(1)[:, 1]
                scores[name].append(presence_scores(foreground)[0])
                _count(tallies[name].pixels, foreground[0][counts].numpy(), truth[counts].numpy())
        for name, (positives, negatives) in scores.items():
            tallies[name].scores.append((positives, negatives))
    method.calibration.temperature.copy_(fitted)
    return tallies


def _count(bins: NDArray[np.float64], probable: NDArray[Any], truth: NDArray[np.bool_]) -> None:
    place = np.minimum((probable * BINS).astype(int), BINS - 1)
    for column, weights in enumerate((None, probable, truth)):
        bins[:, column] += np.bincount(place, weights, BINS)


def score_bins(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> NDArray[np.float64]:
    """Like `Tally.pixels`, of presence scores: the share of positives in each bin."""
    bins = np.zeros((BINS, 3))
    _count(bins, np.concatenate([positives, negatives]), np.arange(len(positives) + len(negatives)) < len(positives))
    return bins


@contextmanager
def panels(path: Path, count: int, width: float, height: float) -> Iterator[list[Axes]]:
    """Axes side by side, in inches together; the figure is written when they are drawn."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield list(figure.subplots(1, count))
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)


def draw(tallies: dict[str, Tally], bins: NDArray[np.float64], path: Path) -> None:
    """How often pixels of a probability are foreground, the ROC curve of `present`, and how often scores are right."""
    with panels(path, 3, 9.6, 3.2) as (left, middle, right):
        for name, tally in tallies.items():
            count, sure, found = tally.pixels[tally.pixels[:, 0] > 0].T
            label = f"{name} (error {tally.error:.3f})"
            left.plot(sure / count, found / count, "o-", color=COLOURS[name], markersize=3, label=label)
            positives, negatives = np.array(tally.scores).T
            area = roc_area(positives, negatives)
            middle.plot(*_roc(positives, negatives), color=COLOURS[name], label=f"{name} (area {area:.2f})")
        count, sure, found = bins[bins[:, 0] > 0].T
        label = f"as shipped (error {_calibration_error(bins):.3f})"
        right.plot(sure / count, found / count, "o-", color=COLOURS["as shipped"], markersize=3, label=label)
        for x, y, number in zip(sure / count, found / count, count, strict=True):
            right.annotate(f"{number:.0f}", (x, y), (4, -8), textcoords="offset points", fontsize=6, color="#7f7f7f")
        _finish(left, "probability of foreground", "share of the pixels that are foreground")
        _finish(middle, "images without the class, called present", "images with it, called present")
        _finish(right, "score", "share of the images that hold the class")


def draw_training(run: Path, path: Path) -> None:
    """Loss and validation mIoU of the head over the steps of both trainings."""
    with panels(path, 2, 6.8, 2.8) as (left, right):
        for name, folder, colour in (
            ("validation classes left out", "mobilenetv2", "#7f7f7f"),
            ("all base classes", "mobilenetv2-all", "#0072b2"),
        ):
            metrics = read_metrics(run / folder)
            steps, losses = zip(*[(line["step"], line["loss"]) for line in metrics if "loss" in line], strict=True)
            smooth = np.convolve(losses, np.ones(SMOOTHED) / SMOOTHED, "valid")
            left.plot(steps[SMOOTHED - 1 :], smooth, color=colour, label=name)
            checks = [line for line in metrics if "val_miou" in line]
            for place, key in enumerate(k for k in (checks[0] if checks else ()) if k.startswith("val_miou/")):
                values = [line[key] for line in checks]
                right.plot([line["step"] for line in checks], values, "o-", color=LINES[place], label=key[9:])
        left.set(xlabel="step of 12 episodes", ylabel=f"loss, mean of {SMOOTHED} steps")
        right.set(xlabel="step", ylabel="validation mIoU at 256 pixels, %", ylim=(0, 100))
        left.legend(frameon=False, fontsize=7)
        right.legend(frameon=False, fontsize=7, loc="center", bbox_to_anchor=(0.5, 0.56))  # between the two datasets


def _roc(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    thresholds = np.sort(np.concatenate([positives, negatives, [np.inf]]))[::-1]
    return [float((negatives >= t).mean()) for t in thresholds], [float((positives >= t).mean()) for t in thresholds]


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.plot([0, 1], [0, 1], ":", color="#bbbbbb")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x, ylabel=y, aspect="equal")
    axes.legend(frameon=False, fontsize=7, loc="best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/img/default-model"))
    args = parser.parse_args()
    if args.run is not None:
        draw_training(args.run, make_folder(args.out) / "training.png")
    method = load_method(args.model)
    assert isinstance(method, DCAMALight)
    tallies = measure(method, test_sets(args.data, args.per_class, args.seed), args.seed)
    positives, negatives = tallies["as shipped"].scaled(PresenceScale.of(method.extra))
    bins = score_bins(positives, negatives)
    draw(tallies, bins, make_folder(args.out) / "reliability.png")
    threshold = method.extra["presence_threshold"]
    for name, tally in tallies.items():
        area = roc_area(*np.array(tally.scores).T)
        print(f"{name}: calibration error {tally.error:.3f}, ROC area {area:.3f}, {len(positives)} pairs")
    accuracy = balanced_accuracy(positives, negatives, threshold)
    print(
        f"scores as shipped: calibration error {_calibration_error(bins):.3f}; "
        f"at {threshold:.3f} {accuracy:.3f} are right:"
    )
    print(f"{(positives >= threshold).mean():.3f} of the images with the class are present,")
    print(f"{(negatives >= threshold).mean():.3f} of those without it")


if __name__ == "__main__":
    main()
