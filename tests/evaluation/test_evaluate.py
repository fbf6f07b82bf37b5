"""Scoring a method on episodes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.evaluation.evaluate import EvaluationSettings, Scoring, bootstrap_interval, evaluate
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.ops.resize import resize


@dataclass(frozen=True)
class Config:
    image_size: int = 64


class Everything(FewShotMethod):
    """Calls the left half of every image foreground."""

    name: ClassVar[str] = "everything"
    Config: ClassVar[type] = Config

    def __init__(self) -> None:
        super().__init__()
        self.config, self.weight = Config(), nn.Parameter(torch.ones(()))

    def encode_support(self, images: Tensor, masks: Tensor) -> SupportSet:
        return SupportSet(self.name, (64, 64), {"masks": masks})

    def encode_query(self, images: Tensor) -> QueryFeatures:
        return QueryFeatures((64, 64), {"images": images})

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        logits = torch.zeros(query.batch, 2, 64, 64)
        logits[:, 1, :, :32] = 1
        logits[:, 0, :, 32:] = 1
        return logits


@pytest.fixture(scope="module")
def dataset() -> SyntheticDataset:
    return SyntheticDataset(per_class=6, size=96)


@pytest.mark.parametrize("scoring", ["original", "model"])
def test_scores_are_counted_as_stated(dataset: SyntheticDataset, scoring: Scoring) -> None:
    """Against the definition, written out with numpy from the masks."""
    episodes = draw_test_episodes(dataset, (0, 5), 1, 6, 0)
    result = evaluate(Everything(), dataset, episodes, EvaluationSettings(scoring))
    inter, union, back = {0: 0, 5: 0}, {0: 0, 5: 0}, np.zeros(2)
    for episode in episodes:
        truth = dataset.mask(episode.query, episode.class_id)
        if scoring == "model":
            rows = (np.arange(64) * 96 / 64).astype(int)  # torch's nearest
            truth = truth[rows][:, rows]
        left = np.zeros(truth.shape, bool)
        wide = resize(torch.tensor([[[1.0] * 32 + [0.0] * 32]]).expand(1, 64, 64)[None], truth.shape)[0, 0, 0].numpy()
        left[:, wide > 0.5] = True
        inter[episode.class_id] += (left & (truth == 1)).sum()
        union[episode.class_id] += (left | (truth == 1)).sum()
        back += ((~left & (truth == 0)).sum(), (~left | (truth == 0)).sum())
    expected = [100 * inter[c] / union[c] for c in (0, 5)]
    assert result.miou == pytest.approx(np.mean(expected), abs=0.6)
    assert list(result.class_iou) == [dataset.classes[0], dataset.classes[5]]
    both = (sum(inter.values()) / sum(union.values()) + back[0] / back[1]) / 2
    assert result.fb_iou == pytest.approx(100 * both, abs=0.6)
    assert result.miou_interval[0] <= result.miou <= result.miou_interval[1]
    assert json.loads(json.dumps(result.to_json()))["episodes"] == 12


def test_runs_are_identical_and_progress_counts(dataset: SyntheticDataset) -> None:
    torch.manual_seed(0)
    method = create_method("prototype", backbone="mobilenetv3_small_050", image_size=64)
    episodes = draw_test_episodes(dataset, (1, 2), 2, 3, 0)
    seen: list[tuple[int, int]] = []
    first = evaluate(method, dataset, episodes, progress=lambda done, total, _: seen.append((done, total)))
    again = evaluate(method, dataset, episodes)
    assert [s.iou for s in first.scores] == [s.iou for s in again.scores]
    assert first.miou_interval == again.miou_interval
    assert seen == [(i + 1, 6) for i in range(6)]
    assert first.shots == 2


def test_bootstrap_interval_covers_what_it_should() -> None:
    certain = bootstrap_interval([(0, 50, 100)] * 10 + [(1, 30, 100)] * 10)
    assert certain == pytest.approx((40, 40))
    low, high = bootstrap_interval([(0, i, 100) for i in range(0, 100, 5)])
    assert low < 47.5 < high
    assert 15 < high - low < 35
