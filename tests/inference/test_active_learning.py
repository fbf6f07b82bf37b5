"""Which image to label next: the scores against plain loops, the choices against exhaustive ones."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from fewseg.inference.active_learning import (
    SMOOTHING,
    centred,
    choose_covering,
    choose_uncertain,
    coverage,
    uncertainty,
)


def test_uncertainty_is_one_minus_the_expected_overlap() -> None:
    """The quotient of expectations, each counted out over many drawn truths."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(12, 12, generator=generator) ** 2
    mask = p >= 0.5
    shared = either = 0.0
    for _ in range(4000):
        truth = torch.rand(p.shape, generator=generator) < p
        shared += float((truth & mask).sum())
        either += float((truth | mask).sum())
    extra = SMOOTHING * p.numel() * 4000
    assert float(uncertainty(p)) == pytest.approx(1 - (shared + extra) / (either + extra), abs=0.01)


def test_uncertainty_of_sure_and_unsure_images() -> None:
    sure_object, sure_nothing = torch.zeros(20, 20), torch.zeros(20, 20)
    sure_object[5:15, 5:15] = 1
    unsure = torch.full((20, 20), 0.5)
    faint = torch.full((20, 20), 0.2)  # something may be there, nothing was found
    values = uncertainty(torch.stack([sure_object, sure_nothing, unsure, faint]))
    assert values[:2].tolist() == [0, 0]
    assert 0.45 < float(values[2]) < 0.5
    assert float(values[3]) > 0.9
    assert float(uncertainty(sure_object * 0.9)) < float(uncertainty(sure_object * 0.6))


def test_coverage_is_the_mean_distance_to_the_nearest() -> None:
    generator = torch.Generator().manual_seed(1)
    query, support = torch.randn(3, 5, 7, generator=generator), torch.randn(4, 7, generator=generator)
    for i in range(3):
        nearest = [min(1 - float(torch.cosine_similarity(q, s, dim=0)) for s in support) for q in query[i]]
        assert float(coverage(query, support)[i]) == pytest.approx(sum(nearest) / 5, abs=1e-5)
    assert float(coverage(query[0], query[0])) == pytest.approx(0, abs=1e-5)
    assert float(coverage(query[0], query[0, :0])) == 1


def test_choosing_by_coverage_is_greedy_and_nearly_best() -> None:
    generator = torch.Generator().manual_seed(2)
    groups = torch.randn(3, 1, 6, generator=generator) * 3
    tokens = torch.cat([groups[i] + 0.3 * torch.randn(4, 3, 6, generator=generator) for i in range(3)])  # 12 images
    tokens = centred(tokens)
    support = tokens[0]  # of the first group
    chosen = choose_covering(tokens, support, 2, range(1, 12))
    assert {i // 4 for i, _ in chosen} == {1, 2}  # one of each group that nothing shows yet

    def left(picked: tuple[int, ...]) -> float:
        seen = torch.cat([support, *(tokens[i] for i in picked)])
        return float(coverage(tokens, seen).mean())

    gains = [gain for _, gain in chosen]
    assert gains == sorted(gains, reverse=True)
    assert left(()) - left(tuple(i for i, _ in chosen)) == pytest.approx(sum(gains), abs=1e-5)
    best = min(left(pair) for pair in combinations(range(1, 12), 2))
    assert sum(gains) >= 0.63 * (left(()) - best)


def test_choosing_by_uncertainty_does_not_repeat_itself() -> None:
    tokens = torch.eye(4)[[0, 0, 0, 1, 2]][:, None].expand(5, 3, 4)
    scores = torch.tensor([0.9, 0.89, 0.88, 0.5, 0.1])
    chosen = choose_uncertain(scores, tokens, 3, range(5))
    assert [i for i, _ in chosen] == [0, 3, 4]
    assert chosen[0][1] == pytest.approx(0.9)
    assert [i for i, _ in choose_uncertain(scores, tokens, 9, [4, 2, 2])] == [2, 4]
    assert choose_uncertain(scores, tokens, 3, []) == []
