"""An experiment's results beside the paper's numbers: a Markdown table and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fewseg.core.files import make_folder, write_text
from fewseg.evaluation.report import aligned
from fewseg.tools.ablations.experiments import Experiment, Variant
from fewseg.tools.ablations.measure import ResultRow
from fewseg.tools.ablations.run import ExperimentResult
from fewseg.tools.ablations.settings import Settings, deciding_settings

HEADS: Final[dict[str, tuple[str, str, str]]] = {
    "miou": ("mIoU", ".1f", "miou"),
    "fb_iou": ("FB-IoU", ".1f", "fb_iou"),
    "rom": ("ROM", ".3f", "rom"),
    "rum": ("RUM", ".3f", "rum"),
    "epochs": ("epochs to the best", ".0f", "epochs"),
    "gmacs": ("G multiply-adds, counted", ".1f", "gflops"),
    "backbone_gmacs": ("of them backbone", ".1f", ""),
    "seconds": ("s, support and query", ".3f", ""),
    "query_seconds": ("s, query alone", ".3f", "seconds"),
    "shots": ("shots", ".0f", ""),
    "megabytes": ("MiB at most", ".0f", ""),
}
"""Column to its heading, its format, and the paper's name for it; empty where the paper has no such number."""

NOTES: Final = {
    "cost": "Multiply-adds are counted by torch's counter as one query with one support image is computed, both "
    "through the backbone; the paper's column is its GFLOPs, which it does not define. The paper's seconds are its one "
    "number for inference, on its GPU.",
    "shots": "MiB beyond weights and inputs: on a GPU as its allocator saw them, elsewhere counted from the tensors "
    "that are alive together.",
}


def table(result: ExperimentResult) -> str:
    """Markdown: where, measured against the paper's numbers, and what they mean."""
    experiment = result.experiment
    where = "" if result.protocol is None else f"Measured: {result.protocol.describe()}. "
    lines = [
        f"## {experiment.name} ({experiment.source})",
        experiment.about,
        f"{where}Paper: {experiment.setting}.",
        aligned(*_cells(result)),
    ]
    return "\n\n".join([*lines, *([NOTES[experiment.measure]] if experiment.measure in NOTES else [])])


def _cells(result: ExperimentResult) -> tuple[list[str], list[list[str]]]:
    experiment, rows = result.experiment, result.rows
    columns = [c for c in experiment.columns if any(c in row for row in rows)]
    papers = [_paper(result, row) for row in rows]
    head, cells = ["variant"], [[str(row["title"])] for row in rows]
    for column in columns:
        title, form, paper = HEADS[column]
        head.append(title)
        published = [values.get(paper) for values in papers]
        beside = any(value is not None for value in published)
        if beside:
            head.append("paper")
        for line, row, value in zip(cells, rows, published, strict=True):
            line.append(_measured(row, column, form))
            if beside:
                line.append("" if value is None else f"{value:g}")
    return head, cells


def _measured(row: ResultRow, column: str, form: str) -> str:
    if column not in row:
        return ""
    low = f" ({row['miou_low']:.1f} to {row['miou_high']:.1f})" if column == "miou" and "miou_low" in row else ""
    return f"{row[column]:{form}}{low}"


def _paper(result: ExperimentResult, row: ResultRow) -> dict[str, float]:
    """The paper's numbers stand at its own number of shots only."""
    experiment = result.experiment
    if experiment.measure == "scores" and row.get("shots") not in experiment.shots:
        return {}
    variant = next(v for v in experiment.variants if v.title == row["variant"])
    return experiment.paper(variant, result.benchmark)


def write_experiment(folder: Path, result: ExperimentResult, settings: Settings) -> None:
    """Write `results.json` and `table.md`."""
    make_folder(folder)
    rows = [{**row, "paper": _paper(result, row)} for row in result.rows]
    content: dict[str, Any] = {
        "experiment": result.experiment.name,
        "source": result.experiment.source,
        "settings": deciding_settings(settings),
        "protocol": result.protocol.to_json() if result.protocol else None,
        "rows": rows,
    }
    write_text(folder / "results.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "table.md", table(result) + "\n")


def listing(experiments: Sequence[Experiment]) -> str:
    """Every experiment with what it compares."""
    lines = []
    for experiment in experiments:
        trained = {"each": "trains every variant", "once": "one model", "never": "no training"}[experiment.trains]
        lines.append(f"{experiment.name} ({experiment.source}; {trained})")
        lines.append(f"  {experiment.about}")
        lines += [f"  - {variant.title}{_numbers(experiment, variant)}" for variant in experiment.variants]
    return "\n".join(lines)


def _numbers(experiment: Experiment, variant: Variant) -> str:
    values = experiment.paper(variant)
    return f": {', '.join(f'{name} {value:g}' for name, value in values.items())}" if values else ""
