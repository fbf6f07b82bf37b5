"""Results files, and the tables and plots made of them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from fewseg.core.errors import InvalidOption
from fewseg_bench import run
from fewseg_bench.accuracy import AccuracyVariant
from fewseg_bench.models import QUICK_NAME
from fewseg_bench.plots import draw_plots
from fewseg_bench.queries import query_rows
from fewseg_bench.report import TABLES, accuracy_table, fill, fill_page
from fewseg_bench.results import Results, open_results
from helpers.bench import SMALL
from helpers.bench import small_products as small_products


def _about() -> dict[str, object]:
    return run.about(SMALL)


def test_results_go_there_and_back(tmp_path) -> None:
    results = open_results(tmp_path, {**_about(), "odd": math.inf}, overwrite=False)
    results.put("queries", "a 1", [{"x": 1.5, "y": None, "z": math.nan}])
    text = (tmp_path / "results.json").read_text("utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Results.read(tmp_path / "results.json")
    assert again.parts == {"queries": {"a 1": [{"x": 1.5, "y": None, "z": None}]}}
    assert again.to_json() == json.loads(text)


def test_other_settings_do_not_mix(tmp_path) -> None:
    open_results(tmp_path, _about(), overwrite=False).put("queries", "a", [])
    with pytest.raises(InvalidOption, match="repeats 2, not 3"):
        open_results(tmp_path, {**_about(), "repeats": 3}, overwrite=False)
    assert not open_results(tmp_path, {**_about(), "repeats": 3}, overwrite=True).has("queries", "a")
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InvalidOption, match="no results of fewseg bench"):
        open_results(tmp_path, _about(), overwrite=False)


@pytest.mark.parametrize(
    "content", [{}, {"about": {}}, {"about": {}, "parts": {"queries": []}}, {"about": {}, "parts": {"a": {"b": [1]}}}]
)
def test_damaged_results_are_one_line(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"format": "fewseg.bench.1", **content}))
    with pytest.raises(InvalidOption, match=r"results\.json is damaged: remove it"):
        open_results(tmp_path, _about(), overwrite=False)


def test_other_parts_stay_when_one_is_overwritten(tmp_path: Path) -> None:
    results = open_results(tmp_path, _about(), overwrite=False)
    results.put("queries", "a", [{"x": 1}])
    results.put("training", "b", [{"x": 2}])
    kept = open_results(tmp_path, _about(), overwrite=True, parts=("training",))
    assert kept.parts == {"queries": {"a": [{"x": 1}]}}
    other = {**_about(), "repeats": 3}
    with pytest.raises(InvalidOption, match="repeats 2, not 3: give another folder, or overwrite queries too"):
        open_results(tmp_path, other, overwrite=True, parts=("training",))
    assert open_results(tmp_path, other, overwrite=True, parts=("training", "queries")).parts == {}


def test_accuracy_is_compared_with_the_same_episodes() -> None:
    def row(digest: str, of: str, variant: AccuracyVariant, miou: float) -> dict[str, object]:
        settings = {"checkpoint": "default", "dataset": "photos", "classes": [of], "digest": digest, "shots": 1}
        settings |= {"variant": variant.name, "precision": variant.precision, "budget": variant.budget, "miou": miou}
        return {**settings, "interval": [0.0, 1.0], "episodes": 3, "seconds": 0.1}

    rows = [
        row("a", "cat", AccuracyVariant(), 50.0),
        row("b", "dog", AccuracyVariant(), 70.0),
        row("b", "dog", AccuracyVariant(budget=16), 69.0),
    ]
    lines = accuracy_table(Results({}, {"accuracy": {"x": rows}})).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert [line[1] for line in cells] == ["photos: cat", "photos: dog", "photos: dog"]
    assert [line[6] for line in cells] == ["+0.00", "+0.00", "-1.00"]
    one = accuracy_table(Results({}, {"accuracy": {"x": rows[1:]}}))
    assert "| photos |" in one  # one set of classes needs no telling


def test_page_is_filled() -> None:
    rows = query_rows(dataclasses.replace(SMALL, levels=("op",)), QUICK_NAME, 1)
    results = Results(_about(), {"queries": {"x": rows}})
    page = "# A\n<!-- bench cpu queries -->old<!-- end -->\n<!-- bench gpu queries -->kept<!-- end -->\n"
    page += "<!-- bench cpu training -->stays<!-- end -->"
    filled = fill(page, results, "cpu")
    assert "old" not in filled
    assert "DCAMA, small backbone" in filled
    assert "kept" in filled
    assert "stays" in filled
    assert fill(filled, results, "cpu") == filled
    with pytest.raises(InvalidOption, match="no table 'nothing'"):
        fill("<!-- bench cpu nothing --><!-- end -->", results, "cpu")


def test_page_that_cannot_be_filled(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(InvalidOption, match=r"page\.md cannot be read"):
        fill_page(page, Results({}, {}), "cpu")
    page.write_text("<!-- bench cpu queries -->kept<!-- end -->")
    with pytest.raises(InvalidOption, match="no place marked <!-- bench gpu NAME -->"):
        fill_page(page, Results({}, {}), "gpu")
    fill_page(page, Results({}, {}), "cpu")
    assert "kept" in page.read_text()


def test_the_documentation_has_a_place_for_every_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lab" / "performance.md").read_text("utf-8")
    places = re.findall(r"<!-- bench (\w+) (\w+) -->", page)
    assert {name for place, name in places if place == "cpu"} == {"machine", *TABLES}
    assert {name for place, name in places if place == "gpu"} <= {"machine", *TABLES}
    assert page.count("<!-- end -->") == len(places)


def test_plots(tmp_path) -> None:
    point = {"model": "m", "about": "M", "curve": "shots", "precision": "float32", "support_mib": 1.0}
    rows = [
        {**point, "way": way, "place": n, "seconds": n * s, "memory_mib": None if way == "reference" else 2.0 * n}
        for way, s in (("reference", 2.0), ("ours", 1.0))
        for n in (1, 5, 50)
    ]
    (path,) = draw_plots(Results({}, {"curves": {"x": rows}}), tmp_path)
    assert path.name == "curve-m-shots.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path.with_suffix(".pdf").read_bytes()[:4] == b"%PDF"
