"""`fewseg demo`: see it work, on photographs that are already installed."""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewseg.cli.options import NamedModelOptions, PrecisionOptions


@dataclass(frozen=True, kw_only=True)
class Options(NamedModelOptions, PrecisionOptions):
    """Teach with a few real photographs, segment others, and show it: a page, a sheet and measured numbers.

    Needs no network: the photographs come with scikit-image (pip install "fewseg[demo]") and matplotlib.
    """

    out: Path = Path("demo_output")
    """Where index.html, sheet.png and results.json go."""


def run(options: Options) -> int:
    """Make the page and say where it is."""
    from fewseg.cli.common import progress_bar
    from fewseg.tools.demo import run as run_demo

    with contextlib.ExitStack() as stack:
        # The bar appears with the first result: what fails before that is said in one line and nothing else.
        bar = functools.cache(lambda: stack.enter_context(progress_bar("demo")))
        page = run_demo(
            options.out,
            checkpoint=options.model,
            device=options.device,
            precision=options.precision,
            progress=lambda done, total, last: bar()(done, total, last),
        )

    def said(query: dict[str, Any], label: str) -> str:
        return "" if query["present"][label] else " (judged absent)"

    results = json.loads((page.parent / "results.json").read_text("utf-8"))
    for query in results["queries"]:
        found = ", ".join(f"{label} {value:.2f}{said(query, label)}" for label, value in query["iou"].items())
        print(f"{query['task']:<10} {query['picture']:<10} IoU {found}")
    print(f"mean IoU   {results['mean_iou']:.2f} over {len(results['queries'])} images")
    print(f"page       {page.resolve()}")
    print(f"sheet      {page.resolve().with_name('sheet.png')}")
    return 0
