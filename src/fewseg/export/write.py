"""Writing a graph: ONNX, and torch's `.pt2`."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import Dim

from fewseg.core.errors import InvalidOption, one_line
from fewseg.export.graphs import BATCH, SHOTS, Graph
from fewseg.export.options import Format

OPSETS: Final = (18, 23)
"""Oldest and newest opset that is written. 18 is the default: the oldest that torch's exporter writes as it is, so the
one that the most runtimes read (onnxruntime from 1.14, of 2023, on). Newer ones bring no operation that is used here
and that runtimes compute otherwise than by these."""

KEY: Final = "fewseg"
"""Under which the description stands in an ONNX model's metadata."""

EXTRA: Final = "fewseg.json"
"""The file within a `.pt2` that holds the description."""

MOST: Final = 1024
"""Shots, and queries, that a `.pt2` file takes at once."""


def check_formats(formats: tuple[str, ...], opset: int) -> None:
    """Raise `InvalidOption` for a format that is not known or lacks its libraries."""
    if not formats:
        raise InvalidOption("no format: give onnx, pt2 or both")
    for name in formats:
        if name not in ("onnx", "pt2"):
            raise InvalidOption(f"unknown format {name!r}; known: onnx, pt2")
    if "onnx" in formats:
        if not OPSETS[0] <= opset <= OPSETS[1]:
            raise InvalidOption(f"opset {opset}: choose from {OPSETS[0]} to {OPSETS[1]}")
        require_onnx()


def require_onnx() -> None:
    """Raise `InvalidOption` where the ONNX libraries are not installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidOption(f"{', '.join(missing)} not installed: pip install 'fewseg[onnx]', or choose --formats pt2")


def write_graph(graph: Graph, kind: Format, path: Path, about: dict[str, Any], opset: int) -> None:
    """Write one graph to `path`, with what is said `about` it.

    Raises `InvalidOption`, in one line, where the method cannot be traced with open shots.
    """
    try:
        with _quiet(), torch.no_grad():
            if kind == "onnx":
                _write_onnx(graph, path, about, opset)
            else:
                _write_pt2(graph, path, about)
    except OSError:
        raise
    except Exception as error:  # torch's tracing raises anything
        raise InvalidOption(
            f"the {graph.name} side of {about['method']} over {about['backbone']} cannot be exported as {kind}: "
            f"{_cause(error)}{_advice(graph)}"
        ) from error


def _advice(graph: Graph) -> str:
    if graph.name == "support":
        return "; give --query-only, and encode supports with fewseg"
    return "; choose dcama, another backbone or other options of the method"


def _cause(error: BaseException) -> str:
    """The first line that torch gives as the reason, cut short."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else one_line(error)
    return f"{type(error).__name__}: {said[:160]}".rstrip(".:")


def _write_onnx(graph: Graph, path: Path, about: dict[str, Any], opset: int) -> None:
    program = torch.onnx.export(
        graph.module,
        kwargs={"inputs": graph.inputs},
        dynamic_shapes={"inputs": _dimensions(graph)},
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model
    _check_open(graph, {value.name: value.shape for value in model.graph.inputs})
    model.producer_name, model.producer_version = "fewseg", about["fewseg"]
    model.doc_string = f"{about['method']} over {about['backbone']}, {graph.name} side"
    model.metadata_props.update({KEY: json.dumps(about), "licence": about["licence"]})
    for node in model.graph:  # where every operation stands in our sources, machine paths included: of no use elsewhere
        node.metadata_props.clear()
        node.doc_string = None
    program.save(str(path), external_data=False)


def _check_open(graph: Graph, shapes: dict[Any, Any]) -> None:
    """torch fixes a dimension, without a word, that the traced code depends on."""
    for name, axes in graph.open_dimensions.items():
        for axis, counted in axes.items():
            if name in shapes and isinstance(shapes[name][axis], int):
                raise ValueError(f"the number of {counted} would be fixed to {shapes[name][axis]}")


def _write_pt2(graph: Graph, path: Path, about: dict[str, Any]) -> None:
    shapes = {"inputs": _dimensions(graph)}
    program = torch.export.export(graph.module, (), {"inputs": graph.inputs}, dynamic_shapes=shapes)
    program.example_inputs = None  # they would double the file
    with path.open("wb") as stream:
        torch.export.save(program, stream, extra_files={EXTRA: json.dumps(about)})


def _dimensions(graph: Graph) -> dict[str, dict[int, Any]]:
    dims = {name: Dim(name, min=1, max=MOST) for name in (SHOTS, BATCH)}
    return {
        name: {axis: dims[counted] for axis, counted in graph.open_dimensions.get(name, {}).items()}
        for name in graph.inputs
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own chatter: what matters is checked afterwards."""
    talkers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
