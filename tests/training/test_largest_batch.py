"""The largest batch that fits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewseg.cli import main
from fewseg.core.errors import InvalidOption
from fewseg.core.memory import available_bytes, can_measure
from fewseg.training import largest_batch as module
from fewseg.training.config import TrainConfig
from fewseg.training.largest_batch import MOST, LargestBatch, Trial, largest_batch, noise_batch, search, step_peaks
from fewseg.training.train import make_method

CPU = torch.device("cpu")

GIB = 2**30


def config(**options: object) -> TrainConfig:
    settings = {"data": ("synthetic",), "backbone": "tiny", "random_backbone": True, "image_size": 64, "device": "cpu"}
    return TrainConfig(**{**settings, **options})  # type: ignore[arg-type]


@given(st.integers(0, 2 * MOST))
def test_search_finds_the_largest(limit: int) -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert search(fits) == min(limit, MOST)
    assert len(asked) <= 23
    assert max(asked) <= MOST


def test_a_straight_line_through_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "step_peaks", lambda _: [3 * GIB, 5 * GIB])  # 2 an episode and 1 beside
    monkeypatch.setattr(module, "available_bytes", lambda _: 20 * GIB)
    found = largest_batch(config(workers=0))
    assert (found.episodes, found.each, found.fixed) == (7, 2 * GIB, GIB)  # 0.8 * 20 = 16 >= 1 + 7 * 2
    assert "7 episodes (measured: 2.0 GiB an episode and 1.0 GiB beside; 80% of 20.0 GiB free)" in str(found)
    readers = largest_batch(config(workers=4, cache_megabytes=1024))
    assert readers.episodes == 5  # 4 GiB of decoded images: 0.8 * 16 = 12.8 >= 1 + 5 * 2
    monkeypatch.setattr(module, "available_bytes", lambda _: 2 * GIB)
    assert largest_batch(config(workers=0)).episodes == 0


@pytest.mark.skipif(not can_measure(CPU), reason="memory cannot be measured on this system")
def test_steps_are_measured_in_a_process_of_their_own() -> None:
    one, two = step_peaks(config(batch_size=2))
    assert 0 < one < two
    free = available_bytes(CPU)
    assert free is not None
    assert free > 2**20


@pytest.mark.parametrize("kept", [False, True])
def test_noise_is_what_a_step_takes(kept: bool) -> None:
    method = make_method(config())
    batch = noise_batch(method, 2, 3, cached=kept)
    trial = Trial.prepare(config(cached_views=int(kept), ema_decay=0.9, shots=(3,)), CPU)
    trial.step(2)
    assert batch.query_mask.shape == (2, 64, 64)
    assert batch.masks.shape == (2, 3, 64, 64)
    if kept:
        assert [len(m) for m in batch.support] == [6] * len(method.backbone.blocks)  # type: ignore[union-attr]
    else:
        assert len(batch.images) == 8  # type: ignore[union-attr]
    assert all(torch.isfinite(p).all() for p in trial.method.parameters())


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_measure", lambda _: False)
    with pytest.raises(InvalidOption, match="give --batch-size"):
        largest_batch(config())
    monkeypatch.undo()
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(InvalidOption, match="cannot be computed here"):
        largest_batch(config())


def test_command_prints_it_and_how_to_get_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewseg.training.largest_batch.largest_batch", lambda _: LargestBatch(5, "a machine"))
    assert main(["train", "--find-batch", "--batch-size", "12", "--random-backbone"]) == 0
    said = capsys.readouterr().out
    assert "largest batch that fits on a machine: 5 episodes" in said
    assert "--grad-accum-steps 3 (the same update, 4 at a time)" in said
    assert main(["train", "--find-batch", "--batch-size", "5", "--random-backbone"]) == 0
    assert "accum" not in capsys.readouterr().out
    monkeypatch.setattr("fewseg.training.largest_batch.largest_batch", lambda _: LargestBatch(0, "a machine"))
    assert main(["train", "--find-batch", "--random-backbone"]) == 0
    assert "0 episodes" in capsys.readouterr().out
