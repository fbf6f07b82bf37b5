"""The demo's page: one self-contained HTML file, images embedded."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.images.encode import encode
from fewseg.images.read import fitted
from fewseg.tools.demo.answers import Answer
from fewseg.tools.demo.photographs import Source
from fewseg.tools.demo.sheet import predicted_image, support_image

SIDE = 420
"""Longest side of an embedded image, in pixels."""

_RAMP = np.array([[13, 17, 38], [52, 40, 110], [150, 48, 110], [235, 106, 62], [252, 238, 170]], np.float32)
"""Colours of probability 0, 1/4 ... 1: dark to light in even steps, so that grey printers keep the order."""


def render_page(answers: Sequence[Answer], sources: Mapping[str, Source], model: str) -> str:
    """The whole page as text."""
    values = [value for answer in answers for value in answer.iou.values()]
    template = Template((resources.files(__package__) / "page.html").read_text("utf-8"))
    sections = [_section(list(group)) for _, group in groupby(answers, key=lambda answer: answer.task.name)]
    seconds = sum(answer.seconds for answer in answers) / len(answers)
    return template.substitute(
        mean=f"{sum(values) / len(values):.2f}",
        queries=len(answers),
        seconds=f"{seconds:.2f}",
        model=html.escape(model),
        sections="\n".join(sections),
        credits="\n".join(_credit(source) for source in sources.values()),
    )


def _section(answers: list[Answer]) -> str:
    task = answers[0].task
    taught = [
        _figure(support_image(view, label, task, SIDE), f"taught: {label}", f"{label}, as it was taught")
        for label, views in task.support.items()
        for view in views
    ]
    return "\n".join(
        [
            f'<section id="{html.escape(task.name)}"><h2>{html.escape(task.title)}</h2>',
            f"<p>{html.escape(task.about)}</p>",
            f'<div class="row taught">{"".join(taught)}</div>',
            *(_query(answer) for answer in answers),
            "</section>",
        ]
    )


def _query(answer: Answer) -> str:
    chips = []
    for label, score in answer.prediction.scores.items():
        present = answer.prediction.present[label]
        if label in answer.iou:
            value = f"IoU {answer.iou[label]:.2f}" + ("" if present else ", yet judged absent")
        else:
            value = "not in the image, " + ("yet judged present" if present else "judged absent")
        style = f"--dot: rgb{answer.task.colours[label]}"
        chips.append(f'<li style="{style}"><b>{html.escape(label)}</b> {value} <small>score {score:.2f}</small></li>')
    shown = [
        _figure(fitted(answer.query.image(), SIDE), "asked about", "an image the model has not seen"),
        _figure(predicted_image(answer, SIDE), "found", "the masks that were found"),
    ]
    for label in answer.iou:
        heat = fitted(Image.fromarray(heat_map(answer.prediction.probabilities[label])), SIDE)
        shown.append(_figure(heat, f"probability: {label}", f"foreground probability of {label}, dark to light"))
    return f'<ul class="chips">{"".join(chips)}</ul><div class="row">{"".join(shown)}</div>'


def heat_map(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities (H, W) in [0, 1] as colours (H, W, 3)."""
    steps = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(probability, steps, _RAMP[:, c]) for c in range(3)], -1).astype(np.uint8)


def _figure(image: Image.Image, caption: str, alternative: str) -> str:
    data = base64.b64encode(encode(image, "JPEG", quality=88)).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{html.escape(alternative)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def _credit(source: Source) -> str:
    cells = (source.title, source.credit, source.licence, f"{source.package}/{source.file}")
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
