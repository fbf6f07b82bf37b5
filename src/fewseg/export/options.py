"""What of a method is written, in which files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["onnx", "pt2"]


@dataclass(frozen=True)
class GraphOptions:
    """The files, and how they are checked."""

    formats: tuple[Format, ...] = ("onnx",)
    """Kinds of model files to write: onnx, pt2 (torch.export)."""
    opset: int = 18
    """ONNX operator set, 18 to 23; the oldest is read by the most runtimes."""
    query_only: bool = False
    """Leave out the support side: examples are then encoded by fewseg alone."""
    licence: str | None = None
    """The weights' licence, written into the files; what the checkpoint says if not given."""
    verify_shots: tuple[int, ...] = (1, 3, 5)
    """Numbers of examples with which the files are compared with torch, each with one query and with two."""
