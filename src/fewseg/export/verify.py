"""Verification of exported graphs: each is run on random inputs beside torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.errors import InvalidOption, one_line
from fewseg.export.graphs import IMAGE, IMAGES, JOINED, LOGITS, MASKS, random_query, random_support
from fewseg.export.options import Format
from fewseg.models.methods import FewShotMethod

TOLERANCE: Final = 1e-3
"""By which a foreground probability may differ, for all but `FLIPPED` of the pixels."""

FLIPPED: Final = 1e-3
"""The share of pixels that may differ by more or lie on the other side of 0.5: where shots vote, or windows are
aligned with the one that is most alike, rounding decides between equals."""

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Runs one graph: tensors by name to tensors by name; it takes what it needs of them."""


@dataclass(frozen=True)
class Difference:
    """How far a format's graphs are from torch, for one number of shots and one batch."""

    format: str
    shots: int
    batch: int
    tensors: float
    """Largest difference of an encoded or joined support tensor, over the largest value of that tensor."""
    logits: float
    """Largest difference of a logit."""
    probability: float
    """Largest difference of a foreground probability."""
    beyond: float
    """Share of the pixels whose probability differs by more than `TOLERANCE`."""
    flipped: float
    """Share of the pixels whose mask differs."""

    @property
    def fine(self) -> bool:
        numbers = (self.tensors, self.logits, self.probability)
        return all(np.isfinite(numbers)) and max(self.beyond, self.flipped) <= FLIPPED and self.tensors <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def open_graph(path: Path, kind: Format) -> Run:
    """A graph read back from its file, on one device: the CPU."""
    return _open_onnx(path) if kind == "onnx" else _open_pt2(path)


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = {name: np.ascontiguousarray(tensors[name].numpy()) for name in inputs}
        try:
            found = session.run(outputs, given)
        except Exception as error:  # a class of errors of its own
            raise InvalidOption(f"onnxruntime cannot run the exported {path.name}: {one_line(error)}") from error
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return run


def _open_pt2(path: Path) -> Run:
    with path.open("rb") as stream:
        program = torch.export.load(stream)
    module = program.module()
    names = list(program.call_spec.in_spec.unflatten([None] * program.call_spec.in_spec.num_leaves)[1]["inputs"])

    def run(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = module(inputs={name: tensors[name] for name in names})
        return found

    return run


@torch.no_grad()
def compare(method: FewShotMethod, runs: Mapping[str, Run], kind: Format, shots: int, batch: int) -> Difference:
    """The written graphs (by name) beside the method, on random inputs; supports are encoded by the graphs if they can.

    The logits are those of the whole chain, so differences add up as they would in use.
    """
    images, masks = random_support(method, shots, seed=shots)
    query = random_query(method, batch, seed=100 + shots)
    support = method.encode_support(images, masks)
    expected = method.segment(query, support)
    truth = {**support.tensors, **{JOINED + name: t for name, t in support.shared.items()}}
    tensors, worst = dict(support.tensors), 0.0
    for name, given in (("support", {IMAGES: images, MASKS: masks}), ("join", tensors)):
        if name in runs:
            encoded = runs[name](given)
            worst = max([worst, *(_relative(t, truth[key]) for key, t in encoded.items())])
            tensors.update(encoded)
    logits = runs["query"]({IMAGE: query, **tensors})[LOGITS]
    if logits.shape != expected.shape:
        raise InvalidOption(f"the exported graph gives {tuple(logits.shape)}, torch {tuple(expected.shape)}: report it")
    found, wanted = (foreground(x.numpy()) for x in (logits, expected))
    apart = np.abs(found - wanted)
    return Difference(
        kind,
        shots,
        batch,
        worst,
        float((logits - expected).abs().max()),
        float(apart.max()),
        float((apart > TOLERANCE).mean()),
        float(((found >= 0.5) != (wanted >= 0.5)).mean()),
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def foreground(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Foreground probabilities (B, H, W) of logits (B, 2, H, W), as the example computes them."""
    probability: NDArray[np.float32] = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return probability
