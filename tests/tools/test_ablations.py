"""The paper's experiments: complete as data, each runs end to end, is resumed, and prints the paper's numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fewseg import cli
from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.memory import LiveTensors
from fewseg.evaluation.published import paper_results
from fewseg.models.checkpoints import fingerprint, load_method, save_method
from fewseg.models.methods import create_method
from fewseg.models.methods.options import method_options
from fewseg.tools.ablations import EXPERIMENTS, Settings, run, run_experiment
from fewseg.tools.ablations.costs import multiply_adds, peak_megabytes
from fewseg.tools.ablations.report import HEADS, table, write_experiment
from helpers.colour_method import write_support

SETTINGS = Settings(
    data=("synthetic@plain disc,checked star",),
    backbone="tiny",
    random_backbone=True,
    image_size=32,
    model_kwargs=("heads=2",),
    epochs=1,
    episodes_per_epoch=2,
    batch_size=2,
    train=("validation_classes=(0,)", "workers=0", "tensorboard=False"),
    evaluation_episodes=1,
    repeats=1,
    device="cpu",
)


MEASURED = Settings(data=SETTINGS.data, evaluation_episodes=1, repeats=1, device="cpu")
"""For a model that is given."""


def test_the_paper_is_complete() -> None:
    """Every table has an experiment, every carried number a variant, and every variant's options are understood."""
    sources = {e.source for e in EXPERIMENTS.values()}
    assert sources == {"Figure 6", "Figure S1", *(f"Table {n}" for n in ("3", "4", "S1", "S2", "S3", "S4", "S5"))}
    carried = {(key, row) for key, entry in paper_results()["ablations"].items() for row in entry["rows"]}
    assert {(e.key, v.row) for e in EXPERIMENTS.values() for v in e.variants if v.row} == carried
    for experiment in EXPERIMENTS.values():
        if experiment.key:
            assert experiment.source == f"Table {paper_results()['ablations'][experiment.key]['table']}"
        for variant in experiment.variants:
            create_method(variant.method, backbone="tiny", **method_options(variant.method, variant.options))


def test_papers_numbers_by_column() -> None:
    background, regions = EXPERIMENTS["background"], EXPERIMENTS["regions"]
    assert background.paper(background.variants[1]) == {"miou": 67.3, "fb_iou": 76.2}
    assert regions.paper(regions.variants[1], "fss1000") == {"rom": 0.15, "rum": 0.02}
    assert EXPERIMENTS["cost"].paper(EXPERIMENTS["cost"].variants[0])["gflops"] == 103.8
    assert EXPERIMENTS["shots"].paper(EXPERIMENTS["shots"].variants[0]) == {}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablations")


@pytest.mark.parametrize("name", ["background", "skip-scales", "attention-scales", "support-pixels", "regions"])
def test_trained_experiments(out: Path, name: str) -> None:
    outcome = run_experiment(EXPERIMENTS[name], SETTINGS, out)
    assert [row["variant"] for row in outcome.rows] == [v.title for v in EXPERIMENTS[name].variants]
    text = table(outcome)
    measured = [f"{row[c]:{HEADS[c][1]}}" for row in outcome.rows for c in EXPERIMENTS[name].columns]
    assert all(number in text for number in measured)
    assert "protocol folder" in text
    assert EXPERIMENTS[name].about in text
    columns = text.splitlines()[6].split("|")
    paper = [value for v in EXPERIMENTS[name].variants[:1] for value in EXPERIMENTS[name].paper(v).values()]
    assert all(f"{value:g}" in text for value in paper)
    assert columns.count("") <= 2


def test_experiments_share_models(out: Path) -> None:
    """The published DCAMA was trained once for all the experiments above."""
    names = sorted(p.name for p in (out / "models").iterdir())
    assert sum("heads" in name for name in names) == len(names) - 1  # all but HSNet's, which has no heads
    assert len(names) == 1 + 1 + 1 + 3 + 2 + 2  # DCAMA, HSNet, Table 3, S3, S4, S5


