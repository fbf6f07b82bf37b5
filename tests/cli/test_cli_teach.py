"""`fewseg teach`, and what it writes in place of examples; `--adapt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg import Segmenter, cli
from fewseg.inference.adaptation import fit
from fewseg.models.checkpoints import save_method
from helpers.adapting import disc, small_method

pytestmark = pytest.mark.usefixtures("one_thread", "short")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SHORTEST", 30)
    monkeypatch.setattr(fit, "STEPS", 30)


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    save_method(small_method(), tmp_path / "small.safetensors")
    return ["--model", str(tmp_path / "small.safetensors"), "--device", "cpu"]


def examples(folder: Path, count: int) -> Path:
    (folder / "rough").mkdir(parents=True)
    for number in range(count):
        image, mask = disc(number)
        Image.fromarray(image).save(folder / "rough" / f"{number}.bmp")
        Image.fromarray(mask * 255).save(folder / "rough" / f"{number}.png")
    return folder


@pytest.fixture
def query(tmp_path: Path) -> Path:
    Image.fromarray(disc(50)[0]).save(tmp_path / "query.png")
    return tmp_path / "query.png"


def mask(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "masks/rough/query.png")) > 0


def test_teach_once_and_segment_with_the_file(
    tmp_path: Path, model: list[str], query: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, file = examples(tmp_path / "support", 5), tmp_path / "rough.fewseg"
    assert cli.main(["teach", "--support", str(support), "--out", str(file), *model]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == f"{file}: rough (5)"
    assert "rough: 5 examples; on each left out in turn IoU" in said.err
    taught = Segmenter.load(file, device="cpu")
    assert taught.supports["rough"].adaptation is not None
    out = tmp_path / "out"
    call = ["segment", "--input", str(query), "--segmenter", str(file), "--device", "cpu"]
    assert cli.main([*call, "--out", str(out)]) == 0
    np.testing.assert_array_equal(mask(out), taught.segment(query).masks["rough"])
    assert "adapt" not in capsys.readouterr().err  # nothing is fitted again
    for words, said_first in (
        (["--support", str(support)], "--segmenter holds what was taught"),
        (["--adapt", "on"], "--adapt is for teaching"),
        (["--refused", str(query)], "--refused is for teaching"),
        (["--model", "other"], f"--model is kept in {file}"),
        (["--shots", "2"], "--shots chooses among the examples"),
    ):
        assert cli.main([*call, "--out", str(tmp_path / "other"), *words]) == 2
        assert said_first in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_adapt_on_off_and_auto(
    tmp_path: Path, model: list[str], query: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support = examples(tmp_path / "support", 2)
    masks = {}
    for adapt in ("auto", "off", "on"):
        out = tmp_path / adapt
        call = ["segment", "--support", str(support), "--input", str(query), "--out", str(out), *model]
        assert cli.main([*call, "--adapt", adapt]) == 0
        masks[adapt] = mask(out)
        assert ("rough: 2 examples" in capsys.readouterr().err) == (adapt == "on")
    np.testing.assert_array_equal(masks["auto"], masks["off"])  # two are too few
    segmenter = Segmenter.from_pretrained(model[1], device="cpu")
    for number in range(2):
        segmenter.teach("rough", support / f"rough/{number}.bmp", support / f"rough/{number}.png")
    segmenter.adapt(force=True)
    np.testing.assert_array_equal(masks["on"], segmenter.segment(query).masks["rough"])


def test_bad_options_are_one_line(tmp_path: Path, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    support = tmp_path / "support"
    for words, said in (
        (["--out", "a.fewseg"], "missing --support"),
        (["--support", str(support), "--out", "a.zip"], "give the file a name that ends in .fewseg"),
        (["--support", str(support), "--out", "a.fewseg"], "does not exist"),
        (["--support", str(support), "--out", "a.fewseg", "--adapt", "maybe"], "adapt"),
    ):
        assert cli.main(["teach", *model, *words]) == 2
        err = capsys.readouterr().err.strip()
        assert said in err
        assert len(err.splitlines()) == 1
