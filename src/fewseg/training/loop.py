"""The training loop of the DCAMA paper, on one machine: killed at any moment, it goes on with the same losses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewseg.checkpoints.native import load_method, save_method
from fewseg.devices import choose_device
from fewseg.episodes.tensors import EpisodeTensors
from fewseg.episodes.views import VIEWS
from fewseg.errors import InvalidOption
from fewseg.files import make_folder
from fewseg.method_options import method_options
from fewseg.methods import FewShotMethod, create_method
from fewseg.ops.resize import map_size
from fewseg.training.average import WeightAverage
from fewseg.training.config import TrainConfig
from fewseg.training.data import TrainingData, open_data, training_batches, training_episodes
from fewseg.training.log import MetricsLog
from fewseg.training.losses import choose_loss
from fewseg.training.maps import EpisodeMaps, MapCache, map_batches
from fewseg.training.optim import Optimisers, learning_rate, make_optimiser
from fewseg.training.presence import calibrate_presence
from fewseg.training.state import Progress, read_state, restore, save_state
from fewseg.training.validate import validate
from fewseg.types import QueryFeatures, SupportSet

LOG = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and the last numbers in words."""

BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass(frozen=True)
class TrainReport:
    """How a run ended."""

    steps: int
    resumed_from: int
    """Step that this call went on from; 0 for a new run."""
    loss: float
    """Of the last logged step; NaN where this call had nothing left to do."""
    best_miou: float
    """Best validation mIoU, per cent; -1 without validation."""
    best_step: int
    best: Path
    """The checkpoint to use: the best by validation, or without validation the last."""


