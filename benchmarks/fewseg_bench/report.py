"""Results as Markdown: tables that stand in the documentation as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from fewseg.core.errors import InvalidOption
from fewseg.core.files import write_text
from fewseg_bench.names import BASELINE, BASELINE_AGGREGATION, OPTIMISED
from fewseg_bench.results import Results, Row

LEVEL_WORDS: Final = {"op": "aggregation", "head": "head", "query": "whole query"}

PRECISION_WORDS: Final = {"float32": "float32", "bfloat16": "bf16", "float16": "fp16"}


def report(results: Results) -> str:
    """All tables, one heading a part, with the machine in front."""
    parts = [machine_line(results)]
    for part, title in TITLES.items():
        if table := TABLES[part](results):
            parts += [f"## {title}", table]
    return "\n\n".join(parts) + "\n"


def machine_line(results: Results) -> str:
    """One sentence about where it was measured."""
    about = results.about
    where = f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, {about['instructions']}"
    if "gpu" in about:
        tf32 = "on" if about["tf32"] else "off"
        where = f"{about['gpu']} ({about['gpu_memory_gib']} GiB, CUDA {about['cuda']}, TF32 {tf32}); {where}"
    clock = "seconds of wall time" if about["clock"] == "wall" else "seconds of CPU time of one process"
    load = "" if about.get("load") is None else f", load {about['load']} when it began"
    return (
        f"Measured on {about['date']}: {where}; torch {about['torch']}, fewseg {about['fewseg']}{load}. "
        f"Times are medians of {about['repeats']} interleaved rounds, {clock}."
    )


def query_table(results: Results) -> str:
    """fewseg against the baseline: a line for each model, number of shots, level and precision."""
    rows = results.rows("queries")
    lines = []
    for row in rows:
        if row["way"] != OPTIMISED:
            continue
        baseline = _beside(rows, row, BASELINE, "float32")
        asked = _beside(rows, row, OPTIMISED, "float32") is not None
        same = _beside(rows, row, BASELINE, row["precision"])
        lines.append(
            [
                *(row["about"], row["size"], row["shots"], LEVEL_WORDS[row["level"]], _precision(row)),
                *(
                    _seconds(baseline) if asked else "-",
                    _seconds(row),
                    _times(row["faster"]),
                    _times(row["faster_same_precision"]),
                ),
                *(_percent(row["share_of_limit"]), _percent(baseline["share_of_limit"]) if baseline else "-"),
                *(_mib(same["memory_mib"] if same else None), _mib(row["memory_mib"]), _difference(row)),
            ]
        )
    head = (
        "model",
        *("px", "n", "level", "precision", "baseline s (float32)", "fewseg s", "faster"),
        *("faster, same precision", "of the limit", "baseline of the limit"),
        *("baseline MiB, same precision", "fewseg MiB", "largest difference"),
    )
    return _table(head, lines)


def support_table(results: Results) -> str:
    """What is kept of the support, and what teaching costs."""
    lines = [
        [r["about"], r["size"], r["shots"], _precision(r), f"{r['teach_seconds']:.3g}", _mib(r["support_mib"])]
        for r in results.rows("queries")
        if r["way"] == OPTIMISED and r["level"] == "query"
    ]
    return _table(("model", "px", "n", "precision", "support once, s", "kept, MiB"), lines)


def floor_table(results: Results) -> str:
    """The machine's throughput, and what a query needs of it."""
    limits: dict[str, float] = {}
    for row in results.rows("queries"):
        limits[row["precision"]] = max(limits.get(row["precision"], 0.0), row["limit"])
    seen, lines = set[tuple[Any, ...]](), []
    for row in results.rows("queries"):
        case = (row["about"], row["size"], row["shots"])
        if row["level"] == "query" and case not in seen:
            seen.add(case)
            floors = [f"{row['operations'] / limit:.3g}" for limit in limits.values()]
            lines.append([*case, f"{row['operations'] / 1e9:.4g}", *floors])
    names = [f"least s, {PRECISION_WORDS.get(p, p)} at {v / 1e12:.3g} TFLOP/s" for p, v in limits.items()]
    return _table(("model", "px", "n", "GFLOP of a query", *names), lines)


def implementation_table(results: Results) -> str:
    """Every implementation of the aggregation."""
    lines = [
        [
            *(r["about"], r["shots"], _precision(r), r["values"], f"`{_implementation(r)}`", f"{r['seconds']:.3g}"),
            *(_times(r["faster"]), _percent(r["share_of_limit"]), _mib(r["memory_mib"]), _exponent(r["difference"])),
        ]
        for r in results.rows("implementations")
    ]
    head = ("model", "n", "precision", "masks", "implementation", "s", "faster", "of the limit", "MiB", "difference")
    return _table(head, lines)


def curve_table(results: Results) -> str:
    """The numbers behind the plots, curve by curve, places in their order however late they were measured."""
    rows = results.rows("curves")
    curves = list(dict.fromkeys((r["about"], r["curve"]) for r in rows))
    rows.sort(key=lambda r: (curves.index((r["about"], r["curve"])), r["place"]))
    lines = [
        [
            *(r["about"], r["curve"], r["place"], variant_words(r["way"]), _precision(r), f"{r['seconds']:.3g}"),
            *(_mib(r["memory_mib"]), _mib(r["support_mib"])),
        ]
        for r in rows
    ]
    return _table(("model", "against", "at", "variant", "precision", "s", "MiB of a query", "MiB kept"), lines)


