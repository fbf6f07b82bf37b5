"""Exporting a method: write every graph, compare it with torch, and only then put it in place."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import torch

from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder, replacing, sha256, write_text
from fewseg.core.progress import ProgressCallback, silent
from fewseg.export.graphs import Graph, method_graphs
from fewseg.export.options import Format
from fewseg.export.options import GraphOptions as GraphOptions
from fewseg.export.verify import FLIPPED, TOLERANCE, Difference, Run, compare, open_graph
from fewseg.export.write import check_formats, write_graph
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.checkpoints import fingerprint
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import DEFAULT_THRESHOLD, SCORE_SHARE, PresenceScale

DESCRIPTION: Final = "model.json"
"""The description beside the graphs."""


@dataclass(frozen=True)
class GraphReport:
    """What was written, and how near it is to torch."""

    files: dict[str, int]
    """Name to size, bytes."""
    differences: tuple[Difference, ...]
    description: dict[str, Any]
    """The content of `model.json`."""

    @property
    def largest(self) -> float:
        """The largest difference of a foreground probability."""
        return max((d.probability for d in self.differences), default=0.0)


def export_method(
    method: FewShotMethod,
    folder: str | os.PathLike[str],
    options: GraphOptions = GraphOptions(),
    *,
    progress: ProgressCallback = silent,
) -> GraphReport:
    """Write a method's graphs (see `fewseg.export.graphs`) and `model.json` to a folder.

    Every file is compared with torch, in float32 on the CPU, before it takes the place of an older one: foreground
    probabilities within 1e-3 but for 0.1 % of the pixels. The method itself stays as it is.

    Args:
        method: what to export.
        folder: where to; made where missing.
        options: see there.
        progress: called with steps done, steps in all, and a word on the last.

    Raises:
        InvalidOption: options that mean nothing or need what is not installed; a method whose graph cannot be traced
            with open shots; a file that does not compute what torch does.
        OutputError: a file cannot be written.
    """
    check_options(options)
    check_exportable(method)
    out = make_folder(folder)
    method = _specimen(method)
    graphs = list(method_graphs(method, query_only=options.query_only))
    about = describe(method, graphs, options)
    sizes, differences = _write_compared(method, graphs, out, about, options, progress)
    for name in _of_another_model(out / DESCRIPTION, about["fingerprint"]) - sizes.keys():
        (out / name).unlink(missing_ok=True)
    about["files"] = list(sizes)
    about["sha256"] = {name: sha256(out / name) for name in sizes}
    about["differences"] = [difference.to_json() for difference in differences]
    write_text(out / DESCRIPTION, json.dumps(about, indent=1) + "\n")
    return GraphReport(sizes, tuple(differences), about)


def _write_compared(
    method: FewShotMethod,
    graphs: list[Graph],
    out: Path,
    about: dict[str, Any],
    options: GraphOptions,
    progress: ProgressCallback,
) -> tuple[dict[str, int], list[Difference]]:
    """Sizes of the files by name, and their differences from torch; all files take their places, or none."""
    steps = len(options.formats) * (len(graphs) + 2 * len(options.verify_shots))
    differences: list[Difference] = []
    names = [(graph, kind, f"{graph.name}.{kind}") for kind in options.formats for graph in graphs]
    with ExitStack() as stack:
        paths = {name: stack.enter_context(replacing(out / name)) for _, _, name in names}
        for done, (graph, kind, name) in enumerate(names, 1):
            write_graph(graph, kind, paths[name], {**about, "graph": graph.name}, options.opset)
            progress(done, steps, f"written: {name}")
        for kind in options.formats:
            runs = {graph.name: open_graph(paths[name], kind) for graph, k, name in names if k == kind}
            for difference in _compared(method, runs, kind, options.verify_shots):
                differences.append(difference)
                progress(len(names) + len(differences), steps, f"compared: {kind}, {difference.shots} shots")
        return {name: paths[name].stat().st_size for *_, name in names}, differences


def _of_another_model(description: Path, fingerprint: str) -> set[str]:
    """Names that graphs may have beside an earlier export's description, if that is not of this model."""
    try:
        if json.loads(description.read_text("utf-8"))["fingerprint"] == fingerprint:
            return set()
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {f"{graph}.{kind}" for graph in ("support", "join", "query") for kind in get_args(Format)}


def check_options(options: GraphOptions) -> None:
    """Raise `InvalidOption` for options that mean nothing or need what is not installed."""
    check_formats(options.formats, options.opset)
    if not options.verify_shots or any(not 1 <= n <= 100 for n in options.verify_shots):
        raise InvalidOption(f"verify_shots {options.verify_shots}: give one or more numbers from 1 to 100")
    if options.licence is not None and not options.licence.strip():
        raise InvalidOption("the licence is empty: name it, or leave the option out")


def check_exportable(method: FewShotMethod) -> None:
    """Raise `InvalidOption` for a method that no graph can hold."""
    if method.unexportable:
        raise InvalidOption(
            f"{method.name} cannot be exported, {method.unexportable}: segment with it in Python or through "
            "`fewseg serve`, or export another method"
        )


def _specimen(method: FewShotMethod) -> FewShotMethod:
    """A copy to trace: float32, on the CPU, in evaluation mode."""
    method = copy.deepcopy(method).to("cpu", torch.float32).eval()
    return method.requires_grad_(False)


def _compared(
    method: FewShotMethod, runs: dict[str, Run], kind: Format, shots: tuple[int, ...]
) -> Iterator[Difference]:
    for n in shots:
        for batch in (1, 2):
            difference = compare(method, runs, kind, n, batch)
            if not difference.fine:
                raise InvalidOption(
                    f"the {kind} export of {method.name} over {method.backbone.name} differs from torch at {n} shots: "
                    f"probabilities by up to {difference.probability:.1e}, {difference.flipped:.2%} of the masks' "
                    f"pixels (allowed: {TOLERANCE:g} for all but {FLIPPED:.1%}); nothing was written"
                )
            yield difference


def describe(method: FewShotMethod, graphs: list[Graph], options: GraphOptions) -> dict[str, Any]:
    """What a program needs to know to run the graphs; also in every file's own metadata."""
    return {
        "fewseg": version("fewseg"),
        "method": method.name,
        "backbone": method.backbone.name,
        "encoder": method.support_key,
        "fingerprint": fingerprint(method),
        "licence": options.licence or str(method.extra.get("licence", "not stated")),
        "image_size": method.config.image_size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "picture": "RGB / 255, squashed to image_size with Pillow's BILINEAR, minus mean, over std",
        "mask": "1 foreground, else 0; squashed to image_size, nearest",
        "logits": "background, foreground; foreground where its softmax is at least 0.5",
        "presence_threshold": float(method.extra.get("presence_threshold", DEFAULT_THRESHOLD)),
        "score": f"s, the mean probability of the surest {SCORE_SHARE:.0%} of the pixels; where presence_scale [a, b] "
        "is not [1, 0], 1 / (1 + exp(-a * log(s / (1 - s)) - b)), s kept 1e-6 away from 0 and 1",
        "presence_scale": list(PresenceScale.of(method.extra)),
        "opset": options.opset if "onnx" in options.formats else None,
        "graphs": {graph.name: _ports(graph) for graph in graphs},
    }


def _ports(graph: Graph) -> dict[str, Any]:
    """Inputs with their shapes, open dimensions by name; outputs."""
    shapes = {
        name: [graph.open_dimensions.get(name, {}).get(axis, side) for axis, side in enumerate(tensor.shape)]
        for name, tensor in graph.inputs.items()
    }
    return {"inputs": shapes, "outputs": list(graph.outputs)}
