"""The papers' numbers, carried in the package, to print beside measured ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fewseg.models.methods import FewShotMethod

_SHOTS: Final = {1: "one_shot", 5: "five_shot"}


@dataclass(frozen=True)
class Published:
    """One row of a paper's table; per cent, None where the paper does not say."""

    source: str
    miou: float
    fb_iou: float | None
    folds: tuple[float, ...] = ()
    rom: float | None = None
    rum: float | None = None


def paper_backbone(method: FewShotMethod) -> str:
    """The name of a method's backbone in the tables, where its paper means a variant of its own."""
    names = {own: name for name, own in method.backbone_aliases.items()}
    return names.get(method.backbone.name, method.backbone.name)


@cache
def paper_results() -> dict[str, Any]:
    """`results` (the main tables) and `ablations`, as in `paper_results.json`."""
    text = resources.files("fewseg").joinpath("evaluation", "paper_results.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def published(method: str, backbone: str, benchmark: str | None, shots: int) -> list[Published]:
    """The rows for exactly this method, backbone, benchmark and number of shots; empty where there are none."""
    found = []
    for row in paper_results()["results"]:
        known = (row["method"], row["backbone"], row["benchmark"]) == (method, backbone, benchmark)
        if known and _SHOTS.get(shots) in row:
            values = row[_SHOTS[shots]]
            folds = tuple(values.get("folds", ()))
            regions = _regions(method, backbone, row["benchmark"], shots)
            found.append(Published(row["source"], values["miou"], values["fb_iou"], folds, *regions))
    return found


def _regions(method: str, backbone: str, benchmark: str, shots: int) -> tuple[float | None, float | None]:
    """ROM and RUM of the DCAMA paper's Table S1."""
    table = paper_results()["ablations"]["rom_rum"]
    if (table["backbone"], table["shots"]) != (backbone, shots):
        return None, None
    rom, rum = table["rows"].get(method, {}).get(benchmark, (None, None))
    return rom, rum
