"""Which checkpoint a run keeps: validation by the test protocol, half epochs, patience; epochs of any length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewseg.cli import main
from fewseg.core.distributed import Processes
from fewseg.core.errors import InvalidOption
from fewseg.data.datasets.benchmark import Benchmark
from fewseg.data.datasets.pascal5i import Pascal5i
from fewseg.data.episodes.draw_published import draw_fss, draw_pascal, pools_of
from fewseg.data.episodes.sources import open_source
from fewseg.evaluation.evaluate import evaluate
from fewseg.models.checkpoints.native import load_method
from fewseg.models.methods import METHODS
from fewseg.training.batches import step_items
from fewseg.training.data import open_data, with_epoch
from fewseg.training.log import read_metrics
from fewseg.training.recipes import RECIPES, find_recipe
from fewseg.training.state import read_state
from fewseg.training.train import train
from fewseg.training.validate import validate
from helpers.tiny_benchmarks import make_fss1000, make_pascal5i
from helpers.toy_method import Toy, toy
from helpers.training_runs import CONFIG, losses, run

pytestmark = pytest.mark.usefixtures("toy_known", "one_thread")

PLAIN = replace(CONFIG, augment="none", validation_classes=(0,))


@pytest.fixture(scope="module")
def pascal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_pascal5i(tmp_path_factory.mktemp("data") / "pascal5i", sbd=2, val=3)
    assert main(["prepare", "pascal5i", "--root", str(root), "--workers", "1"]) == 0
    return root


def test_the_test_protocol_draws_reads_and_scores(pascal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PLAIN, data=(f"pascal5i:{pascal}",), fold=1, validate_on="test", validation_episodes=20)
    config = replace(config, method="toy", shots=(1, 2))
    data = open_data(config)
    pairs = Pascal5i(pascal, 1).test_pairs(1)
    assert [list(part.episodes) for part in data.validation] == [draw_pascal(pairs, shots, 20) for shots in (1, 2)]
    assert data.sources[0].classes == (*range(5), *range(10, 20)), "all base classes are trained on"
    monkeypatch.setattr(Toy, "benchmark_protocol", "sccan", raising=False)
    (part,) = open_data(replace(config, selection="sccan", shots=(1,))).validation
    assert (part.settings.resize, part.settings.scoring) == ("padded", "original")
    assert [e.query for e in part.episodes[:15]] == sorted({name for name, _ in pairs}), "walks the images"
    method = toy()
    miou, fb_iou, _ = validate(method, [part], size=32, batch=4)
    whole = evaluate(method, part.dataset, part.episodes, part.settings)
    assert validate(method, [part], size=32, batch=4, workers=2)[0] == miou
    assert (miou, fb_iou) == pytest.approx((whole.miou, whole.fb_iou), abs=1e-3)


def test_fss_is_validated_on_its_validation_classes(tmp_path: Path) -> None:
    root = make_fss1000(tmp_path / "fss1000", classes=(2, 2, 2))
    assert main(["prepare", "fss1000", "--root", str(root), "--workers", "1"]) == 0
    config = replace(PLAIN, data=(f"fss1000:{root}",), validate_on="test", validation_episodes=20, queries="images")
    data = open_data(replace(config, episodes_per_epoch=0))
    dataset = data.validation[0].dataset
    assert isinstance(dataset, Benchmark)
    wanted = sorted(open_source(f"fss1000:{root}@val").novel, key=lambda c: dataset.classes[c])
    pools = pools_of([(name, c) for c in wanted for name in dataset.names(c)])
    assert list(data.validation[0].episodes) == draw_fss(pools, 1)
    assert with_epoch(replace(config, episodes_per_epoch=0), data).episodes_per_epoch == 20  # 2 classes of 10 images


def _scores(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    scores = iter(values)
    monkeypatch.setattr("fewseg.training.loop.validate", lambda *_, **__: ((s := next(scores)), s, {"a": s}))


def test_half_epochs_are_validated_and_only_better_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _scores(monkeypatch, [30.0, 40.0, 40.0, 35.0, 50.0, 45.0])
    report = run(tmp_path, replace(CONFIG, epochs=3, validate_every=0.5))
    validated = [line["step"] for line in read_metrics(tmp_path) if "val_miou" in line]
    assert validated == [2, 4, 6, 8, 10, 12]
    assert (report.best_step, report.best_miou) == (10, 50.0), "equal is not better"
    with pytest.raises(InvalidOption, match=r"validate_every is 0\.3: give 0\.5, or a whole number"):
        replace(CONFIG, validate_every=0.3)


def test_patience_counts_validations_and_ends_at_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _scores(monkeypatch, [30.0, 20.0, 10.0, 10.0, 10.0])
    report = run(tmp_path, replace(CONFIG, epochs=9, validate_every=0.5, patience=3))
    assert (report.steps, report.best_step) == (8, 2)


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (3, 1), (2, 2), (1, 4)])
def test_every_episode_of_an_epoch_is_in_one_step(processes: int, parts: int) -> None:
    config = replace(CONFIG, batch_size=12, episodes_per_epoch=26, grad_accum_steps=parts, drop_last=False)
    assert (config.steps_per_epoch, config.epoch_episodes, config.steps) == (3, 26, 6)
    steps = [[step_items(config, Processes(rank, processes), s) for rank in range(processes)] for s in range(6)]
    sizes = [sum(len(items) for own in step for items in own) for step in steps]
    assert sizes == [12, 12, 2, 12, 12, 2]
    assert [n for step in steps for own in step for items in own for n in items] == list(range(52))
    assert all(len(items) for step in steps for own in step for items in own)
    dropped = replace(config, drop_last=True)
    assert (dropped.steps_per_epoch, dropped.epoch_episodes) == (2, 24)


@pytest.mark.parametrize("cached_views", [0, 1])
def test_the_last_batch_is_trained_on_in_parts_as_in_whole(tmp_path: Path, cached_views: int) -> None:
    config = replace(PLAIN, batch_size=4, episodes_per_epoch=7, drop_last=False, queries="pairs", validation_episodes=0)
    config = replace(config, cached_views=cached_views)
    no_dropout = replace(config, method="toy", model_kwargs=())
    for name, parts in (("whole", 1), ("parts", 4)):
        train_toy(tmp_path / name, replace(no_dropout, grad_accum_steps=parts))
    assert len(losses(tmp_path / "whole")) == 4
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def train_toy(out: Path, config: Any) -> None:
    """A run without dropout, which parts would draw otherwise."""
    from fewseg.training.train import fit
    from helpers.training_runs import small_data

    method = toy()
    method.config = replace(method.config, dropout=0.0)
    fit(method, small_data(config), config, out, state=read_state(out))


def test_an_epoch_is_as_long_as_the_lists(pascal: Path, tmp_path: Path) -> None:
    config = replace(PLAIN, data=(f"pascal5i:{pascal}",), fold=0, queries="pairs", drop_last=False, method="toy")
    config = replace(config, episodes_per_epoch=0, epochs=1, validation_episodes=0, backbone="tiny")
    pairs = Pascal5i(pascal, 0).train_pairs(0)
    report = train(config, tmp_path)
    assert report.steps == -(-len(pairs) // config.batch_size)
    assert train(config, tmp_path).resumed_from == report.steps, "the same command goes on"
    drawn = {(line["episodes_per_epoch"]) for line in [load_method(report.best).extra["trained"]["config"]]}
    assert drawn == {len(pairs)}


def test_what_an_earlier_version_did_not_write_is_what_it_did(tmp_path: Path) -> None:
    before = replace(CONFIG).to_json()
    for name in ("queries", "small_queries", "ignored_pixels", "drop_last"):
        before.pop(name)
    CONFIG.check_resumes(before, "OUT")
    for change in ({"queries": "pairs"}, {"ignored_pixels": "background"}, {"drop_last": False}):
        with pytest.raises(InvalidOption, match="give the same settings"):
            replace(CONFIG, **change).check_resumes(before, "OUT")  # type: ignore[arg-type]


Check = Callable[[dict[str, Any]], bool]


@pytest.mark.parametrize(
    ("names", "check"),
    [
        ("dcama-pascal5i hsnet-pascal5i", lambda r: r["queries"] == "pairs" and not r["drop_last"]),
        ("dcama-coco20i hsnet-coco20i", lambda r: r["queries"] == "classes" and r["validation_episodes"] == 1000),
        ("dcama-fss1000 hsnet-fss1000", lambda r: r["queries"] == "images" and r["validation_episodes"] == 2400),
        ("sccan-", lambda r: r["queries"] == "images" and r["small_queries"] and r["seed"] == 321),
        ("sccan-pascal5i", lambda r: (r["validation_episodes"], r["patience"]) == (1000, 75)),
        (
            "sccan-coco20i",
            lambda r: (r["validation_episodes"], r["patience"], r["validate_every"]) == (4000, 150, 0.5),
        ),
        ("dcama hsnet sccan", lambda r: r["validate_on"] == "test"),
    ],
)
def test_recipes_do_as_the_released_code(names: str, check: Check) -> None:
    found = [name for name in RECIPES if name.startswith(tuple(names.split()))]
    assert len(found) >= 4
    for name in found:
        assert check(dict(find_recipe(name).published)), name


def test_epochs_of_recipes_are_those_of_the_released_lists() -> None:
    counts = {name: find_recipe(name).episodes for name in RECIPES}
    assert counts["dcama-pascal5i-resnet50"] == counts["hsnet-pascal5i-resnet101"] == (11394, 10255, 7797, 11594)
    assert counts["dcama-coco20i-swin_b"] == (62040, 74381, 73035, 73808)
    assert counts["sccan-pascal5i-resnet50-5shot"] == (4208, 3726, 2752, 4510)
    assert counts["sccan-coco20i-resnet50"] == (21917, 0, 0, 0)
    assert METHODS["sccan"].benchmark_protocol == "sccan"
    assert np.prod(counts["dcama-fss1000-resnet50"]) == 5200
