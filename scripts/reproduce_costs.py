"""Count what reproducing the papers' tables costs: operations, memory and disk of every recipe, as Markdown.

    python scripts/reproduce_costs.py [--recipes dcama-pascal5i-resnet50 ...]

One training step of a single episode, and one test query, are really run on noise, on the CPU, and counted:
floating-point operations by torch's counter (a multiply-add is two), memory as the tensors that are alive at once.
Totals are these counts times the recipe's episodes. Hours are computed from them for a device that sustains 10 TFLOP/s.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fewseg.core.memory import LiveTensors
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.tools.ablations.costs import noise
from fewseg.training.recipes import RECIPES, Recipe

SUSTAINED = 10e12
"""Operations a second that hours are computed for."""

PICTURES = {"pascal5i": 10_582, "coco20i": 82_081, "fss1000": 5_200}
"""That training reads: VOC train with SBD, train2014 with annotations, FSS-1000's training classes."""


@dataclass(frozen=True)
class Cost:
    """Counts of one method over one backbone; FLOPs, bytes."""

    step: float
    """Forward and backward pass of one episode."""
    backbone: float
    """Of them the frozen backbone's, which the feature cache saves."""
    memory: int
    """Of one episode in a training step, beyond the weights."""
    weights: int
    test: tuple[float, float]
    """One query with one and with five support images, nothing cached."""
    maps: int
    """One image's maps in bfloat16."""


def count(recipe: Recipe) -> Cost:
    """Run one step and two queries of a recipe."""
    fields = recipe.fields()
    torch.manual_seed(0)
    method = create_method(fields["method"], backbone=fields["backbone"], image_size=fields["image_size"])
    weights = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    test = (_test(method, 1), _test(method, 5))
    query, images, masks = noise(method, fields["shots"][0])
    with torch.no_grad():
        backbone = _flops(lambda: method.backbone(query)) * (1 + images.shape[1])
        maps = sum(m.numel() for m in method.backbone(query)) * 2
    method.backbone.requires_grad_(False)
    method.train()

    def step() -> None:
        logits = method(query, images, masks)
        F.cross_entropy(logits, masks[:, 0].long()).backward()

    with LiveTensors() as watch:
        step()
    return Cost(_flops(step), backbone, watch.peak, weights, test, maps)


@torch.no_grad()
def _test(method: FewShotMethod, shots: int) -> float:
    config = method.config
    if hasattr(config, "implementation"):  # a fused kernel's padding would count too
        method.config = dataclasses.replace(config, implementation="reference")
    try:
        return _flops(lambda: method.eval()(*noise(method, shots)))
    finally:
        method.config = config


def _flops(run: object) -> float:
    assert callable(run)
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


HEAD = (
    "recipe",
    "episodes (a fold)",
    "GFLOP an episode",
    "of them frozen backbone",
    "hours a fold",
    "hours, feature cache",
    "GiB, whole batch",
    "GB of feature cache",
    "test GFLOP, 1 / 5 shots",
)


def line(recipe: Recipe, cost: Cost) -> str:
    """A row of the table; means over the folds."""
    fields = recipe.fields()
    known = [count for count in recipe.episodes if count]
    episodes = sum(known) / len(known) * fields["epochs"]
    kept = episodes * (cost.step - cost.backbone) + PICTURES[recipe.benchmark] * cost.backbone / 2
    varied = fields["augment"] != "none"
    cells = (
        recipe.name,
        f"{episodes / 1e6:.2f} million",
        f"{cost.step / 1e9:.0f}",
        f"{cost.backbone / 1e9:.0f}",
        f"{episodes * cost.step / SUSTAINED / 3600:.0f}",
        "-" if varied else f"{kept / SUSTAINED / 3600:.0f}",
        f"{(cost.memory * fields['batch_size'] + cost.weights) / 2**30:.0f}",
        "-" if varied else f"{PICTURES[recipe.benchmark] * cost.maps / 1e9:.0f}",
        f"{cost.test[0] / 1e9:.0f} / {cost.test[1] / 1e9:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), default=list(RECIPES), metavar="NAME")
    args = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1), sep="\n")
    counted: dict[tuple[object, ...], Cost] = {}
    for name in args.recipes:
        recipe = RECIPES[name]
        fields = recipe.fields()
        key = (fields["method"], fields["backbone"], fields["shots"])
        if key not in counted:
            counted[key] = count(recipe)
        print(line(recipe, counted[key]), flush=True)


if __name__ == "__main__":
    main()
