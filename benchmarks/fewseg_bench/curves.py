"""Cost curves: time and memory against the number of shots, the input's size and the number of labels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewseg.core.devices import PRECISIONS
from fewseg.core.memory import fits, peak_source
from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import FewShotMethod
from fewseg_bench.models import bench_model, build
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.peak_memory import Pieces, peak_mebibytes, together
from fewseg_bench.queries import Contender, memory_pieces, score_bytes
from fewseg_bench.results import Row
from fewseg_bench.settings import BenchSettings
from fewseg_bench.timing import interleaved, summary
from fewseg_bench.variants import VARIANTS, prepare_variant

CURVES: Final[dict[str, tuple[int, ...]]] = {
    "shots": (1, 2, 5, 10, 20, 50),
    "size": (192, 256, 320, 384, 512, 640, 768),
    "labels": (1, 2, 4, 8, 16),
}
"""Every curve with the places at which it is measured."""

QUICK_CURVES: Final[dict[str, tuple[int, ...]]] = {"shots": (1, 5), "size": (64, 128), "labels": (1, 3)}
"""The same, in a moment."""

LABEL_VARIANTS: Final = (BASELINE, "ours, each label on images of its own", "ours, all labels on the same image")
"""How the labels were taught."""

__all__ = ["CURVES", "LABEL_VARIANTS", "QUICK_CURVES", "curve_rows", "label_pieces", "memory_pieces"]


def curve_rows(settings: BenchSettings, name: str, curve: str, place: int) -> list[Row]:
    """Every variant at one place of a curve: seconds of a query with the support cached, MiB it adds, MiB kept."""
    if curve == "labels":
        return _label_rows(settings, name, place)
    size, shots = (place, 1) if curve == "size" else (settings.size, place)
    method, device = build(bench_model(name), size), settings.torch_device
    works: dict[Contender, Callable[[], Tensor]] = {}
    support: dict[Contender, int] = {}
    for precision, dtype in settings.dtypes.items():
        for variant in VARIANTS:
            if variant == OPTIMISED or fits(1.5 * score_bytes(method, shots, dtype), device):
                prepared = prepare_variant(method, variant, shots, device, dtype)
                works[variant, precision], support[variant, precision] = prepared.work["query"], prepared.support_bytes
    size_of = {"model": name, "size": size, "shots": shots, "levels": ["query"]}
    peaks = _peaks("curves:memory_pieces", works, settings, size_of)
    rows = []
    for case, values in _seconds(works, settings).items():
        rows.append(_row(settings, name, curve, place, case, values, peaks.get(case), support[case] / 2**20))
    return rows


def _row(
    settings: BenchSettings,
    name: str,
    curve: str,
    place: int,
    case: Contender,
    seconds: list[float],
    memory: float | None,
    kept: float | None,
) -> Row:
    about = {"model": name, "about": bench_model(name).about, "curve": curve, "place": place}
    about |= {"way": case[0], "precision": case[1]}
    how = peak_source(settings.torch_device) if settings.memory else None
    return {**about, **summary(seconds), "memory_mib": memory, "memory_how": how, "support_mib": kept}


def _peaks(
    task: str, works: Iterable[Contender], settings: BenchSettings, arguments: dict[str, Any]
) -> dict[Contender, float | None]:
    """MiB of a query, each variant in a process of its own; nothing where memory is not wanted."""

    def measure(case: Contender) -> float | None:
        variant, precision = case
        how = {**arguments, "variant": variant, "precision": precision}
        return peak_mebibytes(task, settings.torch_device, threads=settings.threads, **how).get("query")

    return together({case: functools.partial(measure, case) for case in works}) if settings.memory else {}


def _seconds(works: dict[Contender, Callable[[], Tensor]], settings: BenchSettings) -> dict[Contender, list[float]]:
    contenders = {"/".join(case): work for case, work in works.items()}
    with torch.inference_mode():
        taken = interleaved(contenders, repeats=settings.repeats, device=settings.torch_device, clock=settings.clock)
    return {case: taken["/".join(case)] for case in works}


def _label_rows(settings: BenchSettings, name: str, labels: int) -> list[Row]:
    """An image with so many labels, one shot each."""
    method, device = build(bench_model(name), settings.size), settings.torch_device
    works = {}
    for precision in settings.precisions:
        for variant in LABEL_VARIANTS:
            works[variant, precision] = _label_work(method, variant, labels, device, precision)
    peaks = _peaks("curves:label_pieces", works, settings, {"model": name, "size": settings.size, "labels": labels})
    taken = _seconds(works, settings)
    return [_row(settings, name, "labels", labels, c, values, peaks.get(c), None) for c, values in taken.items()]


def label_pieces(
    device: torch.device, *, model: str, size: int | None, labels: int, variant: str, precision: str
) -> Pieces:
    """What `peak` measures: an image with so many labels."""
    work = _label_work(build(bench_model(model), size), variant, labels, device, precision)

    def quietly() -> Tensor:
        with torch.inference_mode():
            return work()

    yield "query", quietly


def _label_work(
    method: FewShotMethod, variant: str, labels: int, device: torch.device, precision: str
) -> Callable[[], Tensor]:
    size = method.config.image_size
    if variant == LABEL_VARIANTS[0]:
        with torch.inference_mode():
            once = prepare_variant(method, BASELINE, 1, device, PRECISIONS[precision]).work["query"]
        return lambda: torch.stack([once() for _ in range(labels)])
    segmenter = Segmenter(copy.deepcopy(method), device=device, precision=precision)
    same = variant == LABEL_VARIANTS[2]
    for number in range(labels):
        segmenter.teach(f"label {number}", _image(size, 0 if same else number), _mask(size, number))
    prepared = segmenter.preprocess(_image(size, labels))
    return lambda: torch.stack(list(segmenter.predict(segmenter.encode([prepared]))))


def _image(size: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _mask(size: int, number: int) -> Image.Image:
    mask = np.zeros((size, size), np.uint8)
    left = (number * size // 7) % (size // 2)
    mask[size // 4 : 3 * size // 4, left : left + size // 2] = 255
    return Image.fromarray(mask)
