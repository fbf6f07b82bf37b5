"""The measurements measure what they say."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewseg import create_method
from fewseg.cli import bench as command
from fewseg.cli import main
from fewseg.core.errors import InvalidOption
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.tools.bench import curves, floor, implementations, queries, run, training
from fewseg.tools.bench.accuracy import Variant, accuracy_row, questions, variants
from fewseg.tools.bench.cases import MODELS, QUICK_NAME, noise
from fewseg.tools.bench.curves import CURVES
from fewseg.tools.bench.floor import floor_contenders, floors, limit, operations_of, throughput
from fewseg.tools.bench.memory import peak_mebibytes
from fewseg.tools.bench.operations import attention_operations, convolution_operations, counted, dcama_decoder, needed
from fewseg.tools.bench.peak import peak_bytes
from fewseg.tools.bench.plots import draw_plots
from fewseg.tools.bench.queries import query_rows
from fewseg.tools.bench.reference import PlainDCAMA, plain_aggregation
from fewseg.tools.bench.report import TABLES, accuracy_table, fill, fill_page, query_table, report
from fewseg.tools.bench.results import Results, open_results
from fewseg.tools.bench.run import full_plan, measure
from fewseg.tools.bench.settings import BenchSettings
from fewseg.tools.bench.timing import interleaved, summary
from fewseg.tools.bench.ways import prepare
from helpers.colour_method import write_support

CPU = torch.device("cpu")

SMALL = BenchSettings(
    models=(QUICK_NAME,), shots=(2,), precisions=("float32",), size=64, repeats=2, memory=False, clock="cpu"
)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor is measured on matrices that take no time."""
    monkeypatch.setitem(floor.SIDES, "cpu", (128, 256))


# -------------------------------------------------------------------------------- operations


def test_operations_of_attention_and_convolution_by_hand() -> None:
    # 4 queries, 6 keys, 8 channels in 2 heads, one value: 4 * 6 * 8 products for Q K, 2 * 4 * 6 for P V.
    assert attention_operations(4, 6, 8, 2, 1) == 2 * (4 * 6 * 8 + 2 * 4 * 6)
    q, k, v = torch.rand(1, 4, 8), torch.rand(1, 6, 8), torch.rand(1, 6, 1)
    assert counted(lambda: plain_aggregation(q, k, v, 2)) == attention_operations(4, 6, 8, 2, 1)
    weight, x = torch.rand(5, 3, 3, 3), torch.rand(1, 3, 7, 6)
    expected = 2 * 5 * 3 * 9 * 7 * 6
    assert convolution_operations(weight.shape, (7, 6)) == expected
    assert counted(lambda: torch.conv2d(x, weight, padding=1)) == expected


@pytest.mark.parametrize(
    "options", [{}, {"class_balanced": True, "skip_support": False, "heads": 1}, {"skip_scales": (8,)}]
)
def test_closed_form_is_what_torch_counts(options: dict[str, object]) -> None:
    """The paper's computation as it runs; and what is done once is no more than that."""
    method = create_method("dcama", backbone="resnet18", image_size=64, **options)
    assert isinstance(method, DCAMA)
    query, images, masks = noise(64, 2)
    plain = PlainDCAMA(method)
    with torch.inference_mode():
        maps, support = plain.maps(query), plain.maps(images[0])
        with FlopCounterMode(display=False) as counter:
            plain.head(maps, support, masks)
        backbone = counted(lambda: plain.maps(query))
    sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
    once = needed(method, 2)
    decoder = dcama_decoder(method, sizes)
    projections = once.rest - decoder
    whole = once.attention + 3 * projections + dcama_decoder(method, sizes, plain=True)  # of one query, two supports
    assert whole == counter.get_total_flops()
    assert backbone == once.backbone
    assert decoder < dcama_decoder(method, sizes, plain=True)
    assert once.at("op") < once.at("head") < once.at("query")


