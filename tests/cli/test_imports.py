"""What is loaded to import the package and to ask for help: nothing that computes."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fewseg
from fewseg.cli.entry import COMMANDS

HEAVY = (
    *("torch", "torchvision", "timm", "huggingface_hub", "safetensors", "scipy", "skimage", "sklearn", "matplotlib"),
    *("tensorboard", "pycocotools", "shapely", "fastapi", "uvicorn", "onnx", "ray", "av"),
)


def loaded(code: str) -> list[str]:
    """The heavy packages that a process has loaded after this code."""
    tell = f"import sys; print('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("module", ["fewseg", "fewseg.cli", "fewseg.errors", "fewseg.batch", "fewseg.formats"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") == []


def test_images_are_read_without_torch() -> None:
    modules = "fewseg.images.draw, fewseg.images.video, fewseg.batch.options, fewseg.inference.tiling"
    code = f"import numpy, {modules}; from fewseg.images import *; read_image(numpy.zeros((3, 5), numpy.uint8))"
    assert loaded(code) == []


def test_the_client_needs_no_torch() -> None:
    assert loaded("import fewseg.client") == ["pycocotools"]


@pytest.mark.parametrize("module", ["fewseg.client", "fewseg.images"])
def test_the_client_loads_no_torch(module: str) -> None:
    """It reads images and masks, and so loads numpy, Pillow and pycocotools."""
    assert set(loaded(f"import {module}")) <= {"pycocotools"}


def test_help_loads_nothing_heavy() -> None:
    assert loaded("from fewseg.cli import main; assert main(['--help']) == 0") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert loaded(f"from fewseg.cli import main; assert main(['{command}', '--help']) == 0") == []


def test_options_are_read_before_anything_heavy_is_loaded() -> None:
    assert loaded("from fewseg.cli import main; assert main(['train', '--lr', 'fast']) == 2") == []


def test_every_public_name_is_what_the_stub_says() -> None:
    """The stub is what type checkers see, and what the lazy names are made of."""
    stub = ast.parse(Path(fewseg.__file__).with_suffix(".pyi").read_text("utf-8"))
    homes = {
        alias.asname or alias.name: f"fewseg.{statement.module}"
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert sorted(homes) == sorted(fewseg.__all__) == sorted(set(fewseg.__all__))
    assert set(fewseg.__all__) <= set(dir(fewseg))
    for name in fewseg.__all__:
        assert getattr(fewseg, name) is getattr(importlib.import_module(homes[name]), name)
