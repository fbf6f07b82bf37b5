"""`fewseg train` with settings from recipes and files: which counts, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fewseg.cli import main
from fewseg.training.config import TrainConfig

RECIPE = "dcama-pascal5i-resnet50"


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> TrainConfig:
    assert main(["train", *words, "--show"]) == 0
    return TrainConfig.from_json(yaml.safe_load(capsys.readouterr().out))


def test_the_command_line_counts_before_the_file_and_the_file_before_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-2\nepochs: 7\npretrained: false\nrandom_backbone: true\nshots: [1, 5]\nfold: null\n")
    config = shown(capsys, "--recipe", RECIPE, "--config", str(path), "--epochs", "3", "--fold", "1")
    assert (config.lr, config.epochs, config.shots) == (0.01, 3, (1, 5))
    assert (config.pretrained, config.random_backbone) == (False, True)
    assert (config.data, config.fold, config.image_size) == (("pascal5i:ROOT",), 1, 384)
    assert config.episodes_per_epoch == 10255  # of the recipe's fold 1


def test_a_file_can_name_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"recipe: {RECIPE}\ndata: [pascal5i:/voc@2]\n")
    assert shown(capsys, "--config", str(path)) == shown(capsys, "--recipe", RECIPE, "--data", "pascal5i:/voc@2")


def test_what_is_shown_is_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--data",
        "a@x,y: z",
        "b #c",
        "--random-backbone",
        "--lr",
        "1e-7",
        "--cached-views",
        "1",
        "--cache-folder",
        "null",
    ]
    before = shown(capsys, *words)
    assert main(["train", *words, "--show"]) == 0
    path = tmp_path / "run.yaml"
    path.write_text(capsys.readouterr().out)
    assert shown(capsys, "--config", str(path)) == before
    assert before.data == ("a@x,y: z", "b #c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lrr: 1", "unknown key of {path} 'lrr'; did you mean 'lr'"),
        ("lr: much", "{path}: lr is 'much': give a number"),
        ("epochs: 1.5", "{path}: epochs is '1.5': give a whole number"),
        ("amp: perhaps", "{path}: amp is 'perhaps': give true or false"),
        ("schedule: cosin", "{path}: schedule is 'cosin': give one of constant, cosine, poly; did you mean 'cosine'?"),
        ("shots: {a: 1}", "unknown key of {path} 'shots.a'"),
        ("lr: -1", "lr is -1"),
        ("lr: null", "{path} has no value for lr"),
        ("- lr", "{path} holds no settings"),
        ("lr: [", "{path} is no YAML"),
        (None, "cannot read {path}"),
    ],
)
def test_wrong_files_are_named(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["train", "--config", str(path), "--data", "synthetic", "--random-backbone", "--out", "x"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message.format(path=path) in said


def test_a_run_leaves_the_file_that_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--backbone tiny --no-pretrained --random-backbone --image-size 64 --epochs 1 --no-amp --no-tensorboard"
    path = tmp_path / "small.yaml"
    path.write_text("batch_size: 1\nepisodes_per_epoch: 1\nvalidation_episodes: 0\nworkers: 0\ndevice: cpu\n")
    words = ["--recipe", RECIPE, "--config", str(path), "--data", "synthetic@0/4", *small.split()]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *words, "--out", str(first)]) == 0
    config = first / "config.yaml"
    assert TrainConfig.from_json(yaml.safe_load(config.read_text())) == shown(capsys, *words)
    assert main(["train", "--config", str(config), "--out", str(second)]) == 0
    assert (second / "config.yaml").read_text() == config.read_text()
    assert (second / "last.safetensors").read_bytes() == (first / "last.safetensors").read_bytes()
    assert main(["train", *words, "--out", str(first)]) == 0
    assert "was finished already" in capsys.readouterr().err