def test_finished_variants_are_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = EXPERIMENTS["background"]
    first = run_experiment(experiment, SETTINGS, out)
    (out / "background" / "without-background.json").unlink()  # as if killed before
    again = run_experiment(experiment, dataclasses.replace(SETTINGS, repeats=2), out)
    assert again.skipped == 1
    assert again.rows == first.rows
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run_experiment(experiment, SETTINGS, out).skipped == 2
    with pytest.raises(InvalidOption, match="measured with epochs 1, not 2"):
        run_experiment(experiment, dataclasses.replace(SETTINGS, epochs=2), out)
    (out / "background" / "without-background.json").write_text('{"about":')
    with pytest.raises(InvalidOption, match=r"without-background\.json is damaged"):
        run_experiment(experiment, SETTINGS, out)


def test_folds_are_averaged(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, data=("synthetic",), fold=(0, 9), folds=16)
    experiment = EXPERIMENTS["background"]
    experiment = dataclasses.replace(experiment, variants=experiment.variants[:1])
    both = run_experiment(experiment, settings, tmp_path)
    apart = [run_experiment(experiment, dataclasses.replace(settings, fold=(f,)), tmp_path) for f in (0, 9)]
    assert [one.skipped for one in apart] == [1, 1]
    assert both.rows[0]["miou"] == pytest.approx(sum(one.rows[0]["miou"] for one in apart) / 2)
    assert "miou_low" in apart[0].rows[0]
    assert "miou_low" not in both.rows[0]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["background"]
    experiment = dataclasses.replace(experiment, variants=experiment.variants[:1])
    run_experiment(experiment, dataclasses.replace(SETTINGS, seed=(0, 1)), tmp_path)
    for number, miou in enumerate((20.0, 30.0)):  # what so short a training really gives is 0
        part = tmp_path / "background" / f"with-background{'_seed1' if number else ''}.json"
        content = json.loads(part.read_text())
        content["rows"][0]["miou"] = miou
        part.write_text(json.dumps(content))
    models = [load_method(next((tmp_path / "models").glob(f"*{end}")) / "last.safetensors") for end in ("2", "seed1")]
    assert fingerprint(models[0]) != fingerprint(models[1])
    outcome = run_experiment(experiment, dataclasses.replace(SETTINGS, seed=(0, 1)), tmp_path)
    half = 12.7062 * 10 / 2  # Student's t for one degree of freedom, times deviation / sqrt(2)
    row = outcome.rows[0]
    assert (outcome.skipped, row["seeds"], row["miou"]) == (2, [0, 1], 25.0)
    assert (row["miou_low"], row["miou_high"]) == pytest.approx((25 - half, 25 + half), rel=1e-4)
    with pytest.raises(InvalidOption, match="give each once"):
        run_experiment(experiment, dataclasses.replace(SETTINGS, seed=(1, 1)), tmp_path)


def test_datasets_are_told_apart(tmp_path: Path, checkpoint: str) -> None:
    data = ("synthetic@plain disc,checked star", f"{write_support(tmp_path / 'photos', 'red', 'blue', shots=6)}@0/2")
    settings = dataclasses.replace(MEASURED, data=data, model=checkpoint)
    masks = run_experiment(EXPERIMENTS["intermediate-masks"], settings, tmp_path / "out").rows
    assert {row["title"].rpartition(", ")[2] for row in masks} == {"synthetic", "photos"}
    fusion = run_experiment(EXPERIMENTS["fusion"], dataclasses.replace(settings, shots=(1, 2)), tmp_path / "out").rows
    assert [row["title"] for row in fusion[:4]] == [
        f"vote, {dataset}, {shots}-shot" for dataset in ("synthetic", "photos") for shots in (1, 2)
    ]


@pytest.fixture(scope="module")
def checkpoint(out: Path) -> str:
    torch.manual_seed(0)
    save_method(create_method("dcama", backbone="tiny", image_size=32, heads=2), out / "given.safetensors")
    return str(out / "given.safetensors")


