"""Do examples that `fewseg.inference.active_learning` chooses teach more than random ones? Measured on novel classes.

    python scripts/measure_suggestions.py DATA [--out runs/suggestions.jsonl] [--seeds 2] [--minutes 15]

DATA holds `coco_mini/` and `caltech101_24/`. For each class and seed eight images are held out, ten others are the
pool (pool `all`), and as many that lack the class are mixed in for pool `half`. One random image is labelled; then
each strategy chooses one image after the other, five in all, and what was taught is scored on the images held out.
A chosen image that lacks the class costs its turn and teaches nothing. Every class and seed is a line in OUT that is
not measured again: call again to go on. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from fewseg.data.datasets.base import Dataset
from fewseg.data.episodes.sources import open_source
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.inference.active_learning import centred, choose_covering, choose_uncertain, uncertainty
from fewseg.inference.postprocess import full_size_prediction
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport
from fewseg.models.presence import balanced_accuracy, presence_scores, roc_area
from fewseg.server.engine.model import TOKENS, EngineModel, ImageFeatures, probabilities
from split import MIN_AREA, sources  # the script beside this one

POOL, HELD, LEAST, MOST = 10, 8, 13, 5
SCORED: Final = (3, 5)
"""Turns after which what was taught is scored."""
RANDOM: Final = ("random", "random 2")
STRATEGIES: Final = (
    *RANDOM,
    "uncertainty",
    "uncertainty where present",
    "coverage",
    "coverage of the object",
    "combined",
    "presence",
)


@dataclass
class Case:
    """One class, one seed: images by their place, which of them hold the class, and what the model makes of them."""

    model: EngineModel
    features: list[ImageFeatures]
    masks: list[NDArray[np.uint8]]
    shots: dict[int, LabelSupport]
    pool: tuple[int, ...]
    held: tuple[int, ...]
    known: dict[tuple[int, tuple[int, ...]], NDArray[np.uint8]] = field(default_factory=dict)

    def found(self, places: Sequence[int], labelled: Sequence[int]) -> Tensor:
        """Probabilities (places, s, s) by the examples labelled; strategies that agree share them."""
        examples = tuple(sorted(i for i in labelled if i in self.shots))
        missing = [place for place in places if (place, examples) not in self.known]
        if missing:
            support = LabelSupport.concatenate([self.shots[i] for i in examples])
            for place in missing:
                self.known[place, examples] = np.stack(self.model.coarse([self.features[place]], support))
        return probabilities(np.concatenate([self.known[place, examples] for place in places]))

    def score(self, labelled: Sequence[int]) -> float:
        """IoU in percent on the images held out, pixels summed over them."""
        counts = np.zeros((2, 2), np.int64)
        for place, coarse in zip(self.held, self.found(self.held, labelled), strict=True):
            truth = self.masks[place]
            made = full_size_prediction(coarse[None], ["it"], truth.shape[::-1], probabilities=False).masks["it"]
            counts += np.stack(intersection_and_union(made, truth))
        return float(100 * counts[0, 1] / max(1, counts[1, 1]))


def choose(strategy: str, case: Case, pool: Sequence[int], seen: Sequence[int], rng: np.random.Generator) -> int:
    """The image of the pool that comes next; `seen` are those it is not to be chosen from again."""
    left = [i for i, place in enumerate(pool) if place not in seen]
    if strategy in RANDOM:
        return int(pool[rng.choice(left)])
    tokens = centred(torch.stack([case.features[place].tokens for place in pool]))
    known = tokens[[i for i, place in enumerate(pool) if place in seen]].flatten(0, 1)
    if strategy == "coverage":
        return int(pool[choose_covering(tokens, known, 1, left)[0][0]])
    coarse = case.found(pool, [place for place in seen if place in case.shots])
    present = torch.tensor(presence_scores(coarse, case.model.segmenter.presence_scale))
    uncertain = uncertainty(coarse)
    if strategy == "coverage of the object":
        weights = F.adaptive_max_pool2d(coarse[:, None], TOKENS).flatten(1)
        return int(pool[choose_covering(tokens, known, 1, left, weights)[0][0]])
    scores = {
        "uncertainty": uncertain,
        "uncertainty where present": uncertain * present,
        "combined": uncertain * present,
        "presence": present,
    }[strategy]
    return int(pool[choose_uncertain(scores, tokens, 1, left, known if strategy == "combined" else None)[0][0]])


def run(strategy: str, case: Case, pool: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
    """Scores after each number of turns in `SCORED`, and how many of the images chosen held the class."""
    seen, scores = [pool[0]], {}
    for turn in range(2, MOST + 1):
        seen.append(choose(strategy, case, pool, seen, rng))
        if turn in SCORED:
            scores[str(turn)] = case.score(seen)
    return {"iou": scores, "shots": sum(place in case.shots for place in seen)}


def open_case(model: EngineModel, dataset: Dataset, class_id: int, others: Sequence[str], seed: int) -> Case:
    """Draw images and encode them."""
    rng = np.random.default_rng([seed, class_id, len(dataset.classes)])
    names = list(rng.permutation(dataset.names(class_id)))
    n_held = min(HELD, len(names) - 8)
    n_pool = min(POOL, len(names) - n_held)
    chosen = names[: n_held + n_pool]
    away = [str(name) for name in rng.permutation(others)]
    chosen += away[:n_pool]
    masks = [dataset.mask(str(name), class_id) for name in chosen]
    images = [dataset.image(str(name)) for name in chosen]
    segmenter = model.segmenter
    features = [model.features([segmenter.preprocess(p)])[0] for p in images]
    held, pool = tuple(range(n_held)), tuple(range(n_held, len(chosen)))
    shots = {i: model.encode_example(images[i], masks[i] == 1) for i in pool if i < n_held + n_pool}  # type: ignore[arg-type]
    return Case(model, features, masks, shots, pool, held)


def measure(case: Case, seed: int) -> dict[str, Any]:
    """All strategies on both pools, and how well the score tells absent images after one and five examples."""
    own = [i for i in case.pool if i in case.shots]
    result: dict[str, Any] = {"one": case.score(own[:1])}
    for name, pool in (("all", own), ("half", list(case.pool))):
        result[name] = {
            strategy: run(strategy, case, pool, np.random.default_rng([seed, k, len(pool)]))
            for k, strategy in enumerate(STRATEGIES)
        }
    away = [i for i in case.pool if i not in case.shots]
    for n in (1, MOST):
        scale = case.model.segmenter.presence_scale
        here, there = (np.array(presence_scores(case.found(p, own[:n]), scale)) for p in (case.held, away))
        result[f"roc {n}"] = roc_area(here, there)
        threshold = case.model.segmenter.presence_threshold
        result[f"flag {n}"] = balanced_accuracy(here, there, threshold)
    return result


def gain(lines: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Mean over classes, seeds averaged within, and half the width of its 95 % interval (Student's t)."""
    classes: dict[str, list[float]] = {}
    for line in lines:
        classes.setdefault(line["class"], []).append(value(line))
    means = np.array([np.mean(v) for v in classes.values()])
    if len(means) < 2:
        return float(means.mean()), float("nan")
    width = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean()), float(width)