@pytest.mark.parametrize("name", ["hsnet", "sccan"])
def test_other_methods_are_counted_without_what_only_the_support_needs(name: str) -> None:
    options = {"blocks": 2, "feature_size": 16} if name == "sccan" else {}
    method = create_method(name, backbone="resnet18", image_size=64, **options)
    one, two = needed(method, 1), needed(method, 2)
    assert 0 < one.attention < one.at("head") < one.at("query")
    assert two.backbone == one.backbone
    if name == "hsnet":
        assert two.attention == 2 * one.attention
    else:
        assert two.attention == one.attention  # shots are averaged before the attention


def test_floor_is_positive_and_finite() -> None:
    assert operations_of(3) == 54
    side = min(floor_contenders(CPU, torch.float32))
    taken = interleaved(
        {str(side): floor_contenders(CPU, torch.float32)[side]}, repeats=1, device=CPU, clock="cpu", least=0
    )
    reached = throughput({side: taken[str(side)]})
    assert math.isfinite(reached)
    assert reached > 1e8
    assert throughput({2: [1.0, 0.5], 4: [16.0]}) == 32.0  # the best of all


def test_the_floor_stops_before_products_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(floor.SIDES, "cpu", (16, 32, 64))
    tried: list[int] = []

    def products(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], torch.Tensor]:
        tried.append(side)
        a = torch.ones(side, side)
        return lambda: [a, time.sleep(0.03 * (dtype == torch.bfloat16) * side / 16)][0]  # type: ignore[return-value]

    monkeypatch.setattr(floor, "products", products)
    monkeypatch.setattr(floor, "LONGEST", 0.3)  # 0.03 s make 0.24 of twice the side, and then 0.06 s 0.48
    assert list(floor_contenders(CPU, torch.bfloat16)) == tried == [16, 32]
    assert list(floor_contenders(CPU, torch.float32)) == [16, 32, 64]


def test_the_limit_of_a_slow_precision_is_that_of_float32() -> None:
    assert {name.rpartition("/")[0] for name in floors(CPU, ("bfloat16",))} == {"floor/float32", "floor/bfloat16"}
    taken = {"floor/float32/10": [2.0], "floor/bfloat16/10": [8.0, 4.0], "floor/float16/10": [1.0], "op/ours": [0.1]}
    assert limit(taken, "float32") == limit(taken, "bfloat16") == 1000.0
    assert limit(taken, "float16") == 2000.0


def test_background_of_the_support_is_no_work_for_hsnet() -> None:
    method = create_method("hsnet", backbone="resnet18", image_size=64)
    with torch.inference_mode():
        plain, ours = (counted(prepare(method, way, 1, CPU, torch.float32).work["op"]) for way in ("reference", "ours"))
        head = counted(prepare(method, "reference", 1, CPU, torch.float32).work["head"])
    once = needed(method, 1)
    assert once.attention == ours < plain
    assert once.at("head") == head - plain + ours


# -------------------------------------------------------------------------------- times


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    taken = interleaved(contenders, repeats=4, device=CPU, least=0)
    assert {name: len(values) for name, values in taken.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(calls[3:]) == "abcbcacababc"


def test_quick_calls_are_repeated_and_slow_ones_are_not() -> None:
    count = {"quick": 0, "slow": 0}

    def quick() -> None:
        count["quick"] += 1

    def slow() -> None:
        count["slow"] += 1
        time.sleep(0.01)

    taken = interleaved({"quick": quick, "slow": slow}, repeats=2, device=CPU, least=0.005)
    assert count["slow"] == 4
    assert count["quick"] > 100
    assert summary(taken["slow"])["seconds"] >= 0.01 > summary(taken["quick"])["seconds"]


def test_summary() -> None:
    assert summary([3.0, 1.0, 2.0])["seconds"] == 2.0
    assert summary([3.0, 1.0, 2.0])["least"] == 1.0
    assert summary([2.0])["spread"] == 0.0


# -------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("dcama", "tiny", {}),
        ("dcama", "tiny", {"attention": "cosine", "class_balanced": True, "heads": 1, "position_weight": 0.0}),
        ("dcama", "resnet18", {"skip_scales": (8,), "skip_support": False}),
        ("hsnet", "resnet18", {}),
        ("sccan", "resnet18", {"blocks": 2, "feature_size": 16}),
    ],
)
def test_both_ways_give_the_same(name: str, backbone: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    method = create_method(name, backbone=backbone, image_size=64, **options)
    plain, ours = (prepare(method, way, 2, CPU, torch.float32).work for way in ("reference", "ours"))
    with torch.inference_mode():
        for level in ("op", "head", "query"):
            a, b = plain[level](), ours[level]()
            assert a.std() > 0
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()), msg=f"{name}, {level}")


