"""The explanations as figures for a page of a paper: 7 inches wide, small type, colours that print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewseg.core.errors import unknown
from fewseg.core.files import replacing
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.images.draw import label_colours
from fewseg.images.read import fitted
from fewseg.models.ops.resize import resize
from fewseg.tools.explain.attention import BlockAttention, Point, mean_attention
from fewseg.tools.explain.case import Explained
from fewseg.tools.explain.features import FeatureCloud
from fewseg.tools.explain.intermediate import binarised, scale_masks

FORMATS: Final = ("png", "pdf", "svg")
WIDTH: Final = 7.0
"""Inches: the width of a page's text."""
TALLEST, NARROWEST = 2.5, 3.4
"""Inches: the most that a row of images takes, and what a title needs."""
SIDE: Final = 480
"""Images are shrunk to this many pixels: enough for print at their size, small files."""
TRUTH, PREDICTED = "#e69f00", "#56b4e9"
"""Outlines of true and of predicted masks."""
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 8,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "axes.titlesize": 8,
    "figure.titlesize": 8,
    "legend.title_fontsize": 8,
}


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 160) -> None:
    """Write a figure as PNG, PDF or SVG by the path's ending, atomically, the same bytes every time.

    Raises `OutputError` where it cannot be written, `InvalidOption` for another ending.
    """
    kind = os.fspath(path).rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise unknown("figure format", kind, FORMATS)
    dated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "fewseg"}), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=dated)


@mpl.rc_context(_STYLE)
def attention_figure(
    explained: Explained, points: Sequence[Point], blocks: Sequence[BlockAttention], title: str = ""
) -> Figure:
    """A row a point: the query with the point, then every support image under the attention paid to it.

    Attention is the mean over heads and the given blocks, as a multiple of what even attention would pay a pixel.
    """
    case = explained.case
    heat = mean_attention(blocks)
    heat = heat * heat[0].numel()
    aggregated = [float(np.mean([float(b.aggregated[p]) for b in blocks])) for p in range(len(points))]
    shots = len(case.support)
    figure, axes = _grid(len(points), 1 + shots, [case.query, *(image for image, _ in case.support)], bar=True)
    for row, point in enumerate(points):
        _show(axes[row][0], case.query)
        _outline(axes[row][0], _predicted(explained), PREDICTED)
        _mark(axes[row][0], case.query, point)
        top = float(np.quantile(heat[row].numpy(), 0.998))  # a few pixels must not darken all others
        for shot, (image, mask) in enumerate(case.support):
            drawn = _heat(axes[row][1 + shot], image, heat[row, shot], top)
            _outline(axes[row][1 + shot], mask == 1, TRUTH)
        bar = figure.colorbar(drawn, ax=axes[row][-1], fraction=0.05, pad=0.03, shrink=0.9)
        bar.ax.tick_params(labelsize=6)
        bar.set_label("times even attention", fontsize=7)
        axes[row][0].set_ylabel(f"point {row + 1}: mask {aggregated[row]:.2f}")
    axes[0][0].set_title("query (blue: prediction)")
    for shot in range(shots):
        axes[0][1 + shot].set_title(f"support {shot + 1}" if shots > 1 else "support (orange: its mask)")
    figure.suptitle(title or _blocks_word(blocks))
    return figure


@mpl.rc_context(_STYLE)
def masks_figure(explained: Explained) -> Figure:
    """Above the query, the aggregated mask of every scale, the probability; below each cut into a mask, with its IoU.

    Scales are cut at Otsu's threshold, the probability at a half.
    """
    case = explained.case
    masks = scale_masks(explained.method, explained.query, explained.support)
    size = case.query.height, case.query.width
    figure, axes = _grid(2, 2 + len(masks), [case.query] * (2 + len(masks)))
    _show(axes[0][0], case.query)
    if case.truth is not None:
        _outline(axes[0][0], case.truth == 1, TRUTH)
    axes[0][0].set_title("query" if case.truth is None else "query (orange: truth)")
    first, label = case.support[0]
    _show(axes[1][0], first)
    _outline(axes[1][0], label == 1, TRUTH)
    axes[1][0].set_xlabel("support" if len(case.support) == 1 else f"first of {len(case.support)} supports")
    columns = [(f"1/{s}: {_layers(explained, s)}", mask[0], binarised(mask[0], size)) for s, mask in masks.items()]
    whole = resize(explained.probability[None, None], size)[0, 0] >= 0.5
    columns.append(("decoder: probability", explained.probability, whole))
    for column, (title, values, cut) in enumerate(columns, 1):
        axes[0][column].imshow(values.numpy(), cmap="magma", interpolation="nearest", extent=(0, size[1], size[0], 0))
        axes[0][column].set_title(title)
        _show(axes[1][column], case.query)
        _outline(axes[1][column], cut.numpy(), PREDICTED, fill=True)
        word = "at a half" if column == len(columns) else "Otsu"
        axes[1][column].set_xlabel(word + _iou_word(cut.numpy(), case.truth))
    return figure


