"""`fewseg train` and `fewseg evaluate` from the command line, on generated data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fewseg.cli import main
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.evaluation.evaluate import EvaluationResult
from fewseg.evaluation.report import class_table, markdown_table
from fewseg.models.checkpoints import fingerprint, load_method
from fewseg.models.methods import METHODS, create_method
from helpers.golden_models import released_state
from helpers.toy_method import Toy


@pytest.fixture(autouse=True)
def known_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, Toy.name, Toy)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four classes of seven images in folders."""
    made = SyntheticDataset(per_class=7, size=48)
    root = tmp_path / "shapes"
    for class_id in range(4):
        folder = root / made.classes[class_id].replace(" ", "_")
        folder.mkdir(parents=True)
        for name in made.names(class_id):
            made.image(name).save(folder / f"{name}.jpg")
            Image.fromarray(255 * made.mask(name, class_id)).save(folder / f"{name}.png")
    return root


def _train(data: Path, out: Path, *options: str) -> int:
    small = (
        "--method toy --backbone tiny --random-backbone --image-size 32 --batch-size 2 --episodes-per-epoch 4 "
        "--epochs 1 --workers 0"
    )
    few = "--no-tensorboard --validation-classes 1 --validation-episodes 2 --device cpu"
    return main(["train", "--data", str(data), "--out", str(out), *small.split(), *few.split(), *options])


