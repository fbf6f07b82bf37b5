"""A taught and adapted segmenter as one graph: what `Segmenter.segment` gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from fewseg import Segmenter, cli
from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.export import GraphOptions, export_segmenter, save_supports
from fewseg.export import segmenter as module
from fewseg.inference.adaptation import fit
from fewseg.models.checkpoints import save_method
from helpers.adapting import disc, small_method, taught, teach

pytestmark = pytest.mark.usefixtures("one_thread", "short")

SIZE = (75, 50)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SHORTEST", 30)
    monkeypatch.setattr(fit, "STEPS", 30)


def adapted(name: str = "prototype") -> Segmenter:
    """One label is adapted, one is not; `presence_scale` is one."""
    method = small_method(name)
    method.extra |= {"presence_slope": 1.5, "presence_offset": -0.5, "presence_threshold": 0.3}
    segmenter = taught(2, method=method)
    teach(segmenter, range(1), "other")
    segmenter.adapt(force=True)
    return segmenter


def near(found: dict[str, np.ndarray], segmenter: Segmenter, image: np.ndarray) -> None:
    """The graph's outputs are the segmenter's results."""
    expected = segmenter.segment(image)
    assert found["probabilities"].shape == (1, len(segmenter.labels), *image.shape[:2])
    for place, label in enumerate(segmenter.labels):
        own = found["probabilities"][0, place]
        assert (np.abs(own - expected.probabilities[label]) > 1e-3).mean() < 2e-3
        assert ((own >= 0.5) != expected.masks[label]).mean() < 2e-3
        assert found["scores"][0, place] == pytest.approx(expected.scores[label], abs=2e-3)


def ort_run(file: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """With onnxruntime and numpy alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


@pytest.mark.parametrize("size", [(1, 40), (75, 50), (64, 64), (640, 480), (100, 7)])
def test_images_are_squashed_as_pillow_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR))
    rows, columns = module.squashing(size[1], 64), module.squashing(size[0], 64)
    planes = torch.from_numpy(pixels).permute(2, 0, 1).double()
    found = (rows @ (planes @ columns.T + 0.5).floor() + 0.5).floor()
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prototype", "dcama", "dcama_light", "sccan", "hsnet"])
def test_every_method(name: str, tmp_path: Path) -> None:
    segmenter = adapted(name)
    steps: list[tuple[int, int]] = []
    about = export_segmenter(segmenter, tmp_path, SIZE, progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    near(ort_run(tmp_path / "segmenter.onnx", disc(60, SIZE)[0]), segmenter, disc(60, SIZE)[0])
    assert about == json.loads((tmp_path / "segmenter.json").read_text())
    assert about["labels"] == ["rough", "other"]
    assert about["segmenter"] == segmenter.fingerprint
    assert about["presence_thresholds"] == [0.3, 0.3]
    assert about["graphs"]["segmenter"]["inputs"] == {"image": [1, 3, 50, 75]}
    assert {p.name for p in tmp_path.iterdir()} == {"segmenter.onnx", "segmenter.json"}


@pytest.mark.slow
def test_pt2_and_labels_that_are_not_adapted(tmp_path: Path) -> None:
    segmenter = taught(2)
    export_segmenter(segmenter, tmp_path, SIZE, GraphOptions(formats=("pt2",)))
    program = torch.export.load(tmp_path / "segmenter.pt2").module()
    image = disc(60, SIZE)[0]
    found = program(inputs={"image": torch.from_numpy(image.transpose(2, 0, 1).copy())[None]})
    near({name: tensor.numpy() for name, tensor in found.items()}, segmenter, image)


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_method(small_method(), tmp_path / "small.safetensors")
    segmenter = Segmenter.from_pretrained(tmp_path / "small.safetensors", device="cpu", precision="float32")
    teach(segmenter, range(2))
    segmenter.adapt(force=True)
    file, out = tmp_path / "rough.fewseg", tmp_path / "out"
    segmenter.save(file)
    call = ["export", "--segmenter", str(file), "--out", str(out)]
    assert cli.main([*call, "--size", "75", "50", "--licence", "MIT"]) == 0
    said = capsys.readouterr().out
    assert "segmenter.onnx" in said
    assert "largest difference from the segmenter" in said
    assert json.loads((out / "segmenter.json").read_text())["licence"] == "MIT"
    near(ort_run(out / "segmenter.onnx", disc(60, SIZE)[0]), segmenter, disc(60, SIZE)[0])


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_method(small_method(), tmp_path / "small.safetensors")
    segmenter = Segmenter.from_pretrained(tmp_path / "small.safetensors", device="cpu", precision="float32")
    teach(segmenter, range(2))
    segmenter.adapt(force=True)
    segmenter.save(tmp_path / "rough.fewseg")
    file, model = str(tmp_path / "rough.fewseg"), ["--model", str(tmp_path / "small.safetensors")]
    for words, said in (
        (["--segmenter", file, "--size", "2000", "10"], "images of 2000 x 10: choose sides from 1 to 1024"),
        (["--segmenter", file, *model], f"--model is kept in {file}: leave it out"),
        (["--segmenter", file, "--support", "x"], "--support is kept in"),
        (["--segmenter", str(tmp_path / "none")], "no such file"),
        (["--support", file, *model], "export the whole segmenter, fewseg export --segmenter FILE"),
    ):
        assert cli.main(["export", "--out", str(tmp_path / "out"), *words]) == 2
        err = capsys.readouterr().err.strip()
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_one_graph_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidSupport, match="nothing has been taught"):
        export_segmenter(taught(0), tmp_path, SIZE)
    with pytest.raises(InvalidOption, match="tta_flip=False"):
        export_segmenter(taught(1, tta_flip=True), tmp_path, SIZE)
    with pytest.raises(InvalidOption, match="what was fitted to the examples is not in encoded examples"):
        save_supports(adapted(), tmp_path / "supports.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segmenter.onnx").write_bytes(b"older")
    monkeypatch.setattr(module, "write_graph", lambda *_: None)
    nothing = {"probabilities": torch.zeros(1, 1, 50, 75), "scores": torch.zeros(1, 1)}
    monkeypatch.setattr(module, "open_graph", lambda *_: lambda tensors: nothing)
    with pytest.raises(InvalidOption, match=r"the onnx export of the segmenter differs from it.*nothing was written"):
        export_segmenter(taught(1), tmp_path, SIZE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("segmenter.onnx", b"older")]
