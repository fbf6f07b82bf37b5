"""What a person gets who installs the package."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import fewseg
from fewseg.cli.entry import COMMANDS
from fewseg.models.checkpoints.native import EMBEDDED

ROOT = Path(__file__).parents[1]
APACHE_2 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
"""SHA-256 of the text of the Apache License 2.0."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_one_version() -> None:
    assert fewseg.__version__ == PROJECT["project"]["version"]
    assert f"## [{fewseg.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_entry_point_leads_to_the_command_line() -> None:
    assert PROJECT["project"]["scripts"]["fewseg"] == "fewseg.cli:main"
    run = subprocess.run([sys.executable, "-m", "fewseg.cli", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, f"fewseg {fewseg.__version__}")


def test_every_command_has_a_module_of_its_own() -> None:
    assert set(COMMANDS) <= {path.stem for path in (ROOT / "src/fewseg/cli").glob("*.py")}


def test_licence_is_the_published_text_and_what_the_notice_names_is_there() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    named = re.findall(r"\bsrc/[\w/.]*\w", (ROOT / "NOTICE").read_text("utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_embedded_model_is_small_enough_for_the_package() -> None:
    sizes = {name: path.stat().st_size for name, path in EMBEDDED.items()}
    assert sizes.keys() == {"default"}
    assert all(size <= 15_000_000 for size in sizes.values()), sizes


def test_minimum_python_is_said_once() -> None:
    version = re.search(r"version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text("utf-8"))
    assert version is not None
    assert PROJECT["project"]["requires-python"] == f">={version[1]}.{version[2]}"


def test_layers_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    assert lint.exists(), "import-linter is missing: pip install -e '.[dev]'"
    run = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_every_command_is_on_its_page() -> None:
    page = (ROOT / "docs/command-line.md").read_text("utf-8")
    assert re.findall(r"^## fewseg (\w+)$", page, re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^<!-- options: (\w+) -->$", page, re.MULTILINE) == list(COMMANDS)
