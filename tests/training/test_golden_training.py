"""Five training steps of each paper's recipe against those of the authors' code: loss, gradients, updates.

The files hold, a row a tensor by its released name, the norm and up to six values evenly spaced over it: of the
gradient of the first step, and of what one and five steps add to the weights.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fewseg.core.distributed import SINGLE_PROCESS
from fewseg.models.checkpoints.official import _READERS, _renamed, load_official
from fewseg.models.methods import FewShotMethod
from fewseg.training.batches import EpisodeImages
from fewseg.training.config import TrainConfig
from fewseg.training.optim import learning_rate, make_optimiser
from fewseg.training.recipes import find_recipe
from fewseg.training.step import Gradient
from helpers.golden_models import fill, golden, inputs, released_state


class Case(NamedTuple):
    """What is compared, and how closely."""

    options: dict[str, Any]
    """Of the method: no dropout."""
    loss: float
    """Largest relative error of the losses from the third step on; of the first two 1e-5."""
    gradient: float
    """Largest error of a gradient's values, relative to the largest one or the root mean square."""
    norms: tuple[float, float]
    """Largest relative error of the norms of what one and five steps move a tensor by; Adam amplifies rounding."""


CASES = {
    "dcama": Case({"dropout": 0.0}, 1e-5, 1e-4, (1e-3, 1e-3)),
    "hsnet": Case({}, 1e-4, 1e-4, (0.01, 0.03)),
    "sccan": Case({"dropout": 0.0, "head_dropout": 0.0, "feature_size": 64}, 1e-4, 1e-3, (1e-3, 1e-3)),
}


def batch(step: int, size: int, ignored: bool) -> EpisodeImages:
    """The two episodes of a step; with ignored pixels where the file says so."""
    query, images, masks = inputs(100 + step, size, 1, 2)
    target = torch.from_numpy(np.stack([fill.mask(100 + step, f"qmask.{b}", size) for b in range(2)])).long()
    if ignored:
        target[:, :10, :7] = 255
        masks[:, :, -9:, :5] = 255
    return EpisodeImages(torch.cat([query, images[:, 0]]), (0, 1), (2, 3), target, (masks == 1).float())


def row(tensor: Tensor) -> list[float]:
    """A row of the files."""
    flat = tensor.detach().flatten()
    places = np.linspace(0, flat.numel() - 1, min(6, flat.numel())).round().astype(int)
    values = [float(flat.double().norm()), *flat[places].tolist()]
    return values + [math.nan] * (7 - len(values))


def five_steps(method: FewShotMethod, config: TrainConfig, ignored: bool) -> tuple[list[float], dict[str, Any]]:
    """Losses of five steps and, by the names of the files and ours, rows of tensors that have a gradient."""
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimiser, gradient = make_optimiser(method, config), Gradient(method, config, SINGLE_PROCESS)
    losses, rows = [], {}
    for step in range(5):
        optimiser.set_learning_rate(learning_rate(config, step))
        losses.append(gradient([batch(step, config.image_size, ignored)], step)[0])
        if step == 0:
            rows["gradient"] = {name: row(p.grad) for name, p in trained.items() if p.grad is not None}
        optimiser.step()
        if step in (0, 4):
            rows[f"moved_{step + 1}"] = {name: row(p - before[name]) for name, p in trained.items()}
    return losses, rows


@pytest.mark.parametrize("name", ["dcama", "hsnet", pytest.param("sccan", marks=pytest.mark.slow)])
def test_five_steps_are_the_authors(name: str) -> None:
    case, (expected, meta) = CASES[name], golden(f"training_{name}_resnet50")
    state = released_state(f"keys_{name}_resnet50.tsv", 11, prefix="")
    size = int(meta["size"])
    method = load_official(state, name, "resnet50", image_size=size, **case.options)
    # 200 epochs of 5,697 steps: what the file's schedule counts on.
    given = {"data": ("synthetic",), "image_size": size, "batch_size": 2, "episodes_per_epoch": 11_394}
    config = TrainConfig(**{**find_recipe(f"{name}-pascal5i-resnet50").fields(0), **given})
    losses, rows = five_steps(method, config, name == "sccan")

    ours = {key: new for key in state for new, _ in _renamed({key: state[key]}, _READERS[name])}
    names = [ours[key.decode()] for key in expected["names"]]
    assert {*names} == {*rows["gradient"]} == {*rows["moved_5"]}
    np.testing.assert_allclose(losses[:2], expected["losses"][:2], rtol=1e-5)
    np.testing.assert_allclose(losses, expected["losses"], rtol=case.loss)
    for which, truth in expected.items():
        if which in ("losses", "names"):
            continue
        for key, wanted in zip(names, truth, strict=True):
            own = rows[which][key]
            if name == "dcama" and ".support." in key and key.endswith("bias"):
                continue  # its true gradient is 0: it shifts all scores of a softmax alike
            if which == "gradient":
                largest = max(np.nanmax(np.abs(wanted[1:])), wanted[0] / method.get_parameter(key).numel() ** 0.5)
                assert np.nanmax(np.abs(np.subtract(own, wanted)[1:])) <= case.gradient * largest, key
            else:
                assert own[0] == pytest.approx(wanted[0], rel=case.norms[which == "moved_5"]), (which, key)
