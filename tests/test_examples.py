"""The examples run as they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from fewseg.datasets.synthetic import SyntheticDataset

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_how_many_shots(tmp_path) -> None:
    dataset = SyntheticDataset(per_class=4, size=64)
    for name in dataset.names(0):
        dataset.image(name).save(tmp_path / f"{name}.jpg")
        Image.fromarray(dataset.mask(name, 0) * 255).save(tmp_path / f"{name}.png")
    command = [sys.executable, str(EXAMPLES / "how_many_shots.py"), str(tmp_path), "--tests", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1 shots", "2 shots"]
    assert all(0 <= float(line.split("IoU ")[1].split()[0]) <= 1 for line in lines)