def test_train_then_evaluate(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "scores"
    source = f"{data}@plain_disc"
    assert _train(Path(source), run) == 0
    assert "best validation mIoU" in capsys.readouterr().err.replace("\n", " ")
    assert _train(Path(source), run) == 0
    assert "was finished already" in capsys.readouterr().err

    evaluate = [
        "evaluate",
        "--data",
        source,
        "--model",
        str(run / "best.safetensors"),
        "--episodes-per-class",
        "3",
    ]
    evaluate += ["--device", "cpu", "--shots", "1", "2", "--save-examples", "1"]
    assert main([*evaluate, "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "| shapes " in table
    assert "| plain_disc |" in table
    results = json.loads((out / "results.json").read_text())
    assert [(r["shots"], r["episodes"]) for r in results["results"]] == [(1, 3), (2, 3)]
    assert results["fingerprint"]
    one, two = (json.loads((out / "episodes" / f"shapes_{n}shot.json").read_text()) for n in (1, 2))
    assert [e["query"] for e in one["episodes"]] == [e["query"] for e in two["episodes"]]
    assert np.asarray(Image.open(out / "worst_shapes_1shot.jpg")).ndim == 3

    assert results["dtype"] == "float32"
    assert results["fingerprint"] == fingerprint(load_method(run / "best.safetensors"))

    again = tmp_path / "again"
    lists = ["--episode-lists", str(out / "episodes" / "shapes_2shot.json"), "--precision", "bfloat16"]
    assert main([*evaluate, "--out", str(again), *lists]) == 0
    repeated = json.loads((again / "results.json").read_text())
    assert repeated["dtype"] == "bfloat16"
    assert repeated["fingerprint"] == results["fingerprint"]
    pairs = zip(repeated["results"][0]["scores"], results["results"][1]["scores"], strict=True)
    assert all(a["query"] == b["query"] and abs(a["iou"] - b["iou"]) < 0.05 for a, b in pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "-1"], "lr is -1.0"),
        (["--optimiser", "adm"], "--optimiser"),
        (["--learning-rate", "1"], "unknown option '--learning-rate'"),
        (["--init-from", "missing.safetensors"], "no checkpoint missing.safetensors"),
        (["--backbone", "resnet5"], "unknown backbone 'resnet5'"),
        (["--fold", "4"], "fold 4 of 4"),
        (["--device", "abacus"], "unknown device"),
        (["--model-kwargs", "droput=0.1"], "unknown option of toy 'droput'; did you mean 'dropout'"),
        (["--model-kwargs", "dropout=much"], "method option dropout is 'much': give a value of type float"),
        (["--model-kwargs", "dropout"], "write it KEY=VALUE"),
        (["--model-kwargs", "image_size=64"], "method option image_size is no option of toy"),
        (["--model-kwargs", "dropout=0.1", "--init-from", "default"], "leave out model_kwargs, or init_from"),
        (["--no-random-backbone"], "backbone tiny would be random and stay so: give --pretrained"),
    ],
)
def test_bad_training_options(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _train(data, tmp_path / "run", *options) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "no folder nowhere"),
        (["--data", "synthetic", "--model", "nothing.safetensors"], "no checkpoint nothing.safetensors"),
        (["--data", "synthetic", "--shots", "30"], "no novel class has 31 usable images: add some"),
        (["--data", "synthetic", "--shots", "0"], "shots 0"),
        (["--data", "synthetic", "--model", "dcma:resnet50"], "did you mean 'dcama'"),
        (["--data", "synthetic", "--model-kwargs", "heads=4"], "leave out --model-kwargs, or give --model"),
        (["--data", "synthetic", "--model", "a.safetensors", "--method", "hsnet"], "leave out one of the two"),
        (["--data", "synthetic", "--backbone-weights", "a.safetensors"], "leave out --backbone-weights"),
        (
            ["--data", "synthetic", "--model", "hsnet:swin_b:a.pt"],
            "of hsnet 'swin_b'; known: resnet101",
        ),
        (["--data", "synthetic", "--seed", "-1"], "seed 0 or more"),
        (
            ["--data", "synthetic", "--model", "prototype:resnet50", "--model-kwargs", "temprature=4"],
            "did you mean 'temperature'",
        ),
        (["--data", "synthetic", "--episode-lists", "none.json"], "cannot read none.json"),
        (["--data", "synthetic@0/4", "synthetic@1/4"], "two datasets would write the same files"),
        (["--data", "synthetic", "--min-area", "2"], "min_area 2"),
        (["--data", "synthetic@plain disk"], "did you mean 'plain disc'"),
    ],
)
def test_bad_evaluation_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_tables() -> None:
    one = EvaluationResult("pets", 1, "original", 41.26, (38.0, 44.0), 60.0, {"cat": 50.0, "dog": 32.5}, 0.0123, ())
    five = EvaluationResult("pets", 5, "original", 45.0, (40.0, 50.0), 63.0, {"cat": 45.0}, 0.02, ())
    lines = markdown_table([one, five]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == [
        "|",
        "pets",
        "|",
        "1",
        "|",
        "one-pass",
        "|",
        "41.3",
        "|",
        "38.0",
        "to",
        "44.0",
        "|",
        "60.0",
        "|",
        "2",
        "|",
        "0",
        "|",
        "12",
        "|",
    ]
    assert class_table([one, five]).splitlines()[-1].split() == ["|", "dog", "|", "32.5", "|", "|"]


def test_evaluate_a_release_and_another_size(data: Path, tmp_path: Path) -> None:
    """Whose release it is follows --method; --image-size goes for every kind of model."""
    release = tmp_path / "hsnet.pt"
    torch.save(released_state("keys_hsnet_resnet50.tsv", 0), release)
    evaluate = [
        "evaluate",
        "--data",
        f"{data}@plain_disc",
        "--episodes-per-class",
        "1",
        "--shots",
        "1",
        "--save-examples",
        "0",
    ]
    evaluate += ["--device", "cpu", "--image-size", "64"]
    official = ["--model", str(release), "--official", "resnet50", "--method", "hsnet"]
    assert main([*evaluate, *official, "--out", str(tmp_path / "official")]) == 0
    assert main([*evaluate, "--out", str(tmp_path / "default")]) == 0
    about = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("official", "default")]
    assert [(a["method"], a["image_size"]) for a in about] == [("hsnet", 64), ("dcama_light", 64)]
    assert about[0]["checkpoint"] == str(release)


def test_a_method_that_was_not_trained_is_not_scored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_file(create_method("prototype", backbone="tiny").backbone.net.state_dict(), weights)
    evaluate = [
        "evaluate",
        "--data",
        f"{data}@plain_disc",
        "--episodes-per-class",
        "1",
        "--shots",
        "1",
        "--save-examples",
        "0",
    ]
    evaluate += ["--backbone", "tiny", "--backbone-weights", str(weights), "--image-size", "64", "--device", "cpu"]
    assert main([*evaluate, "--method", "dcama", "--out", str(tmp_path / "no")]) == 2
    assert "dcama has to be trained" in capsys.readouterr().err
    assert main([*evaluate, "--method", "prototype", "--out", str(tmp_path / "yes")]) == 0
