"""Several processes, or one in several parts, train what one process trains at once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewseg.core.distributed import SINGLE_PROCESS, Processes, join_processes
from fewseg.core.errors import InvalidOption
from fewseg.core.types import IGNORE
from fewseg.models.checkpoints.native import load_method
from fewseg.training.batches import micro_batch_size, shard_items, step_items
from fewseg.training.log import read_metrics
from fewseg.training.losses import LOSSES, BatchTotals
from fewseg.training.train import train
from helpers import train_together
from helpers.train_together import CONFIG, RUNS, run

pytestmark = pytest.mark.usefixtures("toy_known", "one_thread")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs by two processes that torchrun started."""
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, train_together.__file__, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=900,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs by this process."""
    folder = tmp_path_factory.mktemp("one")
    for name in RUNS:
        # What dropout draws depends on the parts: one process of two parts draws as two processes do.
        run(name, folder, SINGLE_PROCESS, grad_accum_steps=2 if name == "dropout" else 1)
    return folder


def _same(one: Path, two: Path, name: str) -> None:
    lines, others = (read_metrics(folder / name) for folder in (one, two))
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() & {"loss", "val_miou", "val_fb_iou"}:
            assert other[key] == pytest.approx(line[key], abs=1e-5), (key, line["step"])
    one_state, two_state = (load_method(folder / name / "last.safetensors").state_dict() for folder in (one, two))
    for key, value in one_state.items():
        torch.testing.assert_close(two_state[key], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(one: Path, two: Path, name: str) -> None:
    _same(one, two, name)
    losses = [line["loss"] for line in read_metrics(two / name) if "loss" in line]
    assert len(losses) == 3 * RUNS[name][0].epochs
    assert losses[0] != losses[-1]


def test_what_two_processes_leave(one: Path, two: Path) -> None:
    """The same files, from one of them, and the same presence threshold found together."""
    for name in RUNS:
        assert {p.name for p in (one / name).iterdir()} == {p.name for p in (two / name).iterdir()}
    extras = [load_method(folder / "plain" / "best.safetensors").extra for folder in (one, two)]
    assert extras[0]["presence_threshold"] == pytest.approx(extras[1]["presence_threshold"], abs=1e-5)
    assert extras[0]["trained"]["datasets"] == extras[1]["trained"]["datasets"]
    kept = [sorted(p.relative_to(folder) for p in (folder / "maps").rglob("*.safetensors")) for folder in (one, two)]
    assert kept[0] == kept[1] != []


def test_parts_train_what_the_whole_trains(one: Path, tmp_path: Path) -> None:
    for name in ("plain", "regulariser"):
        run(name, tmp_path, SINGLE_PROCESS, grad_accum_steps=4)
        _same(one, tmp_path, name)


def test_losses_of_parts_add_up() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 2, 9, 7, generator=rng)
    target = torch.randint(0, 2, (4, 9, 7), generator=rng)
    target[0, :8], target[3] = IGNORE, IGNORE
    whole = BatchTotals(int((target != IGNORE).sum()), 4)
    for name, loss in LOSSES.items():
        for size in (1, 2, 4):
            parts = [loss(a, b, whole) for a, b in zip(logits.split(size), target.split(size), strict=True)]
            assert float(sum(parts)) == pytest.approx(float(loss(logits, target, None)), abs=1e-6), name


def test_every_episode_goes_to_one_process() -> None:
    config = replace(CONFIG, batch_size=12, episodes_per_epoch=24, grad_accum_steps=2)
    drawn = [[n for items in shard_items(config, Processes(rank, 3), 1) for n in items] for rank in range(3)]
    assert micro_batch_size(config, Processes(0, 3)) == 2
    assert [items[:4] for items in drawn] == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert sorted(np.concatenate(drawn).tolist()) == list(range(12, 48))


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (2, 2), (3, 1)])
def test_the_last_batch_of_an_epoch_is_kept(count: int, parts: int) -> None:
    config = replace(CONFIG, batch_size=12, episodes_per_epoch=26, grad_accum_steps=parts, drop_last=False)
    assert config.steps_per_epoch == 3
    shards = [step_items(config, Processes(rank, count), 2) for rank in range(count)]
    assert sorted(n for shard in shards for items in shard for n in items) == [24, 25]
    assert sum(map(len, shards)) == min(2, count * parts)
    following = [n for rank in range(count) for items in step_items(config, Processes(rank, count), 3) for n in items]
    assert following == list(range(26, 38))
    assert replace(config, drop_last=True).steps_per_epoch == 2


def test_what_cannot_be_divided_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InvalidOption, match=r"batch_size 4 cannot be divided among 3 processes .* give a multiple of 3"
    ):
        micro_batch_size(CONFIG, Processes(0, 3))
    with pytest.raises(InvalidOption, match="give a multiple of 3"):
        train(replace(CONFIG, grad_accum_steps=3), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for key, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("fewseg.core.distributed.choose_device", torch.device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InvalidOption, match=r"process 1 of this machine has no GPU \(1 here\)"), join_processes("cuda"):
        pass
    with pytest.raises(InvalidOption, match="give cuda, so that each"), join_processes("cuda:0"):
        pass
