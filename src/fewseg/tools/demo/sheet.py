"""The demo at a glance: one PNG, a row a task: the supports, then the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewseg.images.draw import Colour, contact_sheet, overlay
from fewseg.images.read import fitted
from fewseg.tools.demo.answers import Answer
from fewseg.tools.demo.photographs import DemoTask, PhotoWindow

SIDE = 300
"""Longest side of an image on the sheet, in pixels."""


def support_image(view: PhotoWindow, label: str, task: DemoTask, side: int) -> Image.Image:
    """A support image with the mask it was taught with, `side` pixels long."""
    return _painted(view.image(), {label: view.mask(label) > 0}, task.colours, side)


def predicted_image(answer: Answer, side: int) -> Image.Image:
    """A query with every label's mask, present or not; overlaps go to the more probable label."""
    predicted = answer.prediction
    masks = {label: predicted.label_map == i for i, label in enumerate(predicted.labels, 1)}
    return _painted(answer.query.image(), masks, answer.task.colours, side)


def _painted(
    image: Image.Image, masks: dict[str, NDArray[np.bool_]], colours: dict[str, Colour], side: int
) -> Image.Image:
    """The overlay at the size it is shown, so that outlines stay thin and smooth on small images."""
    large = fitted(image, side)
    smooth = {
        label: np.asarray(Image.fromarray(mask).convert("L").resize(large.size, Image.Resampling.BILINEAR)) > 127
        for label, mask in masks.items()
    }
    return overlay(large, smooth, colours, legend=False)


def draw_sheet(answers: Sequence[Answer]) -> Image.Image:
    """All tasks below each other."""
    rows = [_row(list(group)) for _, group in groupby(answers, key=lambda answer: answer.task.name)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(answers: list[Answer]) -> Image.Image:
    task = answers[0].task
    images, titles = [], []
    for label, views in task.support.items():
        for view in views:
            images.append(support_image(view, label, task, SIDE))
            titles.append(f"taught: {label}")
    for answer in answers:
        images.append(predicted_image(answer, SIDE))
        titles.append(", ".join(f"{label}: IoU {value:.2f}" for label, value in answer.iou.items()))
    row = contact_sheet(images, titles, columns=len(images), side=SIDE)
    result = Image.new("RGB", (row.width, row.height + 40), "white")
    result.paste(row, (0, 40))
    ImageDraw.Draw(result).text((12, 14), task.title, fill=(20, 20, 20), font=ImageFont.load_default(22))
    return result
