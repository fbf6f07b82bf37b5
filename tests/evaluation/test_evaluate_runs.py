"""Evaluations in batches, resumed, by several processes; protocols, folds and seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.cli import main
from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.data.datasets.benchmark import Index, write_index
from fewseg.data.datasets.folder import FolderDataset
from fewseg.data.datasets.pascal5i import VOC_CLASSES
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes, load_episodes, save_episodes
from fewseg.data.episodes.draw_published import draw_pascal
from fewseg.evaluation import evaluate as evaluation
from fewseg.evaluation import run as report_of_run
from fewseg.evaluation.evaluate import EvaluationResult, EvaluationSettings, evaluate
from fewseg.evaluation.metrics.iou import IoUMeter
from fewseg.evaluation.metrics.regions import RegionMeter
from fewseg.evaluation.plan import Target, draw_trials, open_targets, read_trials
from fewseg.evaluation.protocols import PROTOCOLS, choose_protocol, default_protocol
from fewseg.evaluation.published import paper_backbone, paper_results, published
from fewseg.evaluation.report import markdown_table, published_tables
from fewseg.evaluation.summary import mean_interval, summarise
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import METHODS, FewShotMethod, create_method
from helpers.colour_method import ColourMethod, write_support
from helpers.tiny_benchmarks import make_fss1000

DATA = SyntheticDataset(per_class=6, size=72)
EPISODES = draw_test_episodes(DATA, (0, 5, 9), 2, 5, 0)
PAIRS = EvaluationSettings(batch=2)


@pytest.fixture(scope="module")
def method() -> FewShotMethod:
    return ColourMethod(64)


@pytest.mark.parametrize("resize", ["square", "padded"])
@pytest.mark.parametrize("scoring", ["original", "model"])
def test_batches_and_workers_change_nothing(method: FewShotMethod, resize: Any, scoring: Any) -> None:
    one = evaluate(method, DATA, EPISODES, EvaluationSettings(scoring, resize))
    many = evaluate(method, DATA, EPISODES, EvaluationSettings(scoring, resize, batch=4), workers=2)
    assert [s.iou for s in many.scores] == pytest.approx([s.iou for s in one.scores], abs=2e-3)
    assert many.miou == pytest.approx(one.miou, abs=0.1)
    with pytest.raises(InvalidOption, match="batches of 0"):
        evaluate(method, DATA, EPISODES, EvaluationSettings(batch=0))


class Tall:
    """One image half as wide as high, to see where padding goes."""

    name, classes = "tall", ("red",)

    def names(self, class_id: int) -> tuple[str, ...]:
        return ("a", "b")

    def image(self, name: str) -> Any:
        pixels = np.full((60, 30, 3), (0, 0, 200), np.uint8)
        pixels[self.mask(name, 0) == 1] = (220, 20, 20)
        return Image.fromarray(pixels)

    def mask(self, name: str, class_id: int) -> np.ndarray:
        mask = np.zeros((60, 30), np.uint8)
        mask[10:40, 5:25], mask[:3] = 1, 255
        return mask


@pytest.mark.parametrize("scoring", ["original", "model"])
def test_padded_predictions_lie_where_the_truth_does(scoring: Any) -> None:
    episodes = draw_test_episodes(Tall(), (0,), 1, 1, 0, min_images=2)
    result = evaluate(ColourMethod(64), Tall(), episodes, EvaluationSettings(scoring, "padded"))
    assert result.miou > 93
    assert result.resize == "padded"


def test_regions_are_counted(method: FewShotMethod) -> None:
    result = evaluate(method, DATA, EPISODES)
    meter, regions = IoUMeter(), RegionMeter()
    for episode in EPISODES:
        predicted, truth, _ = evaluation.segment_episode(method, DATA, episode)
        meter.add(episode.class_id, predicted, truth)
        regions.add(episode.class_id, predicted, truth)
    assert result.miou == meter.scores().miou
    assert (result.rom, result.rum) == (regions.scores().rom, regions.scores().rum)
    assert result.miou > 0
    assert result.rom != result.rum


def test_a_killed_run_goes_on(method: FewShotMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(method, DATA, EPISODES, PAIRS)
    asked: list[str] = []

    def killed(done: int, *_: object) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(method, DATA, EPISODES, PAIRS, journal=tmp_path, progress=killed)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-40])  # the last batch was being written
    reading = evaluation.read_batch
    monkeypatch.setattr(
        evaluation, "read_batch", lambda d, e, *a, **k: (asked.extend(x.query for x in e), reading(d, e, *a, **k))[1]
    )
    again = evaluate(method, DATA, EPISODES, PAIRS, journal=tmp_path)
    assert asked == [episode.query for episode in EPISODES[4:]]
    assert again.to_json() == whole.to_json()
    assert again.scores == whole.scores
    asked.clear()
    evaluate(method, DATA, EPISODES, PAIRS, journal=tmp_path)
    assert asked == []
    evaluate(method, DATA, EPISODES[:4], EvaluationSettings("model", batch=2), journal=tmp_path)
    assert len(asked) == 4, "other settings are another evaluation"


def test_counts_of_other_masks_are_not_gone_on_from(method: FewShotMethod, tmp_path: Path) -> None:
    root, journal = tmp_path / "data", tmp_path / "journal"
    for name in ("red", "blue"):
        write_support(root, name, shots=4)
    data = FolderDataset(root)
    episodes = draw_test_episodes(data, (0, 1), 1, 2, 0, min_images=2)

    def killed(done: int, *_: object) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(method, data, episodes, journal=journal, progress=killed)
    for mask in root.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(mask)) ^ 255).save(mask)
    changed = FolderDataset(root)
    again = evaluate(method, changed, episodes, journal=journal)
    assert again.to_json() == evaluate(method, changed, episodes).to_json()


def _stop() -> None:
    raise KeyboardInterrupt


WORDS = """evaluate --data synthetic --fold 0 3 --folds 16 --episodes-per-class 2 --seed 0 1 --shots 1 2 --image-size 64
--batch-size 3 --save-examples 1 --device cpu"""
COMMAND = WORDS.split()


def test_two_processes_finish_what_one_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And write the same file as one process that was not stopped."""
    assert main([*COMMAND, "--out", str(tmp_path / "one")]) == 0
    said = capsys.readouterr().out
    with monkeypatch.context() as patched:
        left = iter(range(7))  # one list, and one batch of the next
        counting = evaluation.episode_counts
        patched.setattr(
            evaluation, "episode_counts", lambda *a: counting(*a) if next(left, None) is not None else _stop()
        )
        assert main([*COMMAND, "--out", str(tmp_path / "two")]) == 130
    assert len(list((tmp_path / "two" / "journal").iterdir())) == 2
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "fewseg.cli"]
    run = subprocess.run(
        [*start, *COMMAND, "--out", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    one, two = (tmp_path / name / "results.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert json.loads((tmp_path / "two" / "times.json").read_text())["processes"] == 2
    assert run.stdout.splitlines()[-1] == said.splitlines()[-1]
    assert not (tmp_path / "two" / "journal").exists()
    results = json.loads(one.read_text("utf-8"))
    assert [(r["fold"], r["shots"], r["seed"]) for r in results["results"]] == [
        (fold, shots, seed) for fold in (0, 3) for shots in (1, 2) for seed in (0, 1)
    ]
    assert results["protocol"]["name"] == "folder"
    assert results["protocol"]["changed"] == ["seeds", "episodes"]
    first = results["means"][0]
    assert first["miou"] == pytest.approx(np.mean([r["miou"] for r in results["results"] if r["shots"] == 1]))
    assert set(first["folds"]) == {"0", "3"}
    assert (tmp_path / "one" / "worst_synthetic_fold3_2shot_seed1.jpg").exists()
    assert "protocol folder (changed: seeds, episodes)" in said
    assert (tmp_path / "one" / "results.md").read_text("utf-8") == said


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """An index without images: enough to draw from. Every second image shows two classes."""
    areas = {f"2007_{i:06d}": {i % 20: 3000, **({(i + 1) % 20: 2500} if i % 2 else {})} for i in range(160)}
    small = {f"2008_{i:06d}": {i % 20: 2047} for i in range(40)}
    write_index(tmp_path, "pascal5i", Index(VOC_CLASSES, {"train": areas, "test": {**areas, **small}}), {})
    return tmp_path


def test_folds_of_a_benchmark(pascal: Path) -> None:
    protocol = PROTOCOLS["hsnet"]
    targets = open_targets([f"pascal5i:{pascal}"], protocol)
    assert [target.fold for target in targets] == [0, 1, 2, 3]
    assert {target.benchmark for target in targets} == {"pascal5i"}
    trials = draw_trials(targets, protocol, (1, 5))
    assert [trial.stem for trial in trials[:3]] == [f"pascal5i-fold{f}_{n}shot" for f, n in ((0, 1), (0, 5), (1, 1))]
    pairs = targets[2].dataset.test_pairs(2)  # type: ignore[attr-defined]
    assert trials[5].episodes == draw_pascal(pairs, 5, 1000)
    assert {e.class_id for e in trials[5].episodes} == {10, 11, 12, 13, 14}
    (one,) = open_targets([f"pascal5i:{pascal}@2"], protocol, fold=(0, 1))
    assert (one.fold, one.benchmark, one.novel) == (2, "pascal5i", (10, 11, 12, 13, 14))
    (some,) = open_targets([f"pascal5i:{pascal}@cat,dog"], protocol)
    assert (some.fold, some.benchmark) == (None, None)
    chosen = draw_trials([some], choose_protocol("hsnet", count=30), (1,))[0].episodes
    assert {VOC_CLASSES[e.class_id] for e in chosen} == {"cat", "dog"}
    with pytest.raises(InvalidDataset, match="the same files"):
        open_targets([f"pascal5i:{pascal}"] * 2, protocol, fold=(1,))


def test_a_benchmark_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared, every test image the query once; the papers' numbers below, as for the method that they measured."""
    root = make_fss1000(tmp_path / "fss", classes=(4, 2, 3))
    assert main(["prepare", "fss1000", "--root", str(root)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(report_of_run, "paper_backbone", lambda _: "swin_b")
    save_method(create_method("dcama", backbone="tiny", image_size=32), tmp_path / "dcama.safetensors")
    words = f"--model {tmp_path / 'dcama.safetensors'} --shots 1 --batch-size 8 --save-examples 0 --device cpu"
    assert main(["evaluate", "--data", f"fss1000:{root}", "--out", str(tmp_path / "out"), *words.split()]) == 0
    said = capsys.readouterr().out
    assert "| DCAMA paper, Table 2 | 90.1 |" in said
    assert "protocol hsnet: drawn hsnet" in said
    assert "Not all classes" not in said
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert results["results"][0]["episodes"] == 30
    assert results["results"][0]["benchmark"] == "fss1000"
    queries = [score["query"].split("/")[1] for score in results["results"][0]["scores"][:10]]
    assert queries == sorted(queries)
    assert queries[1] == "10.jpg"
    few = ["evaluate", "--data", f"fss1000:{root}", "--out", str(tmp_path / "few"), *words.split(), "--episodes", "1"]
    assert main(few) == 0
    assert "Not all classes of the fold are in these means (fss1000, 1-shot: 1 of 3" in capsys.readouterr().out
    wrong = ["evaluate", "--data", f"fss1000:{root}", "--out", str(tmp_path), "--episodes-per-class", "3"]
    assert main(wrong) == 2
    assert "--episodes-per-class does not go with protocol hsnet: give --episodes" in capsys.readouterr().err


def test_python_does_what_the_command_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--episodes-per-class",
        "2",
        "--shots",
        "1",
        "--save-examples",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "command"),
    ]
    assert main(["evaluate", "--data", "synthetic@0/8", *words]) == 0
    protocol = choose_protocol("folder", count=2)
    results, tables = report_of_run.evaluate_datasets(
        load_method("default").eval(), ["synthetic@0/8"], tmp_path / "call", protocol=protocol, shots=(1,), sheets=1
    )
    command, call = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("command", "call"))
    assert call["results"] == command["results"]
    assert call["fingerprint"] == command["fingerprint"]
    assert [r.miou for r in results] == [r["miou"] for r in call["results"]]
    without_times = [line.rsplit("|", 2)[0] for line in tables.splitlines()[:3]]
    assert without_times == [line.rsplit("|", 2)[0] for line in capsys.readouterr().out.splitlines()[:3]]
    names = [{path.name for path in (tmp_path / name).rglob("*")} for name in ("command", "call")]
    assert names[0] == names[1]


def test_one_evaluation_ends_without_forgetting_another_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "evaluate",
        "--data",
        "synthetic@0/8",
        "--episodes-per-class",
        "3",
        "--image-size",
        "32",
        "--save-examples",
        "0",
    ]
    words += ["--device", "cpu", "--out", str(tmp_path), "--shots"]
    counting, left = evaluation.episode_counts, iter(range(3))
    with monkeypatch.context() as patched:
        patched.setattr(
            evaluation, "episode_counts", lambda *a: counting(*a) if next(left, None) is not None else _stop()
        )
        assert main([*words, "2"]) == 130
    begun = sorted((tmp_path / "journal").iterdir())
    assert len(begun) == 1
    assert main([*words, "1"]) == 0
    assert sorted((tmp_path / "journal").iterdir()) == begun
    assert main([*words, "1", "2"]) == 0
    assert not (tmp_path / "journal").exists()


def test_results_of_another_model_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--data", "synthetic@0/8", "--episodes-per-class", "1", "--shots", "1", "--image-size", "32"]
    words += ["--save-examples", "0", "--device", "cpu", "--out", str(tmp_path)]
    assert main(words) == 0
    before = (tmp_path / "results.json").read_bytes()
    capsys.readouterr()
    save_method(create_method("prototype", backbone="tiny", image_size=32), tmp_path / "other.safetensors")
    for other in (["--fusion", "vote"], ["--model", str(tmp_path / "other.safetensors")]):
        assert main([*words, *other]) == 2
        assert "holds the results of another model or fusion, dcama_light (default)" in capsys.readouterr().err
    elsewhere = [word.replace("synthetic@0/8", "synthetic@1/8") for word in words]
    for lost in (elsewhere, [*words, "--shots", "5"]):
        assert main(lost) == 2
        assert "holds results that would be lost (synthetic, 1-shot): ask for" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before
    assert main(words) == 0
    assert main([*words, "--shots", "1", "2"]) == 0, "more of the same loses nothing"
    assert main([*words, "--fold", "2"]) == 2
    assert "--fold is for datasets without @" in capsys.readouterr().err


def test_walks(pascal: Path) -> None:
    protocol = choose_protocol("sccan", count=50, seeds=(0, 1, 2, 3, 4))
    assert PROTOCOLS["sccan"].seeds == PROTOCOLS["sccan-square"].seeds == (321,)
    trials = draw_trials(open_targets([f"pascal5i:{pascal}"], protocol, fold=(1,)), protocol, (5,))
    assert [trial.seed for trial in trials] == [0, 1, 2, 3, 4]
    assert all(len(trial.episodes) == 50 for trial in trials)
    assert len({trial.episodes[0].support for trial in trials}) > 1
    assert not any(e.query.startswith("2008") for e in trials[0].episodes), "objects under 2048 pixels"
    folder = choose_protocol("pfenet", count=8)
    (trial,) = draw_trials(open_targets(["synthetic@0/4"], folder), folder, (1,))
    assert {e.class_id for e in trial.episodes} == set(range(0, 32, 4)), "an image of each class in turn"


def test_small_objects_are_tested_where_the_protocol_says_so(tmp_path: Path) -> None:
    areas = {f"2007_{i:06d}": {5 + i % 5: 3000, 5 + (i + 1) % 5: 900 + 300 * (i % 8)} for i in range(40)}
    write_index(tmp_path, "pascal5i", Index(VOC_CLASSES, {"train": {}, "test": areas}), {})
    drawn = {}
    for small in (True, False):
        protocol = choose_protocol("sccan", count=60, small_queries=small)
        (target,) = open_targets([f"pascal5i:{tmp_path}"], protocol, fold=(1,))
        (trial,) = draw_trials([target], protocol, (1,))
        drawn[small] = trial.episodes
        assert all(s in target.dataset.names(e.class_id) for e in trial.episodes for s in e.support)
        save_episodes(tmp_path / "list.json", trial.episodes, target.dataset)
        assert load_episodes(tmp_path / "list.json", target.dataset) == trial.episodes
        listed = [e.query in target.dataset.names(e.class_id) for e in trial.episodes]
        assert all(listed) != small
    assert [e.query for e in drawn[True]] == [e.query for e in drawn[False]]
    assert choose_protocol("sccan", small_queries=False).changed == ("small_queries",)


def test_the_default_protocol_is_that_of_the_methods_paper() -> None:
    assert default_protocol(["pascal5i:data", "synthetic"], METHODS["sccan"]) == "folder"
    named = {name: default_protocol(["pascal5i:data"], kind) for name, kind in METHODS.items()}
    assert named.pop("sccan") == default_protocol(["coco20i:data", "fss1000:data"], METHODS["sccan"]) == "sccan"
    assert set(named.values()) == {default_protocol(["pascal5i:data"])} == {"hsnet"}
    assert {kind.benchmark_protocol for kind in METHODS.values()} <= PROTOCOLS.keys()


def test_protocols() -> None:
    assert all(PROTOCOLS[name].name == name for name in PROTOCOLS)
    assert [PROTOCOLS["sccan"].count(b) for b in ("pascal5i", "coco20i", None)] == [1000, 4000, 1000]
    assert PROTOCOLS["hsnet"].count("fss1000") is None
    changed = choose_protocol("hsnet", count=7, scoring="original", resize="square")
    assert changed.changed == ("scoring", "episodes")
    assert "protocol hsnet (changed: scoring, episodes): drawn hsnet, 7 episodes a fold" in changed.describe()
    assert json.loads(json.dumps(changed.to_json()))["seeds"] == [0]
    with pytest.raises(InvalidOption, match="did you mean 'hsnet'"):
        choose_protocol("hsnt")
    with pytest.raises(InvalidOption, match="different seeds"):
        choose_protocol("hsnet", seeds=(1, 1))


def _result(fold: int, seed: int, miou: float, shots: int = 1) -> EvaluationResult:
    return EvaluationResult(
        *(f"pascal5i-fold{fold}", shots, "model", miou, (miou - 1, miou + 1), 70.0 + fold, {"cat": miou}, 0.01, ()),
        rom=0.25,
        rum=0.125,
        benchmark="pascal5i",
        fold=fold,
        seed=seed,
    )


def test_means_stand_beside_published_numbers() -> None:
    results = [_result(fold, seed, 60.0 + fold + 2 * seed) for fold in range(4) for seed in range(3)]
    (summary,) = summarise(results)
    assert summary.folds == {0: 62.0, 1: 63.0, 2: 64.0, 3: 65.0}
    assert (summary.miou, summary.fb_iou) == (63.5, 71.5)
    # Seeds gave 61.5, 63.5, 65.5: standard deviation 2, Student's t with 2 degrees of freedom 4.3027.
    assert summary.miou_interval == pytest.approx((63.5 - 4.3027 * 2 / 3**0.5, 63.5 + 4.3027 * 2 / 3**0.5), abs=1e-3)
    assert mean_interval([1.0]) is None
    lines = published_tables(results, "dcama", "swin_b").splitlines()
    assert [c.strip() for c in lines[2].split("|")[1:-1]] == [
        *("measured", "62.0", "63.0", "64.0", "65.0", "63.5 ± 5.0", "71.5", "0.250", "0.125")
    ]
    assert [c.strip() for c in lines[3].split("|")[1:-1]] == [
        *("DCAMA paper, Table 1", "72.2", "73.8", "64.3", "67.1", "69.3", "78.5", "0.210", "0.070")
    ]
    part = published_tables(results[3:6], "dcama", "swin_b").splitlines()[2]
    assert [c.strip() for c in part.split("|")[1:-1]] == ["measured", "", "63.0", *[""] * 6], "no mean over all folds"
    assert len(published_tables(results, "prototype", "swin_b").splitlines()) == 3
    assert published_tables([_result(0, 0, 50.0, shots=2)], "dcama", "swin_b") == ""
    heads = [c.strip() for c in markdown_table(results).splitlines()[0].split("|")]
    assert {"fold", "seed", "ROM", "RUM"} <= set(heads)


def test_published_numbers(method: FewShotMethod) -> None:
    assert [row.source for row in published("sccan", "resnet50", "coco20i", 5)] == [
        "SCCAN released figures, padded resize",
        "SCCAN released figures, square resize",
    ]
    (row,) = published("hsnet", "resnet101", "fss1000", 1)
    assert (row.miou, row.fb_iou, row.folds) == (86.5, None, ())
    assert published("dcama", "resnet50", "coco20i-panet", 1) == published("dcama", "resnet50", "fss1000", 3) == []
    assert paper_backbone(method) == "pixels"
    for row in paper_results()["results"]:
        for shots in sorted({"one_shot", "five_shot"} & row.keys()):
            if folds := row[shots].get("folds"):
                assert np.mean(folds) == pytest.approx(row[shots]["miou"], abs=0.11), row


def test_lists_go_to_the_fold_that_tests_their_classes(tmp_path: Path) -> None:
    """Folds of a folder share its name."""
    dataset = SyntheticDataset(per_class=6)
    targets = [Target(dataset, (0, 2), 0), Target(dataset, (1, 3), 1)]
    paths = []
    for target in targets:
        episodes = draw_test_episodes(dataset, target.novel, 1, 2, 0)
        paths.append(tmp_path / f"{target.fold}.json")
        save_episodes(paths[-1], episodes, dataset)
    assert [trial.target.fold for trial in read_trials(paths[::-1], targets)] == [1, 0]
