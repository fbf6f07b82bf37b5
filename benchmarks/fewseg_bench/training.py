"""A step of training: the baseline loop beside fewseg's, and what keeping a frozen backbone's maps costs and saves.

The baseline loop encodes every query and every support image of every episode, materialises the scores, and
lets autograd keep what it likes. Images are read before: reading them is in no time here.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.distributed import SINGLE_PROCESS
from fewseg.core.errors import InvalidOption
from fewseg.core.memory import peak_source
from fewseg.core.types import IGNORE
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.tensors import TrainingSource
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.tools.bench_options import Clock
from fewseg.training.batches import Batch, EpisodeImages
from fewseg.training.config import TrainConfig
from fewseg.training.data import training_batches, training_episodes
from fewseg.training.feature_cache import FeatureCache, cached_batches
from fewseg.training.optim import make_optimiser
from fewseg.training.step import Gradient
from fewseg_bench.baseline import baseline_maps
from fewseg_bench.baseline_light import baseline_dcama
from fewseg_bench.baseline_others import baseline_hsnet, baseline_sccan
from fewseg_bench.machine import synchronise
from fewseg_bench.models import bench_model, build
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.peak_memory import Pieces, peak_mebibytes, together
from fewseg_bench.results import Row
from fewseg_bench.settings import BenchSettings
from fewseg_bench.timing import CLOCKS, interleaved, summary

TRAINING_VARIANTS: Final = (BASELINE, OPTIMISED, "ours, maps kept")
"""The last computes the backbone's maps of every image once."""

EPISODES: Final = 2000
"""Of an epoch, as in `TrainConfig`."""

CLASSES: Final = 4
"""Classes that are trained on."""

IMAGES: Final = 5
"""Images of each: enough that episodes differ."""

Step = Callable[[], Tensor]
"""Does one update, returns the loss."""


def training_rows(settings: BenchSettings, name: str, batch: int, shots: int = 1) -> list[Row]:
    """Seconds and memory of a step of so many episodes, by variant, in float32."""
    device, method = settings.torch_device, build(bench_model(name), settings.size)
    made = {variant: make_step(method, variant, batch, shots, device, settings.clock) for variant in TRAINING_VARIANTS}
    steps: dict[str, Callable[[], object]] = {variant: step for variant, (step, _) in made.items()}
    taken = interleaved(steps, repeats=settings.repeats, device=device, clock=settings.clock, least=0)
    base = summary(taken[BASELINE])["seconds"]
    peaks: dict[str, float | None] = {}
    if settings.memory:
        peaks = together(
            {variant: functools.partial(_memory, settings, name, variant, batch, shots) for variant in taken}
        )
    rows = []
    for variant, seconds in taken.items():
        each = summary(seconds)
        rows.append(
            {
                "model": name,
                "about": bench_model(name).about,
                "size": method.config.image_size,
                "batch": batch,
                "shots": shots,
                "way": variant,
                "precision": "float32",
                **each,
                "faster": base / each["seconds"],
                "epoch_seconds": each["seconds"] * EPISODES / batch,
                "keeping_seconds": made[variant][1],
                "memory_mib": peaks.get(variant),
                "memory_how": peak_source(device) if settings.memory else None,
            }
        )
    return rows


def make_step(
    method: FewShotMethod, variant: str, batch: int, shots: int, device: torch.device, clock: Clock = "wall"
) -> tuple[Step, float | None]:
    """A training step on the next batch, over and over; and the seconds that keeping one image's maps took."""
    if variant not in TRAINING_VARIANTS:
        raise InvalidOption(f"variant {variant!r} of training: choose among {', '.join(TRAINING_VARIANTS)}")
    method = copy.deepcopy(method).to(device)
    config = _config(method, batch, shots, kept=variant == TRAINING_VARIANTS[2])
    dataset = SyntheticDataset(per_class=IMAGES, size=method.config.image_size)
    source = TrainingSource(dataset, tuple(range(CLASSES)))
    if variant == BASELINE:
        return _baseline_step(method, _image_batches(source, config, method), device), None
    optimiser, gradient = make_optimiser(method, config), Gradient(method, config, SINGLE_PROCESS)
    keeping = None
    if config.cached_views:
        batches, keeping = _maps(source, config, method, clock)
    else:
        batches = _image_batches(source, config, method)
    number = itertools.count()

    def step() -> Tensor:
        loss, _ = gradient([next(batches)], next(number))
        optimiser.step()
        return torch.tensor(loss)

    return step, keeping