def training_table(results: Results) -> str:
    """A step, an epoch, and what keeping maps costs."""
    lines = []
    for r in results.rows("training"):
        keeping = "" if r["keeping_seconds"] is None else f"{r['keeping_seconds']:.3g}"
        lines.append(
            [
                *(
                    r["about"],
                    r["size"],
                    r["batch"],
                    variant_words(r["way"]),
                    f"{r['seconds']:.3g}",
                    _times(r["faster"]),
                ),
                *(f"{r['epoch_seconds'] / 60:.3g}", keeping, _mib(r["memory_mib"])),
            ]
        )
    head = (
        *("model", "px", "batch", "variant", "s a step", "faster", "min for 2000 episodes"),
        *("s an image, once", "MiB of a step"),
    )
    return _table(head, lines)


def accuracy_table(results: Results) -> str:
    """mIoU of precisions and budgets, against all tokens in float32 on the same episodes."""
    rows, lines = results.rows("accuracy"), []
    keys = ("dataset", "shots", "checkpoint", "digest")
    classes: dict[str, set[tuple[str, ...]]] = {}
    for r in rows:
        classes.setdefault(r["dataset"], set()).add(tuple(r.get("classes", ())))
    for r in rows:
        same = [
            o
            for o in rows
            if all(o.get(key) == r.get(key) for key in keys) and o["budget"] is None and o["precision"] == "float32"
        ]
        named = f": {', '.join(r.get('classes', ()))}" if len(classes[r["dataset"]]) > 1 else ""
        change = f"{r['miou'] - same[0]['miou']:+.2f}" if same else ""
        low, high = r["interval"]
        lines.append(
            [
                *(f"{r['dataset']}{named}", r["shots"], r["variant"], _precision(r), f"{r['miou']:.2f}", change),
                *(f"{low:.1f} to {high:.1f}", r["episodes"], f"{1e3 * r['seconds']:.0f}"),
            ]
        )
    head = ("data", "n", "support", "precision", "mIoU", "change", "95 %", "episodes", "ms a query")
    return _table(head, lines)


TITLES: Final = {
    "queries": "A query",
    "floor": "The limit",
    "support": "What is kept of the support",
    "implementations": "Implementations of the aggregation",
    "training": "Training, one shot in float32",
    "accuracy": "Accuracy",
    "curves": "Cost curves",
}
"""Every table with its heading, in order."""

TABLES: Final[dict[str, Callable[[Results], str]]] = {
    "queries": query_table,
    "floor": floor_table,
    "support": support_table,
    "implementations": implementation_table,
    "training": training_table,
    "accuracy": accuracy_table,
    "curves": curve_table,
}
"""Table by name; empty where nothing was measured."""


def fill(text: str, results: Results, place: str) -> str:
    """A page with its tables replaced: what stands between `<!-- bench PLACE NAME -->` and `<!-- end -->`.

    NAME is a table's, or `machine`. What was not measured keeps what stands there.
    """

    def filled(found: re.Match[str]) -> str:
        name = found[2]
        if name not in (*TABLES, "machine"):
            raise InvalidOption(f"no table {name!r} of the measurements: known are machine, {', '.join(TABLES)}")
        new = machine_line(results) if name == "machine" else TABLES[name](results)
        return f"{found[1]}\n\n{new}\n\n{found[4]}" if new else found[0]

    pattern = rf"(<!-- bench {re.escape(place)} (\w+) -->)(.*?)(<!-- end -->)"
    return re.sub(pattern, filled, text, flags=re.DOTALL)


def fill_page(page: Path, results: Results, place: str) -> None:
    """`fill` for a file.

    Raises `InvalidOption` where it cannot be read or has no such places, `OutputError` where it cannot be written.
    """
    try:
        text = page.read_text("utf-8")
    except OSError as error:
        raise InvalidOption(f"page {page} cannot be read: {error.strerror or error}") from error
    if f"<!-- bench {place} " not in text:
        raise InvalidOption(f"page {page} has no place marked <!-- bench {place} NAME -->: add one for each table")
    write_text(page, fill(text, results, place))


# ----------------------------------------------------------------------------------------------------------- formatting


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    body = [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def _beside(rows: Sequence[Row], row: Row, variant: str, precision: str) -> Row | None:
    """The same measurement of another variant."""
    keys = ("model", "shots", "level", "size")
    same = (
        r for r in rows if r["way"] == variant and r["precision"] == precision and all(r[k] == row[k] for k in keys)
    )
    return next(same, None)


def variant_words(variant: str) -> str:
    """A variant of the results in words: `baseline`, `fewseg, all labels on the same image`."""
    return "baseline" if variant == BASELINE else variant.replace(OPTIMISED, "fewseg", 1)


def _implementation(row: Row) -> str:
    return "baseline" if row["implementation"] == BASELINE_AGGREGATION else str(row["implementation"])


def _precision(row: Row) -> str:
    return PRECISION_WORDS.get(str(row["precision"]), str(row["precision"]))


def _seconds(row: Row | None) -> str:
    return "did not fit" if row is None else f"{row['seconds']:.3g}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}x"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _difference(row: Row) -> str:
    """In standard deviations of what it is compared with."""
    if row["difference"] is None or not row["deviation"]:
        return "-"
    return f"{row['difference']:.1e} ({row['difference'] / row['deviation']:.0e} sd)"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0e}"
