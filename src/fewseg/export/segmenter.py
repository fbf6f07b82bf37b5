"""A taught segmenter as one graph: an image of a fixed size in, every label's probabilities at that size out.

Examples, what was fitted to them and all resizing are in the graph, so that it gives what `Segmenter.segment` gives.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder, replacing, sha256, write_text
from fewseg.core.progress import ProgressCallback, silent
from fewseg.export.graphs import IMAGE, Graph, joined_tensors, support_set
from fewseg.export.options import Format, GraphOptions
from fewseg.export.run import check_exportable, check_options, describe
from fewseg.export.supports import check_averages, label_thresholds
from fewseg.export.verify import FLIPPED, TOLERANCE, Run, open_graph
from fewseg.export.write import write_graph
from fewseg.images.transforms import normalise
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.examples import LONGEST_SIDE
from fewseg.inference.predict import EncodedImages, adapt_predictions, predict_probabilities
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport
from fewseg.models.ops.resize import resize
from fewseg.models.ops.top_k import top_fraction_mean
from fewseg.models.presence import NEAREST, SCORE_SHARE, UNSCALED

PROBABILITIES: Final = "probabilities"
SCORES: Final = "scores"
NAME: Final = "segmenter"
"""Name of the graph and its files."""


@dataclass(frozen=True)
class SegmenterDifference:
    """How far a format's graph is from `Segmenter.segment`, over a few images."""

    format: str
    probability: float
    """Largest difference of a foreground probability."""
    beyond: float
    """Share of the pixels whose probability differs by more than `TOLERANCE`."""
    flipped: float
    """Share of the pixels whose mask differs."""
    score: float
    """Largest difference of a presence score."""