def test_straightforward_way_keeps_nothing_and_folds_nothing() -> None:
    method = create_method("dcama", backbone="resnet18", image_size=64)
    assert isinstance(method, DCAMA)
    plain = PlainDCAMA(method)
    norms = [m for m in plain.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ran = []
    for norm in norms:
        norm.register_forward_hook(lambda *_: ran.append(1))
    query, images, masks = noise(64, 1)
    plain(query, images, masks)
    assert len(ran) == 2 * len(norms)  # once for the query, once for the support, none folded away
    plain(query, images, masks)
    assert len(ran) == 4 * len(norms)


def test_straightforward_way_has_gradients_and_dropout_in_training() -> None:
    method = create_method("dcama", backbone="tiny", image_size=64)
    assert isinstance(method, DCAMA)
    plain = PlainDCAMA(method)
    weights = plain.trainable()
    inputs = noise(64, 1)
    plain(*inputs).square().mean().backward()
    assert all(weight.grad is not None for weight in weights)
    assert not torch.equal(plain(*inputs), plain(*inputs))


def test_budgets_are_refused_by_the_straightforward_way() -> None:
    method = create_method("dcama", backbone="tiny", image_size=64, support_pixel_budget=8)
    with pytest.raises(InvalidOption, match="support_pixel_budget"):
        PlainDCAMA(method)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- memory


def test_peak_counts_what_a_call_adds() -> None:
    held = torch.zeros(2**20)
    assert held.sum() == 0

    def work() -> None:
        torch.ones(2**23).sum()  # 32 MiB

    # Linux counts resident pages in batches of a few dozen for each processor, so a little may be missing.
    assert 31 <= peak_bytes(work, CPU) / 2**20 < 36


def test_peak_in_a_process_of_its_own() -> None:
    where = {"model": QUICK_NAME, "size": 64, "shots": 4, "precision": "float32", "levels": ["op"]}
    found = peak_mebibytes("queries:memory_pieces", CPU, way="reference", **where)
    assert found.keys() == {"op"}
    assert found["op"] is not None
    assert 0 < found["op"] < 200


def test_memory_that_cannot_be_measured_is_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "false")  # the program that does nothing, unsuccessfully
    assert peak_mebibytes("queries:nothing_of_that_name", CPU) == {}
    assert "could not be measured" in caplog.text


def test_what_would_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "fits", lambda *_: False)
    rows = query_rows(dataclasses.replace(SMALL, levels=("op",)), QUICK_NAME, 1)
    assert [row["way"] for row in rows] == ["ours"]
    assert rows[0]["faster"] is rows[0]["difference"] is None
    assert "did not fit" in report(Results(_about(), {"queries": {"x": rows}}))
    only = [{**row, "precision": "bfloat16"} for row in rows]
    assert "did not fit" not in query_table(Results({}, {"queries": {"x": only}}))  # nobody asked for float32


def test_memory_of_hsnets_correlation_is_asked_for() -> None:
    method = create_method("hsnet", backbone="resnet18", image_size=64)
    assert queries.score_bytes(method, 5, torch.float32) == 2 * 4 * 2 * 8**4  # two blocks of 8 x 8 at 1/8, and a copy


# -------------------------------------------------------------------------------- rows


def test_rows_of_a_query() -> None:
    rows = query_rows(SMALL, QUICK_NAME, 2)
    assert [(r["level"], r["way"]) for r in rows] == [
        (level, way) for level in ("op", "head", "query") for way in ("reference", "ours")
    ]
    for row in rows:
        assert row["seconds"] > 0
        assert 0 < row["share_of_limit"] < 10
        assert row["difference"] <= 1e-4
        assert row["faster"] == pytest.approx(row["faster_same_precision"])
    ours = [row for row in rows if row["way"] == "ours"]
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
        assert {row["way"] for row in rows} == set(curves.LABEL_WAYS if curve == "labels" else ("reference", "ours"))


