"""The state from which a killed run goes on: one file, replaced atomically."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from fewseg.core.errors import InvalidCheckpoint
from fewseg.core.files import replacing
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.saved_names import upgraded_state
from fewseg.training.optim import Optimisers

FILE_NAME = "state.pt"

_FORMAT = "fewseg.training.2"

_MARK: Final = b"fewseg.sha256:"
"""Begins the last bytes of the file, a checksum of all before them; files of earlier versions have none."""


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps done."""
    best_miou: float = -1.0
    """Best validation mIoU so far, per cent; -1 before the first validation."""
    best_step: int = 0


def save_state(
    folder: Path,
    method: FewShotMethod,
    optimiser: Optimisers,
    progress: Progress,
    config: dict[str, Any],
    ema: FewShotMethod | None = None,
) -> None:
    """Write the state; raises `OutputError`, an older one then stays.

    No random state: every step seeds its own (see `step.step_seed`).
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "format": _FORMAT,
            "config": json.dumps(config),
            "progress": vars(progress),
            "method": method.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": ema.state_dict() if ema is not None else {},
        },
        buffer,
    )
    # Through memory, because torch turns a full disk into an error that does not say so.
    with replacing(folder / FILE_NAME) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.write(_MARK + hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def read_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU, None where nothing is; raises `InvalidCheckpoint` for anything else."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(io.BytesIO(_checked(path.read_bytes())), map_location="cpu", weights_only=True)
        if state["format"] != _FORMAT:
            raise InvalidCheckpoint(f"{path} has format {state['format']!r}, expected {_FORMAT!r}: begin a new run")
        return {**state, "config": json.loads(state["config"])}
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InvalidCheckpoint(
            f"{path} is no training state ({str(error).splitlines()[0]}): begin a new run in another folder, with "
            f"--init-from {folder / 'last.safetensors'} to keep what was learnt"
        ) from error


def _checked(content: bytes) -> bytes:
    """What torch wrote; raises `ValueError` where it changed since, which torch itself does not notice."""
    at = content.rfind(_MARK, max(0, len(content) - len(_MARK) - 64))
    if at < 0:
        return content
    if hashlib.sha256(content[:at]).hexdigest().encode() != content[at + len(_MARK) :]:
        raise ValueError("it is damaged, its checksum does not fit")
    return content[:at]


def restore(
    state: dict[str, Any], method: FewShotMethod, optimiser: Optimisers, ema: FewShotMethod | None = None
) -> Progress:
    """Put a state, of this version or an earlier one, into a freshly made method, optimiser and moving average."""
    try:
        method.load_state_dict(upgraded_state(method.name, state["method"]))
        optimiser.load_state_dict(state["optimiser"])
        if ema is not None:
            ema.load_state_dict(upgraded_state(method.name, state["average"]))
        return Progress(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise InvalidCheckpoint(f"the training state does not fit this method ({first}): begin a new run") from error