class _Whole(nn.Module):
    """`image` (1, 3, H, W), uint8, to `probabilities` (1, labels, H, W) and `scores` (1, labels)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, segmenter: Segmenter, size: tuple[int, int]) -> None:
        """`size`: width and height of the image."""
        super().__init__()
        self.method, self.size, self.scale = segmenter.method, (size[1], size[0]), segmenter.presence_scale
        side = self.method.config.image_size
        self.register_buffer("rows", squashing(size[1], side), persistent=False)
        self.register_buffer("columns", squashing(size[0], side), persistent=False)
        self.abouts = [support.adaptation and support.adaptation.about for support in segmenter.supports.values()]
        self.digests = [support.digests for support in segmenter.supports.values()]
        self.names: list[tuple[int, str, str]] = []
        for place, support in enumerate(segmenter.supports.values()):
            (encoded,) = support.sets
            joined = joined_tensors(self.method, encoded)
            self._keep(place, "support", {**encoded.tensors, **joined})
            if support.adaptation:
                self._keep(place, "adapted", support.adaptation.tensors())

    def _keep(self, place: int, kind: str, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(f"kept{len(self.names)}", tensor.contiguous(), persistent=False)
            self.names.append((place, kind, name))

    def _supports(self) -> list[LabelSupport]:
        """What was taught, of the buffers."""
        kept: dict[tuple[int, str], dict[str, Tensor]] = {}
        for number, (place, kind, name) in enumerate(self.names):
            kept.setdefault((place, kind), {})[name] = getattr(self, f"kept{number}")
        supports = []
        for place, about in enumerate(self.abouts):
            adaptation = AdaptedLabel.from_tensors(kept[place, "adapted"], about) if about else None
            sets = (support_set(self.method, kept[place, "support"]),)
            supports.append(LabelSupport(sets, self.digests[place], adaptation=adaptation))
        return supports

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = inputs[IMAGE][0]
        # As Pillow squashes: across, then down, each rounded to whole numbers, halves up.
        across = (pixels.double() @ self.columns.T + 0.5).floor()
        squashed = (self.rows @ across + 0.5).floor().float()
        query = self.method.encode_query(normalise(squashed / 255)[None])
        features = EncodedImages(((query,),), (pixels,))
        supports = self._supports()
        # One by one: what labels could share is found by the bytes of their examples, which tracing does not know.
        frozen = torch.cat([predict_probabilities(self.method, features, [support]) for support in supports], 1)
        (found,) = adapt_predictions(self.method, features, supports, frozen)
        scores = top_fraction_mean(found.flatten(1), SCORE_SHARE)
        if self.scale != UNSCALED:
            scores = (self.scale.slope * scores.clamp(NEAREST, 1 - NEAREST).logit() + self.scale.offset).sigmoid()
        return {PROBABILITIES: resize(found[None], self.size), SCORES: scores[None]}


def squashing(length: int, side: int) -> Tensor:
    """The shares (side, length), float64, that a row of `length` pixels has in `side` pixels with Pillow's BILINEAR.

    To the bit, `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c: a triangle as wide as two pixels
    of the larger grid, in whole multiples of 2 ** -22.
    """
    scale = length / side
    reach = max(scale, 1.0)
    shares = np.zeros((side, length))
    for place in range(side):
        centre = (place + 0.5) * scale
        near = np.arange(max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5)))
        triangle = np.maximum(0, 1 - np.abs((near - centre + 0.5) / reach))
        shares[place, near] = np.floor(triangle / triangle.sum() * 2**22 + 0.5) / 2**22
    return torch.from_numpy(shares)


def export_segmenter(
    segmenter: Segmenter,
    folder: str | os.PathLike[str],
    size: tuple[int, int],
    options: GraphOptions = GraphOptions(),
    *,
    progress: ProgressCallback = silent,
) -> dict[str, Any]:
    """Write `segmenter.onnx` (or `.pt2`) and `segmenter.json`, which describes it, to a folder; returns the latter.

    Every file is compared with `Segmenter.segment`, on the CPU in float32, before it takes an older one's place.

    Args:
        segmenter: taught, adapted or not.
        folder: where to; made where missing.
        size: width and height of the images that the graph takes, at most 1,024.
        options: formats, opset and licence.
        progress: called with steps done, steps in all, and a word on the last.

    Raises:
        InvalidSupport: nothing has been taught. InvalidOption: impossible options, or a file that does not compute
            what `segment` does. OutputError: a file cannot be written.
    """
    check_options(options)
    check_exportable(segmenter.method)
    check_averages(segmenter)
    if not all(1 <= side <= LONGEST_SIDE for side in size):
        raise InvalidOption(f"images of {size[0]} x {size[1]}: choose sides from 1 to {LONGEST_SIDE}")
    plain = _plain(segmenter)
    graph = _graph(plain, size)
    about = {**_description(plain, graph, options), "segmenter": segmenter.fingerprint}
    out, differences = make_folder(folder), []
    with ExitStack() as stack:
        for done, kind in enumerate(options.formats):
            path = stack.enter_context(replacing(out / f"{NAME}.{kind}"))
            write_graph(graph, kind, path, {**about, "graph": NAME}, options.opset)
            progress(2 * done + 1, 2 * len(options.formats), f"written: {NAME}.{kind}")
            differences.append(_compared(plain, open_graph(path, kind), kind, size))
            progress(2 * done + 2, 2 * len(options.formats), f"compared: {kind}")
    about["files"] = [f"{NAME}.{kind}" for kind in options.formats]
    about["sha256"] = {name: sha256(out / name) for name in about["files"]}
    about["differences"] = [asdict(difference) for difference in differences]
    write_text(out / f"{NAME}.json", json.dumps(about, indent=1) + "\n")
    return about


def _graph(segmenter: Segmenter, size: tuple[int, int]) -> Graph:
    """All of the segmenter, for images of this width and height."""
    example = torch.zeros(1, 3, size[1], size[0], dtype=torch.uint8)
    return Graph(NAME, _Whole(segmenter, size).eval(), {IMAGE: example}, {}, (PROBABILITIES, SCORES))


def _description(segmenter: Segmenter, graph: Graph, options: GraphOptions) -> dict[str, Any]:
    """What programs need to know to run the graph."""
    return {
        **describe(segmenter.method, [graph], options),
        "labels": list(segmenter.labels),
        "presence_thresholds": label_thresholds(segmenter),
        "picture": "uint8, RGB, at this very size",
        "probabilities": "of each label's foreground; its mask is where they are at least 0.5",
    }


def _plain(segmenter: Segmenter) -> Segmenter:
    """A copy on the CPU in float32."""
    other = segmenter.to("cpu")
    other.method = other.method.to(torch.float32).eval().requires_grad_(False)
    supports = {k: s.to(torch.device("cpu"), torch.float32) for k, s in other.supports.items()}
    return other.with_supports(supports)


@torch.no_grad()
def _compared(segmenter: Segmenter, run: Run, kind: Format, size: tuple[int, int]) -> SegmenterDifference:
    """The graph beside the segmenter on an image of shapes and one of noise; raises `InvalidOption`."""
    apart: list[Any] = []
    flipped: list[Any] = []
    score = 0.0
    for number, grain in enumerate((12, 3)):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (-(-size[1] // grain), -(-size[0] // grain), 3), np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        expected = segmenter.segment(image)
        found = run({IMAGE: torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()})
        for place, label in enumerate(segmenter.labels):
            own = found[PROBABILITIES][0, place].numpy()
            apart.append(np.abs(own - expected.probabilities[label]))
            flipped.append((own >= 0.5) != expected.masks[label])
            score = max(score, abs(float(found[SCORES][0, place]) - expected.scores[label]))
    every = np.stack(apart)
    difference = SegmenterDifference(
        kind, float(every.max()), float((every > TOLERANCE).mean()), float(np.mean(flipped)), score
    )
    if not (np.isfinite(every).all() and max(difference.beyond, difference.flipped) <= FLIPPED and score <= TOLERANCE):
        raise InvalidOption(
            f"the {kind} export of the segmenter differs from it: probabilities by up to {difference.probability:.1e}, "
            f"{difference.flipped:.2%} of the masks' pixels, scores by up to {score:.1e} (allowed: {TOLERANCE:g} for "
            f"all but {FLIPPED:.1%}); nothing was written"
        )
    return difference