def test_training() -> None:
    rows = training.training_rows(dataclasses.replace(SMALL, repeats=1), QUICK_NAME, 2)
    assert [row["way"] for row in rows] == list(training.TRAINING_WAYS)
    assert rows[0]["faster"] == 1.0
    assert [row["keeping_seconds"] is None for row in rows] == [True, True, False]


@pytest.mark.parametrize(("name", "options"), [("dcama", {}), ("sccan", {"blocks": 2, "feature_size": 16})])
def test_both_ways_of_training_learn(name: str, options: dict[str, object]) -> None:
    method = create_method(name, backbone="tiny", image_size=64, **options)
    for way in training.TRAINING_WAYS:
        step, _ = training.make_step(method, way, 2, 1, CPU)
        losses = [float(step()) for _ in range(2)]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses[0] == pytest.approx(math.log(2), abs=0.4)
        assert len(set(losses)) == 2


def test_variants_begin_with_what_they_are_compared_with() -> None:
    found = variants((64, 16), ("float32", "bfloat16"))
    assert found == [Variant(), Variant("bfloat16"), Variant(budget=16), Variant(budget=64)]
    with pytest.raises(InvalidOption, match="at least 1"):
        variants((0,), ("float32",))


# -------------------------------------------------------------------------------- results


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
        measure(settings, plan, open_results(tmp_path, _about(), overwrite=False))
    monkeypatch.setattr(run, "query_rows", lambda s, n, shots: [{"n": -shots, **same}])
    results = measure(settings, plan, open_results(tmp_path, _about(), overwrite=False))
    assert results.rows("queries") == [{"n": 1, **same}, {"n": -2, **same}]


def test_what_is_asked_for_later_is_measured_with_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def rows(told: BenchSettings, *_: object) -> list[dict[str, object]]:
        asked.append((told.precisions, told.levels, told.memory))
        how = "resident" if told.memory else None
        return [{"precision": p, "level": level, "memory_how": how} for p in told.precisions for level in told.levels]

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


# -------------------------------------------------------------------------------- accuracy


def _question(folder: Path, *classes: str, size: int | None = 64, per_class: int = 1) -> tuple[str, str]:
    """Digests of the episodes of one and of two shots."""
    settings = dataclasses.replace(SMALL, size=size, shots=(1, 2))
    one, two = questions(settings, "default", (f"{folder}@{','.join(classes)}",), per_class)
    return one.digest, two.digest


def test_other_images_are_another_question(tmp_path: Path) -> None:
    folder = write_support(tmp_path / "photos", "red", "blue", shots=6)
    first = _question(folder, "red")
    assert first == _question(folder, "red")
    assert len({*first, *_question(folder, "blue"), *_question(folder, "red", per_class=2)}) == 6
    assert set(first).isdisjoint(_question(folder, "red", size=96))
    for path in (folder / "red").glob(f"*{sorted((folder / 'red').iterdir())[0].stem}.*"):
        path.rename(path.with_stem("another"))
    assert set(first).isdisjoint(_question(folder, "red"))


def test_accuracy_at_the_size_that_was_given() -> None:
    data = ("synthetic@plain disc",)
    settings = dataclasses.replace(SMALL, shots=(1,))
    (question,) = questions(settings, "default", data, 1)
    row = accuracy_row(settings, question, Variant())
    assert (row["size"], row["shots"], row["classes"], row["digest"]) == (64, 1, ["plain disc"], question.digest)
    (own,) = questions(dataclasses.replace(settings, size=None), "default", data, 1)
    assert own.digest != question.digest


