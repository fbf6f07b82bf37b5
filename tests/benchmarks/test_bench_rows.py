"""Rows of every part, and runs that go on with what is measured already."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fewseg.core.errors import InvalidOption
from fewseg_bench import curves, implementations, queries, run, training
from fewseg_bench.accuracy import AccuracyVariant, accuracy_rows, accuracy_tasks, accuracy_variants
from fewseg_bench.models import QUICK_NAME
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.queries import query_rows
from fewseg_bench.report import query_table, report
from fewseg_bench.results import Results, open_results
from fewseg_bench.run import full_plan, measure
from fewseg_bench.settings import BenchSettings
from helpers.bench import SMALL
from helpers.bench import small_products as small_products
from helpers.colour_method import write_support


def test_what_would_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "fits", lambda *_: False)
    rows = query_rows(dataclasses.replace(SMALL, levels=("op",)), QUICK_NAME, 1)
    assert [row["way"] for row in rows] == [OPTIMISED]
    assert rows[0]["faster"] is rows[0]["difference"] is None
    assert "did not fit" in report(Results(run.about(SMALL), {"queries": {"x": rows}}))
    only = [{**row, "precision": "bfloat16"} for row in rows]
    assert "did not fit" not in query_table(Results({}, {"queries": {"x": only}}))  # nobody asked for float32


def test_rows_of_a_query() -> None:
    rows = query_rows(SMALL, QUICK_NAME, 2)
    assert [(r["level"], r["way"]) for r in rows] == [
        (level, variant) for level in ("op", "head", "query") for variant in (BASELINE, OPTIMISED)
    ]
    for row in rows:
        assert row["seconds"] > 0
        assert 0 < row["share_of_limit"] < 10
        assert row["difference"] <= 1e-4
        assert row["faster"] == pytest.approx(row["faster_same_precision"])
    ours = [row for row in rows if row["way"] == OPTIMISED]
    assert all(row["support_mib"] > 0 and row["teach_seconds"] > 0 for row in ours)


def test_a_share_of_the_limit_is_one_where_bf16_is_slow() -> None:
    settings = dataclasses.replace(SMALL, precisions=("bfloat16",), levels=("op",))
    for row in (*query_rows(settings, QUICK_NAME, 1), *implementations.implementation_rows(settings, QUICK_NAME, 1)):
        assert row["limit"] > 5e9  # float32's; without instructions bf16 has less than 1e9
        assert row["memory_how"] is None


def test_curves() -> None:
    for curve, place in (("shots", 2), ("size", 96), ("labels", 2)):
        rows = curves.curve_rows(SMALL, QUICK_NAME, curve, place)
        assert {row["place"] for row in rows} == {place}
        assert {row["way"] for row in rows} == set(
            curves.LABEL_VARIANTS if curve == "labels" else (BASELINE, OPTIMISED)
        )


def test_training() -> None:
    rows = training.training_rows(dataclasses.replace(SMALL, repeats=1), QUICK_NAME, 2)
    assert [row["way"] for row in rows] == list(training.TRAINING_VARIANTS)
    assert rows[0]["faster"] == 1.0
    assert [row["keeping_seconds"] is None for row in rows] == [True, True, False]


def test_variants_begin_with_what_they_are_compared_with() -> None:
    found = accuracy_variants((64, 16), ("float32", "bfloat16"))
    assert found == [
        AccuracyVariant(),
        AccuracyVariant("bfloat16"),
        AccuracyVariant(budget=16),
        AccuracyVariant(budget=64),
    ]
    with pytest.raises(InvalidOption, match="at least 1"):
        accuracy_variants((0,), ("float32",))


def test_a_stopped_run_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def stop(settings: BenchSettings, name: str, shots: int) -> list[dict[str, object]]:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(f"{name} {shots}")
        return [{"n": shots, **same}]

    same = {"precision": "float32", "level": "op"}
    monkeypatch.setattr(run, "query_rows", stop)
    settings = dataclasses.replace(SMALL, shots=(1, 2), levels=("op",))
    plan = full_plan(("queries",), settings)
    with pytest.raises(KeyboardInterrupt):
        measure(settings, plan, open_results(tmp_path, run.about(SMALL), overwrite=False))
    monkeypatch.setattr(run, "query_rows", lambda settings, name, shots: [{"n": -shots, **same}])
    results = measure(settings, plan, open_results(tmp_path, run.about(SMALL), overwrite=False))
    assert results.rows("queries") == [{"n": 1, **same}, {"n": -2, **same}]


def test_what_is_asked_for_later_is_measured_with_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def rows(settings: BenchSettings, **_: object) -> list[dict[str, object]]:
        asked.append((settings.precisions, settings.levels, settings.memory))
        how = "resident" if settings.memory else None
        return [
            {"precision": p, "level": level, "memory_how": how}
            for p in settings.precisions
            for level in settings.levels
        ]

    for part in ("query", "implementation", "curve", "training"):
        monkeypatch.setattr(run, f"{part}_rows", rows)
    results = Results({})

    def again(part: str, **more: object) -> object:
        settings = dataclasses.replace(SMALL, **{"levels": ("op",), **more})  # type: ignore[arg-type]
        before = len(asked)
        plan = dataclasses.replace(full_plan((part,), settings), curves={"shots": (1,)})
        measure(settings, plan, results)
        return asked[-1] if len(asked) > before else None

    assert again("queries") == (("float32",), ("op",), False)
    assert again("queries") is None
    assert again("queries", precisions=("bfloat16",)) == (("float32", "bfloat16"), ("op",), False)
    assert again("queries", levels=("query",)) == (("float32", "bfloat16"), ("op", "query"), False)
    assert again("queries", memory=True) == (("float32", "bfloat16"), ("op", "query"), True)
    assert again("queries", levels=("op", "query")) is None
    for part in ("implementations", "curves"):
        assert again(part) is not None
        assert again(part, levels=("query",)) is None  # has no levels
        assert again(part, precisions=("bfloat16",)) == (("float32", "bfloat16"), ("op",), False)
        assert again(part, memory=True) == (("float32", "bfloat16"), ("op",), True)
        assert again(part) is None
    assert again("training") is not None
    assert again("training", precisions=("bfloat16",)) is None
    assert again("training", memory=True) is not None
    assert again("training") is None


def test_models_that_are_named_are_measured() -> None:
    usual = full_plan((), BenchSettings())
    assert usual.curve_models == usual.implementation_models == ("dcama-resnet50", "embedded")
    named = full_plan((), BenchSettings(models=("hsnet-resnet50", "dcama-swin_b", "embedded")))
    assert named.curve_models == ("hsnet-resnet50", "dcama-swin_b", "embedded")
    assert named.implementation_models == ("dcama-swin_b", "embedded")
    assert named.training == (("hsnet-resnet50", 2), ("dcama-swin_b", 2), ("embedded", 8))


def _digests(folder: Path, *classes: str, size: int | None = 64, per_class: int = 1) -> tuple[str, str]:
    """Digests of the episodes of one and of two shots."""
    settings = dataclasses.replace(SMALL, size=size, shots=(1, 2))
    one, two = accuracy_tasks(settings, "default", (f"{folder}@{','.join(classes)}",), per_class)
    return one.digest, two.digest


def test_other_images_are_another_digests(tmp_path: Path) -> None:
    folder = write_support(tmp_path / "photos", "red", "blue", shots=6)
    first = _digests(folder, "red")
    assert first == _digests(folder, "red")
    assert len({*first, *_digests(folder, "blue"), *_digests(folder, "red", per_class=2)}) == 6
    assert set(first).isdisjoint(_digests(folder, "red", size=96))
    for path in (folder / "red").glob(f"*{sorted((folder / 'red').iterdir())[0].stem}.*"):
        path.rename(path.with_stem("another"))
    assert set(first).isdisjoint(_digests(folder, "red"))


def test_accuracy_at_the_size_that_was_given() -> None:
    data = ("synthetic@plain disc",)
    settings = dataclasses.replace(SMALL, shots=(1,))
    (task,) = accuracy_tasks(settings, "default", data, 1)
    (row,) = accuracy_rows(settings, task, AccuracyVariant())
    assert (row["size"], row["shots"], row["classes"], row["digest"]) == (64, 1, ["plain disc"], task.digest)
    (own,) = accuracy_tasks(dataclasses.replace(settings, size=None), "default", data, 1)
    assert own.digest != task.digest