def test_experiments_with_a_given_model(out: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained though a model was given"))
    settings = dataclasses.replace(MEASURED, model=checkpoint)
    fusion = run_experiment(EXPERIMENTS["fusion"], dataclasses.replace(settings, shots=(2,)), out)
    assert [row["shots"] for row in fusion.rows] == [2] * 5
    assert "| paper" not in table(fusion)  # the paper's are 5-shot
    masks = run_experiment(EXPERIMENTS["intermediate-masks"], settings, out)
    assert [row["title"] for row in masks.rows] == ["1/8, Otsu", "1/16, Otsu", "1/32, Otsu", "prediction"]
    same = dataclasses.replace(EXPERIMENTS["fusion"], name="plain", variants=EXPERIMENTS["fusion"].variants[-1:])
    scored = run_experiment(same, dataclasses.replace(settings, shots=(1,)), out)
    assert masks.rows[-1]["miou"] == pytest.approx(scored.rows[0]["miou"])
    with pytest.raises(InvalidOption, match="weights of its own: leave out --model"):
        run_experiment(EXPERIMENTS["background"], settings, out)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", "tiny"),
        ("image_size", 64),
        ("model_kwargs", ("heads=2",)),
        ("random_backbone", True),
        ("epochs", 2),
        ("cache_folder", "maps"),
        ("train", ("lr=0.1",)),
        ("seed", (1,)),
    ],
)
def test_settings_that_a_given_model_leaves_nothing_to(
    tmp_path: Path, checkpoint: str, name: str, value: object
) -> None:
    settings = dataclasses.replace(MEASURED, model=checkpoint, **{name: value})  # type: ignore[arg-type]
    said = f"--model brings its own model: leave out --{name.replace('_', '-')}"
    for experiment in ("fusion", "intermediate-masks", "shots"):
        with pytest.raises(InvalidOption, match=said):
            run_experiment(EXPERIMENTS[experiment], settings, tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_of_a_given_model_tell_nothing_of_training(tmp_path: Path, checkpoint: str) -> None:
    settings = dataclasses.replace(MEASURED, model=checkpoint)
    outcome = run_experiment(EXPERIMENTS["intermediate-masks"], settings, tmp_path)
    write_experiment(tmp_path / "told", outcome, settings)
    whole = json.loads((tmp_path / "told" / "results.json").read_text())["settings"]
    part = json.loads((tmp_path / "intermediate-masks" / "DCAMA.json").read_text())["about"]["settings"]
    for told in (whole, part):
        assert told.keys().isdisjoint({"backbone", "image_size", "options", "epochs", "train"})
        assert {"checkpoint", "data", "count"} <= told.keys()
    assert run_experiment(EXPERIMENTS["intermediate-masks"], settings, tmp_path).skipped == 1
    with pytest.raises(InvalidOption, match="measured with count 1, not 2"):
        run_experiment(
            EXPERIMENTS["intermediate-masks"], dataclasses.replace(settings, evaluation_episodes=2), tmp_path
        )


def test_intermediate_masks_of_several_shots_are_told_apart(tmp_path: Path, checkpoint: str) -> None:
    settings = dataclasses.replace(MEASURED, model=checkpoint)
    experiment = EXPERIMENTS["intermediate-masks"]
    both = run_experiment(experiment, dataclasses.replace(settings, shots=(1, 2)), tmp_path / "both").rows
    assert [row["title"] for row in both] == [
        f"{what}, {shots}-shot" for shots in (1, 2) for what in ("1/8, Otsu", "1/16, Otsu", "1/32, Otsu", "prediction")
    ]
    for number, shots in enumerate((1, 2)):
        alone = run_experiment(experiment, dataclasses.replace(settings, shots=(shots,)), tmp_path / str(shots)).rows
        of_these = both[4 * number : 4 * number + 4]
        assert [(row["miou"], row["shots"]) for row in of_these] == [(row["miou"], shots) for row in alone]


def test_what_cannot_work_is_said_before_anything_is_trained(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained for nothing"))
    with pytest.raises(InvalidOption, match="protocol sccan pads images"):
        run_experiment(
            EXPERIMENTS["intermediate-masks"], dataclasses.replace(SETTINGS, protocol="sccan"), tmp_path / "out"
        )
    torch.manual_seed(0)
    save_method(create_method("hsnet", backbone="tiny", image_size=32), tmp_path / "hsnet.safetensors")
    given = str(tmp_path / "hsnet.safetensors")
    with pytest.raises(InvalidOption, match="is hsnet: fusion takes a DCAMA"):
        run_experiment(EXPERIMENTS["fusion"], dataclasses.replace(MEASURED, model=given), tmp_path / "out")
    words = ["--data", *SETTINGS.data, "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert cli.main(["ablate", "fusion", "background", *words]) == 2
    assert "every variant of background has weights of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cost_experiments(out: Path) -> None:
    cost = run_experiment(EXPERIMENTS["cost"], SETTINGS, out)
    assert [row["epochs"] for row in cost.rows] == [1, 1]
    assert all(0 < row["backbone_gmacs"] < row["gmacs"] for row in cost.rows)
    assert "| 103.8 |" in table(cost).replace("  ", " ")
    untrained = run_experiment(EXPERIMENTS["cost"], dataclasses.replace(SETTINGS, data=()), out / "untrained")
    assert [row["gmacs"] for row in untrained.rows] == [row["gmacs"] for row in cost.rows]
    assert "epochs to the best" not in table(untrained)
    shots = run_experiment(EXPERIMENTS["shots"], dataclasses.replace(SETTINGS, data=(), shots=(1, 3)), out)
    assert [row["shots"] for row in shots.rows] == [1, 3] * 3
    assert shots.rows[1]["megabytes"] > shots.rows[0]["megabytes"]


def test_multiply_adds_of_the_backbone() -> None:
    """Against the sum over convolutions of outputs times inputs of one output."""
    method = create_method("dcama", backbone="mobilenetv3_small_050", image_size=64)
    counted = []

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())

    for layer in method.backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        method.backbone(torch.zeros(1, 3, 64, 64))
    expected = sum(counted) / 1e9
    assert multiply_adds(method)[1] == pytest.approx(2 * expected)
    assert method.config.implementation == "auto"


def test_live_tensors() -> None:
    ones = torch.ones(256, 1024)  # 1 MiB, made before: not counted
    with LiveTensors() as watch:
        double = ones + ones
        view = double[:10].T
        triple = double + ones
        del double
        assert watch.live == 2 * 2**20  # the view keeps the first alive
        del view
        assert watch.live == 2**20
        _ = triple.add_(1)
    assert (watch.live, watch.peak) == (2**20, 2 * 2**20)


def test_peak_grows_with_the_shots() -> None:
    method = create_method("dcama", backbone="tiny", image_size=64)
    one, two, four = (peak_megabytes(method, shots) for shots in (1, 2, 4))
    assert 0 < one < two < four


def test_command(out: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name} ({e.source};" in listed for name, e in EXPERIMENTS.items())
    assert "miou 58.7" in listed
    words = ["--data", *SETTINGS.data, "--model", checkpoint, "--evaluation-episodes", "1", "--device", "cpu"]
    assert cli.main(["ablate", "intermediate-masks", *words, "--out", str(out / "cli")]) == 0
    printed = capsys.readouterr().out
    assert (out / "cli" / "intermediate-masks" / "table.md").read_text().strip() == printed.strip()
    content = json.loads((out / "cli" / "intermediate-masks" / "results.json").read_text())
    assert [row["title"] for row in content["rows"]][-1] == "prediction"
    assert content["protocol"]["name"] == "folder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no experiment named"),
        (["skip-scale", "--out", "o"], "unknown experiment 'skip-scale'; did you mean 'skip-scales'"),
        (["fusion"], "missing --out"),
        (["fusion", "--out", "o"], "fusion needs images"),
        (["background", "--out", "o", "--data", "synthetic"], "backbone resnet50 would be random"),
    ],
)
def test_command_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ablate", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "said"),
    [("rl=0.1", "did you mean 'lr'"), ("lr", "KEY=VALUE"), ("epochs=2", "apart"), ("loss=3", "value like 'ce'")],
)
def test_training_settings_that_mean_nothing(tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        run_experiment(EXPERIMENTS["background"], dataclasses.replace(SETTINGS, train=(word,)), tmp_path)


def test_images_are_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="--data"):
        run_experiment(EXPERIMENTS["regions"], dataclasses.replace(SETTINGS, data=()), tmp_path)