def scores(line: dict[str, Any], pool: str, strategy: str, turn: int) -> float:
    """IoU of one run; of random choices the mean over the draws."""
    names = RANDOM if strategy == RANDOM[0] else (strategy,)
    return float(np.mean([line[pool][name]["iou"][str(turn)] for name in names]))


def row(lines: Sequence[dict[str, Any]], pool: str, strategy: str) -> str:
    """A line of the table."""

    def over_random(turn: int) -> str:
        mean, width = gain(lines, lambda line: scores(line, pool, strategy, turn) - scores(line, pool, RANDOM[0], turn))
        return f"{mean:+.1f} ± {width:.1f}"

    level = gain(lines, lambda line: scores(line, pool, strategy, MOST))[0]
    names = RANDOM if strategy == RANDOM[0] else (strategy,)
    shots = np.mean([line[pool][name]["shots"] for line in lines for name in names])
    cells = ["" if strategy == RANDOM[0] else over_random(turn) for turn in SCORED]
    return f"| {strategy} | {level:.1f} | {' | '.join(cells)} | {shots:.1f} of {MOST} |"


def report(lines: Sequence[dict[str, Any]]) -> None:
    """Print what was measured."""
    classes = {line["class"] for line in lines}
    one = gain(lines, lambda line: float(line["one"]))[0]
    print(f"{len(classes)} classes, {len(lines)} runs; one example: {one:.1f} mIoU.")
    for pool in ("all", "half"):
        head = " | ".join(f"gain at {turn}" for turn in SCORED)
        print(f"\nPool `{pool}`:\n\n| chosen by | mIoU at {MOST} | {head} | with the class |")
        print("|---|---|" + "---|" * len(SCORED) + "---|")
        for strategy in STRATEGIES:
            if strategy not in RANDOM[1:]:
                print(row(lines, pool, strategy))
    for n in ("1", str(MOST)):
        area, width = gain(lines, itemgetter(f"roc {n}"))
        flag = gain(lines, itemgetter(f"flag {n}"))[0]
        print(f"\nAbsent flag after {n}: ROC area {area:.3f} ± {width:.3f}, balanced accuracy {flag:.3f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/suggestions.jsonl"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=15.0, help="processor time after which nothing new is begun")
    args = parser.parse_args()
    torch.set_num_threads(1)  # equal everywhere
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    known = {(line["class"], line["seed"]) for line in done}
    model = EngineModel(Segmenter.from_pretrained(args.model, device="cpu"))
    todo = []
    for source in reversed(sources(args.data)):
        opened = open_source(source, min_area=MIN_AREA)
        for class_id in opened.novel:
            if len(opened.dataset.names(class_id)) >= LEAST:
                todo.append((opened, class_id))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for opened, class_id in todo:
            title = f"{opened.dataset.name}: {opened.dataset.classes[class_id]}"
            if (title, seed) in known or time.process_time() > 60 * args.minutes:
                continue
            every = sorted(
                {n for c in range(len(opened.dataset.classes)) if c != class_id for n in opened.dataset.names(c)}
            )
            others = [n for n in every if not (opened.dataset.mask(n, class_id) == 1).any()]
            case = open_case(model, opened.dataset, class_id, others, seed)
            line = {"class": title, "seed": seed, **measure(case, seed)}
            done.append(line)
            with args.out.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    report(done)


if __name__ == "__main__":
    main()
