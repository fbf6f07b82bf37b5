"""Cost curves as figures for a paper: two panels, time and memory, a line a variant and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fewseg.core.files import make_folder, replacing
from fewseg_bench.names import OPTIMISED
from fewseg_bench.report import PRECISION_WORDS, variant_words
from fewseg_bench.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES: Final = {"shots": "support images n", "size": "side of the input, pixels", "labels": "labels"}
"""What each curve's places are."""

COLOURS: Final = ("#7f7f7f", "#0072b2", "#d55e00")
"""Of the variants, distinguishable by colour-blind readers; the baseline is grey."""

STYLES: Final = {"float32": "-", "bfloat16": "--", "float16": ":"}
"""Line of a precision."""

SUBDIVISIONS: Final = ((200.0, (1.0,)), (8.0, (1.0, 2.0, 5.0)), (0.0, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
"""Which multiples of powers of ten have a tick, for axes that span more than a factor."""


def draw_plots(results: Results, folder: Path) -> list[Path]:
    """`curve-MODEL-AGAINST` as PNG and PDF for every curve that was measured; returns the PNGs' paths."""
    rows, drawn = results.rows("curves"), []
    for model in dict.fromkeys(row["model"] for row in rows):
        for curve in dict.fromkeys(row["curve"] for row in rows):
            chosen = [row for row in rows if (row["model"], row["curve"]) == (model, curve)]
            if chosen:
                drawn.append(_draw(chosen, make_folder(folder) / f"curve-{model}-{curve}"))
    return drawn


def _draw(rows: Sequence[Row], stem: Path) -> Path:
    import matplotlib

    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        measured = any(row["memory_mib"] is not None for row in rows)
        figure = Figure(figsize=(6.8 if measured else 4.2, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 1 + measured, squeeze=False)[0]
        _lines(panels[0], rows, lambda row: row["seconds"])
        panels[0].set_ylabel("seconds a query")
        if measured:
            _lines(panels[1], rows, lambda row: row["memory_mib"])
            _kept(panels[1], rows)
            panels[1].set_ylabel("MiB")
        for axes in panels:
            _finish(axes, rows)
        lines = {str(line.get_label()): line for axes in panels for line in axes.lines}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=6.5)
        figure.suptitle(str(rows[0]["about"]), fontsize=9)
        path = stem.with_name(f"{stem.name}.png")
        for suffix in ("png", "pdf"):
            with replacing(stem.with_name(f"{stem.name}.{suffix}")) as temporary:
                figure.savefig(temporary, format=suffix, dpi=200)
        return path


def _lines(axes: Axes, rows: Sequence[Row], value: Callable[[Row], float | None]) -> None:
    variants = list(dict.fromkeys(row["way"] for row in rows))
    for variant in variants:
        for precision in dict.fromkeys(row["precision"] for row in rows):
            points = [
                (row["place"], value(row)) for row in rows if (row["way"], row["precision"]) == (variant, precision)
            ]
            points = [(place, y) for place, y in points if y is not None]
            if points:
                axes.plot(
                    *zip(*sorted(points), strict=True),
                    STYLES.get(precision, "-"),
                    color=COLOURS[variants.index(variant) % len(COLOURS)],
                    marker="o",
                    markersize=2.5,
                    linewidth=1.2,
                    label=f"{variant_words(variant)}, {PRECISION_WORDS.get(precision, precision)}",
                )


def _kept(axes: Axes, rows: Sequence[Row]) -> None:
    """What is kept of the support, thin, beside what a query adds."""
    for precision in dict.fromkeys(row["precision"] for row in rows):
        points = [
            (row["place"], row["support_mib"])
            for row in rows
            if row["precision"] == precision and row["way"] == OPTIMISED and row["support_mib"]
        ]
        if points:
            label = f"kept support, {PRECISION_WORDS.get(precision, precision)}"
            axes.plot(
                *zip(*sorted(points), strict=True),
                STYLES.get(precision, "-"),
                color="#009e73",
                linewidth=0.8,
                label=label,
            )


def _finish(axes: Axes, rows: Sequence[Row]) -> None:
    """Logarithmic axes with plain numbers, ticks where it was measured."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    places = sorted({row["place"] for row in rows})
    axes.set_xlabel(AXES[rows[0]["curve"]])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    # Every panel has several numbers at its side, also where the values lie within one power of ten.
    subs = next(subs for factor, subs in SUBDIVISIONS if high / low > factor)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", linewidth=0.3, color="#cccccc")
