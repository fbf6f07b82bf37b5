"""Results of an evaluation as `results.json` and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from fewseg.evaluation.evaluate import EvaluationResult
from fewseg.files import write_text


def write_results(path: str | os.PathLike[str], results: Sequence[EvaluationResult], about: dict[str, Any]) -> None:
    """Write the results with the single episodes' IoU, atomically; `about` says what was evaluated and how."""
    rows = []
    for result in results:
        episodes = [
            {
                "class": score.episode.class_id,
                "query": score.episode.query,
                "support": list(score.episode.support),
                "iou": score.iou,
            }
            for score in result.scores
        ]
        rows.append({**result.to_json(), "scores": episodes})
    write_text(path, json.dumps({**about, "results": rows}, indent=1) + "\n")


def markdown_table(results: Sequence[EvaluationResult]) -> str:
    """One line a dataset and number of shots; numbers in per cent, time of a query whose support is encoded already."""
    head = ("dataset", "shots", "fusion", "mIoU", "95 % interval", "FB-IoU", "classes", "episodes", "ms a query")
    rows = [
        (
            result.dataset,
            str(result.shots),
            result.fusion,
            f"{result.miou:.1f}",
            f"{result.miou_interval[0]:.1f} to {result.miou_interval[1]:.1f}",
            f"{result.fb_iou:.1f}",
            str(len(result.class_iou)),
            str(result.episodes),
            f"{1000 * result.seconds_per_query:.0f}",
        )
        for result in results
    ]
    return _aligned(head, rows)


def class_table(results: Sequence[EvaluationResult]) -> str:
    """IoU of every class in per cent, a column for each result on a dataset; one table a dataset."""
    tables = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        chosen = [result for result in results if result.dataset == dataset]
        names = dict.fromkeys(name for result in chosen for name in result.class_iou)
        head = (dataset, *(_column(result) for result in chosen))
        rows = [(name, *(f"{r.class_iou[name]:.1f}" if name in r.class_iou else "" for r in chosen)) for name in names]
        tables.append(_aligned(head, rows))
    return "\n\n".join(tables)


def _column(result: EvaluationResult) -> str:
    """`5-shot`, or `5-shot, vote` where the shots were fused."""
    return f"{result.shots}-shot" + ("" if result.fusion == "one-pass" else f", {result.fusion}")


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it is: first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(head), "| " + " | ".join(rule) + " |", *(line(row) for row in rows)])
