"""`fewseg demo`: teaches with a few real photographs, segments others, and shows it on a page that measures itself.

The photographs come with packages that fewseg depends on; the masks beside this file were drawn for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fewseg.core.files import make_folder, replacing, write_text
from fewseg.core.progress import ProgressCallback
from fewseg.inference.segmenter import Segmenter
from fewseg.tools.demo.answers import Answer, answer_all
from fewseg.tools.demo.page import render_page
from fewseg.tools.demo.photographs import sources, tasks
from fewseg.tools.demo.sheet import draw_sheet

__all__ = ["run"]


def run(
    out: str | os.PathLike[str],
    *,
    checkpoint: str = "default",
    device: str = "auto",
    precision: str = "auto",
    progress: ProgressCallback | None = None,
) -> Path:
    """Teach, segment and measure every task of the demo; returns the page.

    Writes into `out`: `index.html` (self-contained), `sheet.png` (the same at a glance) and `results.json` (the
    measured numbers).

    Args:
        out: folder, made where missing.
        checkpoint: what `Segmenter.from_pretrained` takes.
        device: as in `Segmenter`.
        precision: as in `Segmenter`.
        progress: called with queries done, of how many, and the last one's task.

    Raises:
        InvalidDataset: the package that carries the photographs is missing (the message says how to get it).
        InvalidCheckpoint, InvalidOption: the model, or where it shall run, does not work out.
        OutputError: `out` cannot be written.
    """
    for source in sources().values():
        _ = source.path  # what is missing is said before anything is computed
    folder = make_folder(out)
    segmenter = Segmenter.from_pretrained(checkpoint, device=device, precision=precision)
    answers = answer_all(segmenter, tasks(), progress)
    write_text(folder / "results.json", json.dumps(_results(checkpoint, answers), indent=2) + "\n")
    with replacing(folder / "sheet.png") as temporary:
        draw_sheet(answers).save(temporary, "PNG")
    page = folder / "index.html"
    write_text(page, render_page(answers, sources(), f"{Path(checkpoint).name} ({segmenter.method.name})"))
    return page


def mean_iou(answers: list[Answer]) -> float:
    """Mean over all queries and the labels that are in them."""
    values = [value for answer in answers for value in answer.iou.values()]
    return sum(values) / len(values)


def _results(checkpoint: str, answers: list[Answer]) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint,
        "mean_iou": round(mean_iou(answers), 4),
        "queries": [
            {
                "task": answer.task.name,
                "picture": answer.query.photograph,
                "box": answer.query.box,
                "shots": {label: len(views) for label, views in answer.task.support.items()},
                "iou": {label: round(value, 4) for label, value in answer.iou.items()},
                "scores": {label: round(float(v), 4) for label, v in answer.prediction.scores.items()},
                "present": answer.prediction.present,
                "seconds": round(answer.seconds, 3),
            }
            for answer in answers
        ],
    }
