"""Does a model look at its examples, or only for what stands out? One-shot episodes with examples that mislead.

    python scripts/measure_support_use.py DATA CHECKPOINT [--per-class 3]

DATA holds `coco_mini/` and `caltech101_24/`, whose novel classes are shown. Prints the mean IoU of the queries' masks,
in per cent, at the model's input size, with four kinds of example: the true mask, everything but that, the whole
image, and another class's image with its mask. A model that compares finds little with the last three; one that
answers with what stands out finds the same with all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fewseg.core.types import EpisodeTensors
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.checkpoints import load_method
from fewseg.models.methods import FewShotMethod
from split import MIN_AREA, sources  # the script beside this one

KINDS = ("true mask", "inverted", "whole image", "another class's")


def examples(own: EpisodeTensors, other: EpisodeTensors) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and masks of the support, in the order of `KINDS`."""
    yield own.images, own.masks
    yield own.images, 1 - own.masks
    yield own.images, torch.ones_like(own.masks)
    yield other.images, other.masks


@torch.inference_mode()
def measured(method: FewShotMethod, source: OpenSource, per_class: int) -> tuple[list[float], int]:
    """Mean IoU in per cent for each of `KINDS`, and the number of queries."""
    episodes = draw_test_episodes(source.dataset, source.novel, 1, per_class, 7)
    size, sums = method.config.image_size, [0.0] * len(KINDS)
    for number, episode in enumerate(episodes):
        other = next(e for e in episodes[number:] + episodes if e.class_id != episode.class_id)
        own, another = (collate([episode_tensors(source.dataset, e, size)]) for e in (episode, other))
        query, truth, counts = method.encode_query(own.query), own.query_mask == 1, own.query_mask != 255
        for kind, (images, masks) in enumerate(examples(own, another)):
            found = method.segment(query, method.encode_support(images, masks)).argmax(1) == 1
            union = ((found | truth) & counts).sum().clamp(min=1)
            sums[kind] += float((found & truth & counts).sum() / union)
    return [100 * value / len(episodes) for value in sums], len(episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--per-class", type=int, default=3)
    args = parser.parse_args()
    method = load_method(args.checkpoint).eval()
    print(f"| data | queries | {' | '.join(KINDS)} |")
    print("|---" * (2 + len(KINDS)) + "|")
    for text in sources(args.data):
        source = open_source(text, min_area=MIN_AREA)
        values, queries = measured(method, source, args.per_class)
        print(f"| {source.dataset.name} | {queries} | {' | '.join(f'{value:.1f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
