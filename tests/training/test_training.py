"""The training loop: learns, resumes exactly, leaves what it should."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewseg.core.errors import InvalidCheckpoint, InvalidDataset, InvalidImage, InvalidOption, OutputError
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.models.checkpoints.native import load_method
from fewseg.models.presence import DEFAULT_THRESHOLD, UNSCALED
from fewseg.training.data import divide, training_batches
from fewseg.training.log import MetricsLog, read_metrics
from fewseg.training.state import read_state
from fewseg.training.train import fit, make_method
from helpers.toy_method import toy
from helpers.training_runs import CONFIG, losses, run, small_data

pytestmark = pytest.mark.usefixtures("toy_known", "one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


def test_leaves_checkpoints_and_metrics(whole: Path) -> None:
    lines = read_metrics(whole)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    validations = [line for line in lines if "val_miou" in line]
    assert [line["step"] for line in validations] == [4, 8]
    method = load_method(whole / "best.safetensors")
    trained = method.extra["trained"]
    assert trained["val_miou"] == max(line["val_miou"] for line in validations)
    assert "data" not in trained["config"]
    assert len(trained["datasets"]["synthetic"]) == 22
    assert not [path for path in whole.iterdir() if "tmp" in path.name]
    assert {"best.safetensors", "last.safetensors", "state.pt"} <= {path.name for path in whole.iterdir()}


@pytest.mark.parametrize("stop_at", [2, 4, 5, 7])
def test_resumes_with_the_same_losses(whole: Path, tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=stop_at)
    report = run(tmp_path)
    assert report.resumed_from == {2: 0, 4: 4, 5: 4, 7: 6}[stop_at]
    assert report.steps == 8
    assert losses(tmp_path) == losses(whole)
    one, two = load_method(whole / "last.safetensors"), load_method(tmp_path / "last.safetensors")
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])
    assert one.extra == two.extra


def test_survives_a_real_kill(whole: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from fewseg.training.train import fit\n"
        "from helpers import training_runs as t\n"
        "from helpers.toy_method import toy\n"
        "torch.set_num_threads(1)\n"
        "kill = lambda step, *_: os.kill(os.getpid(), signal.SIGKILL) if step == 5 else None\n"
        "fit(toy(), t.small_data(t.CONFIG), t.CONFIG, Path(sys.argv[1]), progress=kill)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert len(losses(tmp_path)) == 5
    assert run(tmp_path).resumed_from == 4
    assert losses(tmp_path) == losses(whole)


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = (whole / "last.safetensors").stat().st_mtime_ns
    report = run(whole)
    assert report.resumed_from == report.steps == 8
    assert (whole / "last.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("less", [{"patience": 1}, {"epochs": 2}])
def test_what_is_asked_for_less_on_resuming_is_still_fitted(tmp_path: Path, less: dict[str, int]) -> None:
    longer = replace(CONFIG, epochs=6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, longer, stop_at=21)
    assert "presence_threshold" not in load_method(tmp_path / "best.safetensors").extra
    report = run(tmp_path, replace(longer, **less))
    extra = load_method(report.best).extra
    assert 0 < extra["presence_threshold"] <= DEFAULT_THRESHOLD
    assert extra["presence_slope"] not in (0.0, UNSCALED.slope)


def test_what_was_fitted_to_other_weights_does_not_stay() -> None:
    method = make_method(replace(CONFIG, init_from="default"))
    assert not [key for key in method.extra if key.startswith("presence_")]
    assert "presence_threshold" in load_method("default").extra


def test_longer_at_a_constant_rate(whole: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, replace(CONFIG, epochs=3)).steps == 12
    assert losses(tmp_path)[:8] == losses(whole)


def test_other_settings_are_refused(whole: Path) -> None:
    with pytest.raises(InvalidOption, match=r"holds a run with lr 0\.001, not 0\.1"):
        run(whole, replace(CONFIG, lr=0.1))
    with pytest.raises(InvalidOption, match="with epochs 2, not 9"):
        run(whole, replace(CONFIG, schedule="cosine", epochs=9))
    run(whole, replace(CONFIG, threads=1, checkpoint_every=7))


def test_learns_and_leaves_the_frozen_backbone_alone(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        epochs=1,
        episodes_per_epoch=240,
        batch_size=4,
        augment="none",
        lr=1e-2,
        validation_classes=(0,),
        loss="ce+dice",
    )
    method = toy()
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    report = fit(method, small_data(config), config, tmp_path)
    assert report.best == tmp_path / "last.safetensors"
    assert report.best_miou == -1
    for key, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    curve = losses(tmp_path)
    assert sum(curve[-10:]) < 0.9 * sum(curve[:10])


def test_fine_tunes_the_backbone_with_amp_and_clipping(tmp_path: Path) -> None:
    config = replace(
        CONFIG, epochs=1, episodes_per_epoch=2, train_backbone=True, amp=True, clip_grad=1.0, optimiser="sgd", lr=0.1
    )
    config = replace(config, tensorboard=True, warmup=2, schedule="poly")
    method = toy()
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    fit(method, small_data(config), config, tmp_path)
    assert any(not torch.equal(value, before[key]) for key, value in method.backbone.state_dict().items())
    assert list((tmp_path / "tensorboard").iterdir())


def test_options_of_the_method() -> None:
    method = make_method(replace(CONFIG, method="dcama", image_size=64, model_kwargs=("heads=4", "attention=cosine")))
    assert (method.config.heads, method.config.attention) == (4, "cosine")


def test_the_callers_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    run(tmp_path, replace(CONFIG, epochs=1, episodes_per_epoch=2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"the \w+ became (nan|inf) at step \d+: lower lr or .* in a new folder"):
        run(tmp_path, replace(CONFIG, lr=1e30, optimiser="sgd", epochs=8))


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """From step 6, with nothing logged then and a checkpoint at that very step."""
    config = replace(CONFIG, log_every=100)
    run(tmp_path, replace(config, epochs=1))
    before = (tmp_path / "state.pt").read_bytes()
    calls = 0

    def loss(logits: torch.Tensor, target: torch.Tensor, whole: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        factor = 0.0 if spoilt == "gradient" else math.nan
        # The root's slope at 0 is infinite: a finite loss with a gradient that is not.
        return logits.mean() if calls < 2 else (logits * factor).square().sum().sqrt()

    monkeypatch.setattr("fewseg.training.step.choose_loss", lambda _: loss)
    with pytest.raises(InvalidOption, match=rf"the {spoilt} became nan at step 6: .*--init-from .*last\.safetensors"):
        run(tmp_path, replace(config, checkpoint_every=6))
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_broken_image_is_one_line_from_a_worker_too(tmp_path: Path) -> None:
    class Broken(SyntheticDataset):
        def image(self, name: str) -> Image.Image:
            raise InvalidImage(f"{name} is cut short: save it again")

        def __reduce__(self) -> str | tuple[object, ...]:
            return Broken, (self.seed,)

    config = replace(CONFIG, workers=1, validation_classes=(0,))
    sources = divide([OpenSource(Broken(), (0, 1), ())], (1.0,), config).sources
    with pytest.raises(InvalidImage) as caught:
        next(training_batches(sources, config, 32, start=0, pin=False))
    assert re.fullmatch(r"0\d-\d{4} is cut short: save it again", str(caught.value))


def test_fewer_validation_classes_than_asked_for_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = divide([open_source("synthetic@0/4")], (1.0,), replace(CONFIG, validation_classes=(100,)))
    assert len(data.sources[0].classes) == 2
    assert "22 classes to validate on in place of 100" in caplog.text


def test_validation_classes_are_base_classes() -> None:
    opened = open_source("synthetic@plain disc,dotted heart")
    assert opened.novel == (0, 31)
    data = divide([opened], (1.0,), CONFIG)
    trained = set(data.sources[0].classes)
    validated = {episode.class_id for episode in data.validation[0].episodes}
    assert len(validated) == 2
    assert not validated & trained
    assert not (validated | trained) & set(opened.novel)
    assert len(trained) == 28
    nothing = OpenSource(opened.dataset, (), opened.novel)
    with pytest.raises(InvalidDataset, match="no base class is left"):
        divide([nothing], (1.0,), CONFIG)


def test_sources_by_word(tmp_path: Path) -> None:
    assert open_source("synthetic").base == open_source("synthetic").novel == tuple(range(32))
    assert open_source("synthetic@all").base == ()
    assert open_source("synthetic@none").novel == ()
    assert open_source("synthetic", fold=1, folds=4).novel == open_source("synthetic@1/4").novel
    with pytest.raises(InvalidOption, match="unknown class"):
        open_source("synthetic@teapot")
    with pytest.raises(InvalidDataset, match="no folder"):
        open_source(str(tmp_path / "missing@1/4"))


def test_damaged_state_and_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(InvalidCheckpoint, match="no training state"):
        run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        fit(toy(), small_data(CONFIG), CONFIG, tmp_path / "file" / "out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    def write(act: Callable[[MetricsLog], object]) -> None:
        with MetricsLog(tmp_path, 0, tensorboard=False) as log:
            log._file.close()
            log._file = Path("/dev/full").open("a")  # noqa: SIM115 - the log closes it
            act(log)

    with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl: No space left"):
        write(lambda log: log.add(1, loss=0.5))
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.jsonl: No space left"):
        write(lambda log: log._file.write("left to be written on closing"))
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*tensorboard"):
        MetricsLog(tmp_path, 0, tensorboard=True)


def test_metrics_cut_short_by_a_kill(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + '\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_damaged_state_is_refused(whole: Path, tmp_path: Path) -> None:
    content = (whole / "state.pt").read_bytes()
    for place in range(0, len(content) - 200, max(1, len(content) // 40)):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (tmp_path / "state.pt").write_bytes(damaged)
        with pytest.raises(InvalidCheckpoint, match="is no training state"):
            read_state(tmp_path)
    (tmp_path / "state.pt").write_bytes(content[: content.rindex(b"fewseg.sha256:")])  # as earlier versions wrote it
    state = read_state(tmp_path)
    assert state is not None
    assert state["progress"] == read_state(whole)["progress"]  # type: ignore[index]
