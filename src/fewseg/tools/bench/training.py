"""A step of training: the straightforward loop beside ours, and what keeping a frozen backbone's maps costs and saves.

The straightforward loop encodes every query and every support image of every episode, materialises the scores, and
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
from fewseg.core.types import IGNORE
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.tensors import TrainingSource
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.tools.bench.cases import build, find_model
from fewseg.tools.bench.machine import synchronise
from fewseg.tools.bench.memory import peak_mebibytes, together
from fewseg.tools.bench.options import Clock
from fewseg.tools.bench.peak import Pieces, way_of_measuring
from fewseg.tools.bench.queries import Row
from fewseg.tools.bench.reference import PlainDCAMA, plain_maps
from fewseg.tools.bench.reference_others import plain_hsnet, plain_sccan
from fewseg.tools.bench.settings import BenchSettings
from fewseg.tools.bench.timing import CLOCKS, interleaved, summary
from fewseg.training.batches import Batch, EpisodeImages
from fewseg.training.config import TrainConfig
from fewseg.training.data import training_batches, training_episodes
from fewseg.training.feature_cache import FeatureCache, cached_batches
from fewseg.training.optim import make_optimiser
from fewseg.training.step import Gradient

TRAINING_WAYS: Final = ("reference", "ours", "ours, maps kept")
"""The last computes the backbone's maps of every image once."""

EPISODES: Final = 2000
"""Of an epoch, as in `TrainConfig`."""

CLASSES: Final = 4
"""Classes that are trained on."""

PICTURES: Final = 5
"""Images of each: enough that episodes differ."""

Step = Callable[[], Tensor]
"""Does one update, returns the loss."""


def training_rows(settings: BenchSettings, name: str, batch: int, shots: int = 1) -> list[Row]:
    """Seconds and memory of a step of so many episodes, by way, in float32."""
    device, method = settings.torch_device, build(find_model(name), settings.size)
    made = {way: make_step(method, way, batch, shots, device, settings.clock) for way in TRAINING_WAYS}
    steps: dict[str, Callable[[], object]] = {way: step for way, (step, _) in made.items()}
    taken = interleaved(steps, repeats=settings.repeats, device=device, clock=settings.clock, least=0)
    base = summary(taken["reference"])["seconds"]
    peaks: dict[str, float | None] = {}
    if settings.memory:
        peaks = together({way: functools.partial(_memory, settings, name, way, batch, shots) for way in taken})
    rows = []
    for way, seconds in taken.items():
        each = summary(seconds)
        rows.append(
            {
                "model": name,
                "about": find_model(name).about,
                "size": method.config.image_size,
                "batch": batch,
                "shots": shots,
                "way": way,
                "precision": "float32",
                **each,
                "faster": base / each["seconds"],
                "epoch_seconds": each["seconds"] * EPISODES / batch,
                "keeping_seconds": made[way][1],
                "memory_mib": peaks.get(way),
                "memory_how": way_of_measuring(device) if settings.memory else None,
            }
        )
    return rows


def make_step(
    method: FewShotMethod, way: str, batch: int, shots: int, device: torch.device, clock: Clock = "wall"
) -> tuple[Step, float | None]:
    """A training step on the next batch, over and over; and the seconds that keeping one image's maps took."""
    if way not in TRAINING_WAYS:
        raise InvalidOption(f"way {way!r} of training: choose among {', '.join(TRAINING_WAYS)}")
    method = copy.deepcopy(method).to(device)
    config = _config(method, batch, shots, kept=way == TRAINING_WAYS[2])
    dataset = SyntheticDataset(per_class=PICTURES, size=method.config.image_size)
    source = TrainingSource(dataset, tuple(range(CLASSES)))
    if way == "reference":
        return _plain_step(method, _pictures(source, config, method), device), None
    optimiser, gradient = make_optimiser(method, config), Gradient(method, config, SINGLE_PROCESS)
    keeping = None
    if config.cached_views:
        batches, keeping = _maps(source, config, method, clock)
    else:
        batches = _pictures(source, config, method)
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


def _pictures(source: TrainingSource, config: TrainConfig, method: FewShotMethod) -> Iterator[Batch]:
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
    items = itertools.cycle(range(len(episodes)))
    return iter(cached_batches(episodes, cache, items, config.batch_size)), each


def _plain_step(method: FewShotMethod, batches: Iterator[Batch], device: torch.device) -> Step:
    """The loop that anybody would write first."""
    logits, weights = _plain_forward(method, device)
    optimiser = torch.optim.SGD(weights, lr=1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step() -> Tensor:
        batch = next(batches)
        assert isinstance(batch, EpisodeImages)
        pictures, n = batch.images, batch.masks.shape[1]
        query = pictures[list(batch.query)]
        images = pictures[list(batch.support)].unflatten(0, (-1, n))
        optimiser.zero_grad()
        loss = F.cross_entropy(logits(query, images, batch.masks), batch.query_mask, ignore_index=IGNORE)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _plain_forward(method: FewShotMethod, device: torch.device) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Logits the straightforward way, with dropout, and the weights that are trained."""
    if isinstance(method, MaskAggregation):
        dcama = PlainDCAMA(method, device)
        return dcama, dcama.trainable()
    plain: FewShotMethod = method
    if isinstance(method, (HSNet, SCCAN)):
        plain = plain_hsnet(method) if isinstance(method, HSNet) else plain_sccan(method)
    plain.to(device).train()

    def forward(query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        found, shown = plain_maps(plain.backbone, query), plain_maps(plain.backbone, images.flatten(0, 1))
        size = (query.shape[-2], query.shape[-1])
        return plain.segment(plain.query_from_maps(found, size), plain.support_from_maps(shown, masks))

    return forward, list(plain.trainable_parameters())


def _memory(settings: BenchSettings, name: str, way: str, batch: int, shots: int) -> float | None:
    arguments: dict[str, Any] = {"model": name, "size": settings.size, "way": way, "batch": batch, "shots": shots}
    found = peak_mebibytes("training:memory_pieces", settings.torch_device, threads=settings.threads, **arguments)
    return found.get("step")


def memory_pieces(device: torch.device, *, model: str, size: int | None, way: str, batch: int, shots: int) -> Pieces:
    """What `peak` measures: one step."""
    step, _ = make_step(build(find_model(model), size), way, batch, shots, device)
    yield "step", step
