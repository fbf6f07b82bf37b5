"""Results of an evaluation as `results.json` and as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from fewseg.core.files import write_text
from fewseg.evaluation.evaluate import EvaluationResult
from fewseg.evaluation.published import Published, published
from fewseg.evaluation.summary import Summary, summarise


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
                "rom": score.rom,
                "rum": score.rum,
            }
            for score in result.scores
        ]
        rows.append({**result.to_json(), "scores": episodes})
    means = [summary.to_json() for summary in summarise(results)]
    write_text(path, json.dumps({**about, "means": means, "results": rows}, indent=1) + "\n")


def write_times(path: str | os.PathLike[str], results: Sequence[EvaluationResult], about: dict[str, Any]) -> None:
    """Write what differs from run to run: the time of a query; `about` says on what."""
    keys = ("dataset", "fold", "shots", "seed", "fusion", "seconds_per_query")
    rows = [{key: getattr(result, key) for key in keys} for result in results]
    write_text(path, json.dumps({**about, "results": rows}, indent=1) + "\n")


def markdown_table(results: Sequence[EvaluationResult]) -> str:
    """One line a result; numbers in per cent, time of a query whose support is encoded already."""
    columns: dict[str, list[str]] = {
        "dataset": [r.dataset for r in results],
        "fold": ["" if r.fold is None else str(r.fold) for r in results],
        "shots": [str(r.shots) for r in results],
        "seed": ["" if r.seed is None else str(r.seed) for r in results],
        "fusion": [r.fusion for r in results],
        "mIoU": [f"{r.miou:.1f}" for r in results],
        "95 % interval": ["{:.1f} to {:.1f}".format(*r.miou_interval) for r in results],
        "FB-IoU": [f"{r.fb_iou:.1f}" for r in results],
        "ROM": [_share(r.rom) for r in results],
        "RUM": [_share(r.rum) for r in results],
        "classes": [str(len(r.class_iou)) for r in results],
        "episodes": [str(r.episodes) for r in results],
        "ms a query": [f"{1000 * r.seconds_per_query:.0f}" for r in results],
    }
    # A seed that all share is in the protocol; what no result has is left out.
    if len(set(columns["seed"])) == 1:
        del columns["seed"]
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    return aligned(tuple(columns), list(zip(*columns.values(), strict=True)))


def published_tables(results: Sequence[EvaluationResult], method: str, backbone: str) -> str:
    """Means over folds and seeds with the papers' numbers for this method and backbone below; one table each.

    Means that the papers take over all folds stand beside measured ones over all folds only. Empty where there is
    neither a mean to take nor a published number.
    """
    tables = []
    for summary in summarise(results):
        rows = published(method, backbone, summary.benchmark, summary.shots)
        if rows or len(summary.folds) > 1 or len(summary.seeds) > 1:
            tables.append(_beside(summary, rows))
    return "\n\n".join(tables)


def _beside(summary: Summary, rows: Sequence[Published]) -> str:
    numbers = sorted({*summary.folds, *(i for row in rows for i in range(len(row.folds)))})
    whole = not any(row.folds for row in rows) or len(summary.folds) == len(numbers)
    folds = numbers if len(numbers) > 1 else []
    fused = "" if summary.fusion == "one-pass" else f", {summary.fusion}"
    head = [
        f"{summary.dataset}, {summary.shots}-shot{fused}",
        *(f"fold {i}" for i in folds),
        "mIoU",
        "FB-IoU",
        "ROM",
        "RUM",
    ]
    low_high = summary.miou_interval
    spread = "" if low_high is None else f" ± {(low_high[1] - low_high[0]) / 2:.1f}"
    measured = ["measured", *(f"{summary.folds[i]:.1f}" if i in summary.folds else "" for i in folds)]
    if whole:
        means = (f"{summary.miou:.1f}{spread}", f"{summary.fb_iou:.1f}", _share(summary.rom), _share(summary.rum))
        measured += means
    lines = [measured + [""] * (len(head) - len(measured))]
    for row in rows:
        cells = [row.source, *(f"{row.folds[i]:.1f}" if i < len(row.folds) else "" for i in folds)]
        fb_iou = "" if row.fb_iou is None else f"{row.fb_iou:.1f}"
        lines.append([*cells, f"{row.miou:.1f}", fb_iou, _share(row.rom), _share(row.rum)])
    return aligned(head, lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def class_table(results: Sequence[EvaluationResult]) -> str:
    """IoU of every class in per cent, a column for each result on a dataset; one table a dataset."""
    tables = []
    for dataset in dict.fromkeys(result.dataset for result in results):
        chosen = [result for result in results if result.dataset == dataset]
        names = dict.fromkeys(name for result in chosen for name in result.class_iou)
        head = (dataset, *(_column(result, chosen) for result in chosen))
        rows = [(name, *(f"{r.class_iou[name]:.1f}" if name in r.class_iou else "" for r in chosen)) for name in names]
        tables.append(aligned(head, rows))
    return "\n\n".join(tables)


def _column(result: EvaluationResult, others: Sequence[EvaluationResult]) -> str:
    """`5-shot`, and what else tells it from the other columns: `5-shot, vote, fold 1, seed 2`."""
    words = [f"{result.shots}-shot", *([] if result.fusion == "one-pass" else [result.fusion])]
    for key in ("fold", "seed"):
        if len({getattr(other, key) for other in others}) > 1:
            words.append(f"{key} {getattr(result, key)}")
    return ", ".join(words)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it is: first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(head), "| " + " | ".join(rule) + " |", *(line(row) for row in rows)])