def train(config: TrainConfig, out: Path, *, progress: ProgressCallback | None = None) -> TrainReport:
    """Train what the config describes; `out` gets the checkpoints, `metrics.jsonl` and TensorBoard events.

    Called again with the same config and folder it goes on where it was, or returns at once when it was finished. On
    the CPU the losses are those of an uninterrupted run, bit for bit with the same number of threads; GPUs add their
    usual rounding noise.

    Raises:
        InvalidOption, InvalidDataset, InvalidCheckpoint: the config cannot work, or `out` holds another run.
        OutputError: `out` cannot be written; what was written before stays.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    state = read_state(out)
    if state is not None:
        config.check_resumes(state["config"], str(out))
    data = open_data(config)
    with _seeded(config.seed):
        method = make_method(config)
    return fit(method, data, config, out, state=state, progress=progress)


def make_method(config: TrainConfig) -> FewShotMethod:
    """The method that a run starts from."""
    if config.init_from:
        return load_method(config.init_from)
    return create_method(
        config.method,
        backbone=config.backbone,
        pretrained=config.pretrained,
        backbone_weights=config.backbone_weights,
        image_size=config.image_size,
        **method_options(config.method, config.options),
    )


def fit(
    method: FewShotMethod,
    data: TrainingData,
    config: TrainConfig,
    out: Path,
    *,
    state: dict[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> TrainReport:
    """`train` for a method and data that are made already; `state` is what `read_state(out)` gave."""
    method.to(choose_device(config.device))
    if config.amp:
        method.to(memory_format=torch.channels_last)
    if config.train_backbone:
        method.backbone.freeze(False)
    optimiser = make_optimiser(method, config)
    average = WeightAverage(method, config.average) if config.average else None
    done = Progress()
    if state is not None:
        done = restore(state, method, optimiser, average.method if average else None)
    resumed_from = done.step
    with _seeded(config.seed), MetricsLog(make_folder(out), done.step, tensorboard=config.tensorboard) as log:
        loss = _Run(method, data, config, out, optimiser, average, done, log, progress).run()
    method.eval()
    best = out / (BEST if done.best_step else LAST)
    return TrainReport(done.step, resumed_from, loss, done.best_miou, done.best_step, best)


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's dropout: with it, nothing of a generator's state has to be saved."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, which dropout and initialisation draw from, seeded here and given back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _encode(method: FewShotMethod, batch: EpisodeTensors | EpisodeMaps) -> tuple[QueryFeatures, SupportSet]:
    if isinstance(batch, EpisodeTensors):
        return method.encode_query(batch.query), method.encode_support(batch.images, batch.masks)
    # Channels last where the weights are: bfloat16 convolutions of a CPU, and a GPU's, are quickest so.
    layout = _layout(method)
    query, support = ([m.to(method.dtype, memory_format=layout) for m in maps] for maps in (batch.query, batch.support))
    return method.query_from_maps(query, map_size(batch.query_mask)), method.support_from_maps(support, batch.masks)


def _layout(method: FewShotMethod) -> torch.memory_format:
    last = any(p.ndim == 4 and not p.is_contiguous() for p in method.parameters())
    return torch.channels_last if last else torch.contiguous_format


@dataclass
class _Run:
    method: FewShotMethod
    data: TrainingData
    config: TrainConfig
    out: Path
    optimiser: Optimisers
    average: WeightAverage | None
    done: Progress
    log: MetricsLog
    progress: ProgressCallback | None

    def run(self) -> float:
        """All steps that are left; returns the last logged loss."""
        config, last = self.config, math.nan
        pin = self.method.device.type == "cuda"
        batches = self._batches(pin)
        started, logged = time.perf_counter(), self.done.step
        for batch in batches:
            loss = self._step(batch.to(self.method.device, non_blocking=pin))
            self.done.step += 1
            step, total = self.done.step, config.steps
            if step % config.log_every == 0 or step == total:
                last = loss
                now = time.perf_counter()
                seconds = (now - started) / (step - logged)
                started, logged = now, step
                rate = learning_rate(config, step - 1)
                epoch = (step - 1) // config.steps_per_epoch
                self.log.add(step, epoch=epoch, loss=last, lr=rate, seconds_per_step=round(seconds, 4))
            self._finish_step()
            if self.progress is not None:
                best = f", best mIoU {self.done.best_miou:.1f}" if self.done.best_step else ""
                self.progress(step, total, f"loss {last:.4f}{best}")
        return last

    def _batches(self, pin: bool) -> Iterator[EpisodeTensors | EpisodeMaps]:
        """The batches that are left, as pictures or, where maps are kept, as maps."""
        config, sources, size = self.config, self.data.sources, self.method.config.image_size
        if self.done.step >= config.steps:
            return iter(())
        if not config.cache_views:
            return training_batches(sources, config, size, start=self.done.step, pin=pin)

        def tell(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(self.done.step, config.steps, f"keeping maps: {done} of {total} pictures")

        cache = MapCache(
            self.method.backbone,
            sources,
            size=size,
            count=config.cache_views,
            views=VIEWS[config.augment],
            seed=config.seed,
            amp=config.amp,
            progress=tell,
        )
        episodes = training_episodes(sources, config, size)
        return map_batches(episodes, cache, start=self.done.step, batch=config.batch)

    def _step(self, batch: EpisodeTensors | EpisodeMaps) -> float:
        """One update; returns the loss. A loss or gradient that is not finite changes nothing."""
        config, method = self.config, self.method
        torch.manual_seed(step_seed(config.seed, self.done.step))
        method.train()
        self.optimiser.set_learning_rate(learning_rate(config, self.done.step))
        with torch.autocast(method.device.type, torch.bfloat16, enabled=config.amp):
            query, support = _encode(method, batch)
            logits = method.segment(query, support)
            extra = method.regulariser(query, support, logits)
        loss = choose_loss(config.loss)(logits, batch.query_mask)
        if extra is not None:
            loss = loss + extra
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(method.trainable_parameters()), config.clip or math.inf)
        value, size = torch.stack([loss.detach(), norm]).tolist()
        self._check("loss", value, self.done.step + 1)
        self._check("gradient", size, self.done.step + 1)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.done.step + 1)
        return float(value)

    def _check(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            last = self.out / LAST
            begin = f", with --init-from {last} to keep what was learnt" if last.is_file() else ""
            raise InvalidOption(
                f"the {what} became {value} at step {step}: "
                f"lower lr or set clip, in a new folder{begin}; {self.out} keeps the checkpoints from before"
            )

    def _finish_step(self) -> None:
        """Validation at the end of epochs, checkpoints there and every so many steps."""
        config, step = self.config, self.done.step
        if step % config.checkpoint_every == 0 or step % config.steps_per_epoch == 0:
            self._check_weights()
        epoch, within = divmod(step, config.steps_per_epoch)
        end = within == 0
        if end and self.data.validation and (epoch % config.validate_every == 0 or step == config.steps):
            self._validate(epoch - 1)
        if end:
            save_method(self._smooth, self.out / LAST, extra=self._about())
        if step == config.steps:
            self._calibrate()
        if end or step % config.checkpoint_every == 0:
            average = self.average.method if self.average is not None else None
            save_state(self.out, self.method, self.optimiser, self.done, config.to_json(), average)

    @property
    def _smooth(self) -> FewShotMethod:
        """What is validated and saved."""
        return self.method if self.average is None else self.average.method

    def _calibrate(self) -> None:
        """The presence threshold of the checkpoint to use goes into it, once training ends."""
        if not self.data.validation:
            return
        path = self.out / (BEST if self.done.best_step else LAST)
        method = load_method(path).to(self.method.device)
        size, config = method.config.image_size, self.config
        values = calibrate_presence(method, self.data.validation, size=size, seed=config.seed, amp=config.amp)
        LOG.info("presence: %s", values)
        save_method(method, path, extra={**method.extra, **values})

    def _check_weights(self) -> None:
        """A finite gradient may still be too large a step: what it left must not replace a good checkpoint."""
        worst = torch.stack([p.detach().abs().amax() for p in self.method.trainable_parameters()]).amax().item()
        self._check("largest weight", worst, self.done.step)

    def _validate(self, epoch: int) -> None:
        size = self.method.config.image_size
        miou, fb_iou, parts = validate(
            self._smooth, self.data.validation, size=size, batch=self.config.batch, amp=self.config.amp
        )
        values = {f"val_miou/{name}": value for name, value in parts.items()} if len(parts) > 1 else {}
        self.log.add(self.done.step, epoch=epoch, val_miou=miou, val_fb_iou=fb_iou, **values)
        LOG.info("step %d: validation mIoU %.2f, FB-IoU %.2f", self.done.step, miou, fb_iou)
        if miou > self.done.best_miou:
            self.done.best_miou, self.done.best_step = miou, self.done.step
            save_method(self._smooth, self.out / BEST, extra=self._about())

    def _about(self) -> dict[str, Any]:
        """What goes beside the weights: how they were trained, without the paths of this machine."""
        config = self.config.to_json()
        for key in ("data", "backbone_weights", "init_from", "device"):
            config.pop(key)
        trained = {
            "datasets": {
                source.dataset.name: [source.dataset.classes[c] for c in source.classes] for source in self.data.sources
            },
            "step": self.done.step,
            "val_miou": self.done.best_miou if self.done.best_step == self.done.step else None,
            "config": config,
        }
        return {**self.method.extra, "trained": trained}
