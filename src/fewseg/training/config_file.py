"""A training run's settings as a YAML file, to read, to diff and to run again."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import yaml

from fewseg.core.bounds import bounded
from fewseg.core.errors import InvalidOption, one_line
from fewseg.training.config import TrainConfig
from fewseg.training.recipes import Recipe, remark

CONFIG: Final = "config.yaml"
"""The file in a run's folder."""


def as_yaml(config: TrainConfig, recipe: Recipe | None = None) -> str:
    """All settings, a line each; comments say where they are not those of the recipe's paper."""
    lines = []
    if recipe is not None:
        lines.append(
            f"# {recipe.name}: {recipe.source}. # ours: the paper leaves it open. # changed: an option was given."
        )
    for name, value in config.to_json().items():
        (text,) = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).splitlines()
        said = remark(name, getattr(config, name), recipe)
        lines.append(f"{name}: {text[1:-1]}" + (f"  # {said}" if said else ""))
    return "\n".join(lines) + "\n"


def read_yaml(path: Path) -> dict[str, Any]:
    """Setting to value without those that are null; raises `InvalidOption` for other files and where a value lacks."""
    try:
        content = yaml.safe_load(bounded(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise InvalidOption(f"cannot read {path} ({reason}): give a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidOption(f"{path} is no YAML: {one_line(error)}") from error
    if not isinstance(content or {}, dict):
        raise InvalidOption(f"{path} holds no settings: write lines like `lr: 0.01`")
    settings = {str(key): value for key, value in (content or {}).items()}
    optional = {field.name for field in fields(TrainConfig) if field.default is None}
    if empty := [key for key, value in settings.items() if value is None and key not in optional]:
        raise InvalidOption(f"{path} has no value for {empty[0]}: give one, or leave the line out")
    return {key: value for key, value in settings.items() if value is not None}
