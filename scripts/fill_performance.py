"""Put what `fewseg bench --out FOLDER` measured into docs/lab/performance.md: its tables, and its plots to docs/img.

python scripts/fill_performance.py bench_output/cpu [--place cpu] [--page docs/lab/performance.md]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from fewseg.core.errors import FewsegError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from fewseg_bench.plots import draw_plots
from fewseg_bench.report import fill_page
from fewseg_bench.results import FILE, Results

PAGE = Path(__file__).parents[1] / "docs" / "lab" / "performance.md"


def main() -> int:
    """Fill the page; 0, or 2 with a line about what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what --out of fewseg bench named")
    parser.add_argument("--place", default="cpu", help="which of the page's places: cpu or gpu")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    try:
        results = Results.read(args.folder / FILE)
        fill_page(args.page, results, args.place)
        for plot in draw_plots(results, args.folder):
            images = args.page.parents[1] / "img" / "performance"
            images.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plot, images / f"{args.place}-{plot.name}")
    except FewsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.page} has the tables of {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
