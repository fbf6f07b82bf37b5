"""The method that docs/guides/adding-a-method.md shows is a method: checked, trained and scored as the page says."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fewseg import Segmenter
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.models.checkpoints import load_method
from fewseg.models.methods import METHODS

PAGE = (Path(__file__).parents[2] / "docs/guides/adding-a-method.md").read_text("utf-8")

SMALL = {
    "train": "--backbone mobilenetv3_small_050 --no-pretrained --random-backbone --image-size 64 --device cpu "
    "--batch-size 2 --episodes-per-epoch 4 --epochs 1 --workers 0 --no-tensorboard "
    "--validation-classes 1 --validation-episodes 2",
    "evaluate": "--device cpu --episodes-per-class 2 --save-examples 1",
}
"""Options that make the page's commands quick and need no network."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the page's file and the data that its commands name; METHODS is left as it was."""
    source, *others = blocks("python")
    assert all(re.search(r"^import neighbours$", other, re.MULTILINE) for other in others)
    (tmp_path / "neighbours.py").write_text(source, "utf-8")
    made = SyntheticDataset(per_class=7, size=64)
    for class_id, label in enumerate(("cat", "dog", "cow", "hen", "pig")):
        for name in made.names(class_id):
            (tmp_path / "animals" / label).mkdir(parents=True, exist_ok=True)
            made.image(name).save(tmp_path / f"animals/{label}/{name}.jpg")
            Image.fromarray(255 * made.mask(name, class_id)).save(tmp_path / f"animals/{label}/{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(METHODS)
    yield tmp_path
    METHODS.clear()
    METHODS.update(before)
    sys.modules.pop("neighbours", None)


def test_the_page_does_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in blocks("sh")[0].splitlines():
        program, file, *words = shlex.split(line)
        assert (program, file) == ("python", "neighbours.py")
        monkeypatch.setattr(sys, "argv", [file, *words, *SMALL[words[0]].split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(file, run_name="__main__")
        assert ended.value.code == 0, capsys.readouterr().err
    method = load_method("runs/neighbours/best.safetensors")
    assert (method.name, method.config.image_size, method.config.width) == ("neighbours", 64, 128)
    scored = json.loads((folder / "runs/neighbours/vote/results.json").read_text("utf-8"))
    assert [(r["shots"], r["fusion"]) for r in scored["results"]] == [(5, "vote")]
    assert "| animals " in capsys.readouterr().out

    METHODS.pop("neighbours")  # a process of its own would not know it
    names: dict[str, object] = {}
    for block in blocks("python")[1:]:
        exec(block, names)
    assert isinstance(names["seg"], Segmenter)
    assert METHODS["neighbours"].__module__ == "neighbours"