def _config(method: FewShotMethod, batch: int, shots: int, *, kept: bool) -> TrainConfig:
    return TrainConfig(
        data=("synthetic",),
        method=method.name,
        random_backbone=True,
        image_size=method.config.image_size,
        shots=(shots,),
        batch_size=batch,
        episodes_per_epoch=4 * batch,
        epochs=1,
        cached_views=int(kept),
        workers=0,
        validation_episodes=0,
    )


def _image_batches(source: TrainingSource, config: TrainConfig, method: FewShotMethod) -> Iterator[Batch]:
    """The same few batches again and again, read once."""
    size = method.config.image_size
    read = list(training_batches([source], config, size, start=0, pin=False))
    return itertools.cycle([batch.to(method.device) for batch in read])


def _maps(
    source: TrainingSource, config: TrainConfig, method: FewShotMethod, clock: Clock
) -> tuple[Iterator[Batch], float]:
    """Batches of maps, and the seconds that keeping took for each image."""
    size, now = method.config.image_size, CLOCKS[clock]
    images = sum(len(source.dataset.names(c)) for c in source.classes)
    started = now()
    cache = FeatureCache(method.backbone, [source], size=size, count=1, views=None, seed=0)
    synchronise(method.device)
    each = (now() - started) / images
    episodes = training_episodes([source], config, size)
    items = itertools.cycle([range(i, i + config.batch_size) for i in range(0, len(episodes), config.batch_size)])
    return iter(cached_batches(episodes, cache, items)), each


def _baseline_step(method: FewShotMethod, batches: Iterator[Batch], device: torch.device) -> Step:
    """The training loop as written without any of fewseg's optimisations."""
    logits, weights = _baseline_forward(method, device)
    optimiser = torch.optim.SGD(weights, lr=1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step() -> Tensor:
        batch = next(batches)
        assert isinstance(batch, EpisodeImages)
        pool, n = batch.images, batch.masks.shape[1]
        query = pool[list(batch.query)]
        images = pool[list(batch.support)].unflatten(0, (-1, n))
        optimiser.zero_grad()
        loss = F.cross_entropy(logits(query, images, batch.masks), batch.query_mask, ignore_index=IGNORE)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _baseline_forward(method: FewShotMethod, device: torch.device) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Logits of the baseline implementation, with dropout, and the weights that are trained."""
    if isinstance(method, MaskAggregation):
        dcama = baseline_dcama(method, device)
        return dcama, dcama.trainable()
    baseline: FewShotMethod = method
    if isinstance(method, (HSNet, SCCAN)):
        baseline = baseline_hsnet(method) if isinstance(method, HSNet) else baseline_sccan(method)
    baseline.to(device).train()

    def forward(query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        found, shown = baseline_maps(baseline.backbone, query), baseline_maps(baseline.backbone, images.flatten(0, 1))
        size = (query.shape[-2], query.shape[-1])
        return baseline.segment(baseline.query_from_maps(found, size), baseline.support_from_maps(shown, masks))

    return forward, list(baseline.trainable_parameters())


def _memory(settings: BenchSettings, name: str, variant: str, batch: int, shots: int) -> float | None:
    arguments: dict[str, Any] = {
        "model": name,
        "size": settings.size,
        "variant": variant,
        "batch": batch,
        "shots": shots,
    }
    found = peak_mebibytes("training:memory_pieces", settings.torch_device, threads=settings.threads, **arguments)
    return found.get("step")


def memory_pieces(
    device: torch.device, *, model: str, size: int | None, variant: str, batch: int, shots: int
) -> Pieces:
    """What `peak` measures: one step."""
    step, _ = make_step(build(bench_model(model), size), variant, batch, shots, device)
    yield "step", step
