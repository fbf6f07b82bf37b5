"""Losses, schedules, optimisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fewseg.core.errors import InvalidOption
from fewseg.training.config import TrainConfig
from fewseg.training.losses import BatchTotals, choose_loss, cross_entropy, dice, generalised_cross_entropy
from fewseg.training.optim import learning_rate, make_optimiser

GOLDEN = Path(__file__).parents[1] / "golden" / "sccan_dice_loss.npz"


def test_dice_matches_golden_vector() -> None:
    with np.load(GOLDEN) as golden:
        logits, target = torch.from_numpy(golden["logits"]), torch.from_numpy(golden["target"])
        assert dice(logits, target).item() == pytest.approx(float(golden["loss"]), abs=1e-6)


def test_cross_entropy_ignores_what_does_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, generator=generator)
    target = torch.randint(0, 2, (2, 4, 4), generator=generator)
    half = target.clone()
    half[:, :, 2:] = 255
    expected = nn.functional.cross_entropy(logits[..., :2], target[..., :2])
    assert torch.allclose(cross_entropy(logits, half), expected)
    assert cross_entropy(logits, torch.full_like(target, 255)).item() == 0.0


def test_unlabelled_things_are_forgiven() -> None:
    surest = torch.tensor([[-30.0, 30.0]])[..., None, None]
    here, away = torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64)
    assert generalised_cross_entropy(surest, away).item() == pytest.approx(2.0)
    assert cross_entropy(surest, away).item() == pytest.approx(60.0)
    assert generalised_cross_entropy(-surest, here).item() == pytest.approx(60.0)  # foreground is not
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, generator=generator, requires_grad=True)
    target = torch.randint(0, 2, (2, 4, 4), generator=generator)
    target[:, 0] = 255
    p = logits.detach().softmax(1)
    expected = torch.where(target == 1, -p[:, 1].log(), 2 * (1 - p[:, 0].sqrt()))[:, 1:].mean()
    loss = generalised_cross_entropy(logits, target)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, :, 0].abs().max() == 0
    parts = [
        generalised_cross_entropy(logits[i : i + 1], target[i : i + 1], BatchTotals(24, 2)).item() for i in range(2)
    ]
    assert sum(parts) == pytest.approx(loss.item(), abs=1e-6)
    both = choose_loss("gce+dice")(logits, target, None)
    assert torch.allclose(both, loss + dice(logits, target))
    assert generalised_cross_entropy(logits, torch.full_like(target, 255)).item() == 0.0


def test_sum_and_unknown_loss() -> None:
    logits, target = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    together = choose_loss("ce+dice")(logits, target)
    assert torch.allclose(together, cross_entropy(logits, target) + dice(logits, target))
    with pytest.raises(InvalidOption, match="did you mean 'dice'"):
        choose_loss("dcie")


def _config(**changes: object) -> TrainConfig:
    return TrainConfig(
        **{
            "data": ("x",),
            "random_backbone": True,
            "batch_size": 2,
            "episodes_per_epoch": 20,
            "epochs": 10,
            "lr": 1.0,
            **changes,
        }
    )  # type: ignore[arg-type]


def test_learning_rates() -> None:
    assert [learning_rate(_config(), step) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]
    assert learning_rate(_config(schedule="cosine"), 0) == pytest.approx(1.0)
    assert learning_rate(_config(schedule="cosine"), 50) == pytest.approx(0.5)
    assert learning_rate(_config(schedule="poly"), 0) == pytest.approx(0.99**0.9)  # counted from 1, as SCCAN's
    assert learning_rate(_config(schedule="poly"), 49) == pytest.approx(0.5**0.9)
    assert learning_rate(_config(schedule="poly"), 99) == 0
    warm = [learning_rate(_config(schedule="cosine", warmup=3), step) for step in range(5)]
    assert warm[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert warm[4] < 1


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 2)


def test_optimisers() -> None:
    model = _Model()
    model.backbone.requires_grad_(False)
    (frozen,) = make_optimiser(model, _config()).parts
    assert isinstance(frozen, torch.optim.SGD)
    assert len(frozen.param_groups) == 1
    assert frozen.param_groups[0]["nesterov"]
    assert frozen.param_groups[0]["momentum"] == 0.9
    model.backbone.requires_grad_(True)
    both = make_optimiser(model, _config(optimiser="adamw", backbone_lr_factor=0.1))
    both.set_learning_rate(0.5)
    assert [group["lr"] for group in both.parts[0].param_groups] == [0.5, 0.05]
    assert isinstance(make_optimiser(model, _config(optimiser="adam")).parts[0], torch.optim.Adam)
    model.requires_grad_(False)
    with pytest.raises(InvalidOption, match="nothing to train"):
        make_optimiser(model, _config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 10**21}, "seed is 1000000000000000000000: give a number below"),
        ({"optimiser": "adamm"}, "did you mean 'adam'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"data": ()}, "no data"),
        ({"weights": (1.0, 2.0)}, "2 weights for 1 datasets"),
        ({"episodes_per_epoch": 1}, "less than batch"),
    ],
)
def test_bad_configs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        _config(**changes)


def test_config_goes_through_json() -> None:
    config = _config(weights=(2.0,), schedule="cosine")
    assert TrainConfig.from_json(config.to_json()) == config
