"""What a presence threshold finds and what false alarms it costs: the table that the default's was chosen by.

    python scripts/presence_threshold.py DATA [--per-class 12] [--seed 7]

Of every class of both collections (see `split`) with enough images, five are examples and others are asked for it, with
as many images that do not show it. Base classes choose the threshold; novel ones, which no training saw, report it. The
second table is a task's own threshold (`Segmenter.fit_presence`): by left-out examples, and by refused images.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fewseg.data.datasets.base import Dataset
from fewseg.data.datasets.folder import FolderDataset
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport
from fewseg.models.presence import task_threshold
from split import MIN_AREA, NOVEL_CALTECH  # the script beside this one

EXAMPLES = 5
REFUSED = 5
SHOTS = (1, 3, 5)
THRESHOLDS = (0.5, 0.4, 0.35, 0.3, 0.27, 0.25, 0.24, 0.23, 0.22, 0.2)

Scores = Mapping[tuple[int, str, int], Sequence[float]]
"""Class, kind of image and number of examples to the scores of its images."""


def is_novel(dataset: Dataset, class_id: int) -> bool:
    """Whether no training may see the class."""
    if dataset.name == "coco_mini":
        return class_id % 4 == 0
    return dataset.classes[class_id] in NOVEL_CALTECH


def measure(segmenter: Segmenter, root: Path, *, novel: bool, per_class: int, seed: int) -> Scores:
    """Scores of images that show a class, that do not, and of examples that are left out."""
    data, whole = FolderDataset(root, min_area=MIN_AREA), FolderDataset(root)
    rng = np.random.default_rng(seed)
    ids = [c for c in range(len(data.classes)) if is_novel(data, c) == novel and len(data.names(c)) > EXAMPLES + 1]
    order = {c: [data.names(c)[i] for i in rng.permutation(len(data.names(c)))] for c in ids}
    asked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for c in ids:
        shown = set(whole.names(c))
        others = [name for o in ids if o != c for name in order[o][EXAMPLES:][:per_class] if name not in shown]
        for kind, names in (
            ("left out", order[c][:EXAMPLES]),
            ("with", order[c][EXAMPLES:][:per_class]),
            ("without", [others[i] for i in rng.permutation(len(others))[:per_class]]),
        ):
            for name in names:
                asked[name].append((c, kind))
    examples = {c: [segmenter.encode_example(data.image(n), data.mask(n, c)) for n in order[c][:EXAMPLES]] for c in ids}
    scores: dict[tuple[int, str, int], list[float]] = defaultdict(list)
    for name, tasks in asked.items():
        keys, supports = [], {}
        for c, kind in tasks:
            place = order[c].index(name) if kind == "left out" else -1
            for shots in SHOTS:
                chosen = [example for i, example in enumerate(examples[c][:shots]) if i != place]
                if place < shots and len(chosen) > (place >= 0):
                    keys.append((c, kind, shots))
                    supports[str(len(keys))] = LabelSupport.concatenate(chosen)
        if keys:
            coarse = segmenter.predict(segmenter.encode([segmenter.preprocess(data.image(name))]), supports)[0]
            for key, score in zip(keys, segmenter.presence_rule.scores(coarse), strict=True):
                scores[key].append(score)
    return scores


def pooled(parts: Sequence[Scores], kind: str, shots: int) -> np.ndarray:
    """All scores of one kind."""
    return np.array([s for part in parts for key, values in part.items() if key[1:] == (kind, shots) for s in values])


def task_rates(part: Scores, shots: int, default: float) -> dict[str, np.ndarray]:
    """Mean recall and false alarms over classes, with the model's threshold and with those of the task."""
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for c in sorted({key[0] for key in part}):
        found, left_out = np.array(part[c, "with", shots]), part[c, "left out", shots]
        refused, others = part[c, "without", shots][:REFUSED], np.array(part[c, "without", shots][REFUSED:])
        if not len(others):
            continue
        for name, threshold in (
            ("the model's", default),
            ("left-out examples", task_threshold(left_out, [], default)),
            (f"{REFUSED} refused images", task_threshold([], refused, default)),
            ("both", task_threshold(left_out, refused, default)),
        ):
            rates[name].append(((found >= threshold).mean(), (others >= threshold).mean()))
    return {name: np.mean(values, 0) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-class", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    segmenter = Segmenter.from_pretrained()
    parts = {
        (novel, name): measure(segmenter, args.data / name, novel=novel, per_class=args.per_class, seed=args.seed)
        for novel in (False, True)
        for name in ("coco_mini", "caltech101_24")
    }
    for novel in (False, True):
        both = [part for (is_new, _), part in parts.items() if is_new == novel]
        counts = [len(pooled(both, kind, 1)) for kind in ("with", "without")]
        print(f"\n{'novel' if novel else 'base'} classes: {counts[0]} images with the class, {counts[1]} without it")
        print("recall / false alarms\n\n| threshold | 1 | 3 | 5 examples |")
        for threshold in THRESHOLDS:
            reached = [[(pooled(both, kind, s) >= threshold).mean() for kind in ("with", "without")] for s in SHOTS]
            cells = [f"{recall:.0%} / {alarms:.0%}" for recall, alarms in reached]
            print(f"| {threshold:g} | {' | '.join(cells)} |")
    for (novel, name), part in parts.items():
        for shots in SHOTS[1:]:
            rates = task_rates(part, shots, segmenter.presence_threshold)
            said = ", ".join(f"{how}: {recall:.0%} / {alarms:.0%}" for how, (recall, alarms) in rates.items())
            print(f"{'novel' if novel else 'base'} {name}, {shots} examples: {said}")


if __name__ == "__main__":
    main()
