"""Times, the roofline and peak memory are measured as stated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import torch

from fewseg import create_method
from fewseg.core.memory import peak_bytes
from fewseg_bench import queries
from fewseg_bench import roofline as roofline_module
from fewseg_bench.models import QUICK_NAME
from fewseg_bench.names import BASELINE
from fewseg_bench.peak_memory import peak_mebibytes
from fewseg_bench.roofline import matrix_products, product_flops, roofline, roofline_contenders, throughput
from fewseg_bench.timing import interleaved, summary
from helpers.bench import CPU
from helpers.bench import small_products as small_products


def test_throughput_is_positive_and_finite() -> None:
    assert product_flops(3) == 54
    side = min(matrix_products(CPU, torch.float32))
    taken = interleaved(
        {str(side): matrix_products(CPU, torch.float32)[side]}, repeats=1, device=CPU, clock="cpu", least=0
    )
    reached = throughput({side: taken[str(side)]})
    assert math.isfinite(reached)
    assert reached > 1e8
    assert throughput({2: [1.0, 0.5], 4: [16.0]}) == 32.0  # the best of all


def test_the_roofline_stops_before_products_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline_module.SIDES, "cpu", (16, 32, 64))
    tried: list[int] = []

    def matrix_product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], torch.Tensor]:
        tried.append(side)
        a = torch.ones(side, side)
        return lambda: [a, time.sleep(0.03 * (dtype == torch.bfloat16) * side / 16)][0]  # type: ignore[return-value]

    monkeypatch.setattr(roofline_module, "matrix_product", matrix_product)
    monkeypatch.setattr(roofline_module, "LONGEST", 0.3)  # 0.03 s make 0.24 of twice the side, and then 0.06 s 0.48
    assert list(matrix_products(CPU, torch.bfloat16)) == tried == [16, 32]
    assert list(matrix_products(CPU, torch.float32)) == [16, 32, 64]


def test_the_roofline_of_a_slow_precision_is_that_of_float32() -> None:
    assert {name.rpartition("/")[0] for name in roofline_contenders(CPU, ("bfloat16",))} == {
        "roofline/float32",
        "roofline/bfloat16",
    }
    taken = {
        "roofline/float32/10": [2.0],
        "roofline/bfloat16/10": [8.0, 4.0],
        "roofline/float16/10": [1.0],
        "op/ours": [0.1],
    }
    assert roofline(taken, "float32") == roofline(taken, "bfloat16") == 1000.0
    assert roofline(taken, "float16") == 2000.0


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


def test_peak_counts_what_a_call_adds() -> None:
    held = torch.zeros(2**20)
    assert held.sum() == 0

    def work() -> None:
        torch.ones(2**23).sum()  # 32 MiB

    work()  # what happens the first time only
    # Linux counts resident pages in batches of a few dozen for each processor, so a little may be missing.
    assert 31 <= peak_bytes(work, CPU) / 2**20 < 36


def test_peak_in_a_process_of_its_own() -> None:
    where = {"model": QUICK_NAME, "size": 64, "shots": 4, "precision": "float32", "levels": ["op"]}
    found = peak_mebibytes("queries:memory_pieces", CPU, variant=BASELINE, **where)
    assert found.keys() == {"op"}
    assert found["op"] is not None
    assert 0 < found["op"] < 200


def test_memory_that_cannot_be_measured_is_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "false")  # the program that does nothing, unsuccessfully
    assert peak_mebibytes("queries:nothing_of_that_name", CPU) == {}
    assert "could not be measured" in caplog.text


def test_memory_of_hsnets_correlation_is_asked_for() -> None:
    method = create_method("hsnet", backbone="resnet18", image_size=64)
    assert queries.score_bytes(method, 5, torch.float32) == 2 * 4 * 2 * 8**4  # two blocks of 8 x 8 at 1/8, and a copy