@mpl.rc_context(_STYLE)
def features_figure(cloud: FeatureCloud, planes: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Figure:
    """The backbone's features and the penultimate ones side by side, a colour a class, background grey."""
    figure = Figure((WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = np.array(cloud.labels)
    names = [name for name in dict.fromkeys(cloud.labels) if name != "background"]
    colours = {k: tuple(v / 255 for v in colour) for k, colour in label_colours(names).items()}
    for axis, plane, title in zip(axes, planes, ("backbone features", "penultimate features"), strict=True):
        for name, colour in (("background", (0.72, 0.72, 0.72)), *colours.items()):
            chosen = plane[labels == name]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=5, linewidths=0, alpha=0.8, color=colour, label=name)
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    known = "" if cloud.from_truth else " (labels: the prediction's)"
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(6, 1 + len(names)),
        frameon=False,
        markerscale=3,
        title=f"t-SNE of the query's pixels{known}",
    )
    return figure


def _grid(rows: int, columns: int, images: Sequence[Image.Image], *, bar: bool = False) -> tuple[Figure, Any]:
    """A figure of axes without ticks, columns as wide as their images ask; narrower for tall images."""
    shares = [p.width / p.height for p in images]
    beside = sum(shares) + (0.35 if bar else 0)
    row = min(WIDTH / beside, TALLEST)
    figure = Figure((max(row * beside, NARROWEST), rows * (row + 0.25) + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=shares)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, axes


def _show(axis: Any, image: Image.Image, *, grey: bool = False) -> None:
    shown = fitted(image, SIDE, enlarge=False)
    values = np.asarray(shown.convert("L")) / 255 * 0.75 if grey else np.asarray(shown)
    axis.imshow(values, cmap="gray", vmin=0, vmax=1, extent=(0, image.width, image.height, 0))


def _heat(axis: Any, image: Image.Image, values: Tensor, top: float) -> Any:
    """The grey image with the heat over it, opaque where there is much."""
    _show(axis, image, grey=True)
    smooth = resize(values[None, None], _shown_size(image))[0, 0].numpy()
    opacity = np.clip(smooth / top, 0, 1) ** 0.5 * 0.9
    extent = (0, image.width, image.height, 0)
    return axis.imshow(smooth, cmap="inferno", vmin=0, vmax=top, alpha=opacity, extent=extent)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    shown = fitted(image, SIDE, enlarge=False)
    return shown.height, shown.width


def _outline(axis: Any, mask: NDArray[np.bool_], colour: str, *, fill: bool = False) -> None:
    """The mask's outline, where it has one."""
    if not mask.any():
        return
    height, width = mask.shape
    step = max(1, max(mask.shape) // SIDE)
    small = mask[::step, ::step]
    across = (np.arange(small.shape[1]) + 0.5) * width / small.shape[1]
    down = (np.arange(small.shape[0]) + 0.5) * height / small.shape[0]
    # A rim of zeros closes outlines at the image's border.
    padded = np.pad(small, 1).astype(float)
    across, down = np.concatenate([[0], across, [width]]), np.concatenate([[0], down, [height]])
    if fill:
        axis.contourf(across, down, padded, levels=[0.5, 1.5], colors=[colour], alpha=0.45)
    axis.contour(across, down, padded, levels=[0.5], colors=[colour], linewidths=1.2)


def _mark(axis: Any, image: Image.Image, point: Point) -> None:
    x, y = point[0] * image.width, point[1] * image.height
    axis.plot([x], [y], "o", markersize=7, markerfacecolor="#d55e00", markeredgecolor="white", markeredgewidth=1.4)


def _predicted(explained: Explained) -> NDArray[np.bool_]:
    size = explained.case.query.height, explained.case.query.width
    return np.asarray((resize(explained.probability[None, None], size)[0, 0] >= 0.5).numpy())


def _layers(explained: Explained, scale: int) -> str:
    count = sum(b.scale == scale for b in explained.method.backbone.blocks)
    return f"{count} layers" if count > 1 else "1 layer"


def _iou_word(predicted: NDArray[np.bool_], truth: NDArray[np.uint8] | None) -> str:
    if truth is None:
        return ""
    both, either = intersection_and_union(predicted, truth)
    return f", IoU {both[1] / max(either[1], 1):.2f}"


def _blocks_word(blocks: Sequence[BlockAttention]) -> str:
    scales = ", ".join(f"1/{s}" for s in sorted({b.scale for b in blocks}))
    return f"attention, mean of heads and {len(blocks)} blocks ({scales})"