def test_accuracy_is_compared_with_the_same_episodes() -> None:
    def row(digest: str, of: str, variant: Variant, miou: float) -> dict[str, object]:
        told = {"checkpoint": "default", "dataset": "photos", "classes": [of], "digest": digest, "shots": 1}
        told |= {"variant": variant.name, "precision": variant.precision, "budget": variant.budget, "miou": miou}
        return {**told, "interval": [0.0, 1.0], "episodes": 3, "seconds": 0.1}

    rows = [
        row("a", "cat", Variant(), 50.0),
        row("b", "dog", Variant(), 70.0),
        row("b", "dog", Variant(budget=16), 69.0),
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
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text("utf-8")
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


# -------------------------------------------------------------------------------- command line


def test_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "queries", "--quick", "--models", QUICK_NAME, "--size", "64", "--shots", "1", "--no-memory"]
    command += ["--levels", "query", "--repeats", "1", "--precisions", "float32", "--out", str(tmp_path / "out")]
    assert main([*command, "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert "| DCAMA, small backbone | 64 | 1 | whole query | float32 |" in printed
    assert (tmp_path / "out/results.md").read_text("utf-8") == printed.removesuffix("\n")
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads((tmp_path / "out/results.json").read_text())


def _told(**given: object) -> tuple[BenchSettings, run.Plan]:
    options = command.Options(**given)  # type: ignore[arg-type]
    settings = command._settings(options)
    return settings, command._plan(options, settings, ())


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_measured_where_there_are_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("fewseg.cli.bench.has_bfloat16", lambda device: native)
    usual = ("float32", "bfloat16") if native else ("float32",)
    for quick in (True, False):
        assert command._settings(command.Options(quick=quick, device="cpu")).precisions == usual
        given = command.Options(quick=quick, device="cpu", precisions=("bfloat16",))
        assert command._settings(given).precisions == ("bfloat16",)


def test_given_options_win_over_quick_ones() -> None:
    quick, plan = _told(quick=True)
    assert (quick.models, quick.shots, quick.repeats) == (("embedded",), (5,), 3)
    assert plan.training == (("embedded", 2),)
    models = tuple(MODELS)
    given, plan = _told(quick=True, models=models[:2], shots=(1, 5, 10), repeats=5)
    assert (given.models, given.shots, given.repeats) == (models[:2], (1, 5, 10), 5)
    assert plan.curve_models == plan.implementation_models == models[:2]
    usual, plan = _told()
    assert usual == dataclasses.replace(BenchSettings(), precisions=usual.precisions)  # these go by the device
    assert plan.curves == CURVES


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["qeries"], "unknown part 'qeries'; did you mean 'queries'"),
        (["--models", "dcama-resnet5"], "did you mean 'dcama-resnet50'"),
        (["--shots", "0"], "shots 0"),
        (["--precisions", "float8"], "unknown precision"),
        (["--size", "100"], "multiple of 32"),
        (["--device", "cuda:99"], "not available here"),
        (["accuracy"], "--data"),
        (["accuracy", "--data", "nowhere"], "nowhere"),
        (["accuracy", "--data", "synthetic", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["queries", "--json", "/dev/null/x.json"], "cannot make the folder /dev/null"),
        (["queries", "--json", "/"], "--json / is a folder: name a file"),
        (["implementations", "--models", "hsnet-resnet50"], "implementations are DCAMA's"),
        (["accuracy", "--data", "synthetic", "--budgets", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert len(said.splitlines()) == 1


def test_zeros_that_pad_a_kernel_are_no_work() -> None:
    # The stem and one block of a stride: their windows are 3 x 3, whatever the kernel is extended by.
    options = {"stem": 8, "thin": 4, "widths": (8, 8), "depths": (1, 1), "strides": (2, 2), "expansions": (2, 2)}
    method = create_method("prototype", backbone="tiny", backbone_options=options, image_size=64, scales=(8,))
    stem, thin = (8, 3, 3, 3), [(8, 1, 3, 3), (4, 8, 1, 1)]
    first = [((8, 4, 1, 1), 32), ((8, 1, 3, 3), 16), ((8, 8, 1, 1), 16)]
    second = [((16, 8, 1, 1), 16), ((16, 1, 3, 3), 8), ((8, 16, 1, 1), 8)]
    wanted = convolution_operations(stem, (32, 32)) + sum(convolution_operations(w, (32, 32)) for w in thin)
    wanted += sum(convolution_operations(weight, (side, side)) for weight, side in [*first, *second])
    assert needed(method, 1).backbone == wanted
