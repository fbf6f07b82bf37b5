"""A training run from its first step, or the one it goes on from, to its last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from fewseg.core.distributed import Processes
from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback
from fewseg.data.episodes.views import VIEWS
from fewseg.models.checkpoints.native import BEST, save_method
from fewseg.models.methods import FewShotMethod
from fewseg.training.batches import Batch, micro_batch_size, shard_items, step_items
from fewseg.training.calibration.checkpoint import calibrate_checkpoint, is_calibrated
from fewseg.training.config import TrainConfig
from fewseg.training.data import TrainingData, training_batches, training_episodes
from fewseg.training.ema import WeightEMA
from fewseg.training.feature_cache import FeatureCache, cached_batches
from fewseg.training.log import MetricsLog
from fewseg.training.optim import Optimisers, learning_rate
from fewseg.training.state import Progress, save_state
from fewseg.training.step import Gradient
from fewseg.training.validate import validate

log = logging.getLogger(__name__)


LAST = "last.safetensors"

_VALIDATED_ON: Final = {
    "base": "base classes kept from training",
    "novel": "the test classes",
    "test": "the test classes (FSS-1000: the validation classes), by the method's test protocol",
}


@dataclass
class Run:
    """The steps, validations and checkpoints of a run."""

    method: FewShotMethod
    data: TrainingData
    config: TrainConfig
    out: Path
    optimiser: Optimisers
    ema: WeightEMA | None
    done: Progress
    processes: Processes
    metrics: MetricsLog | None
    """Of the main process."""
    progress: ProgressCallback | None

    def run(self) -> float:
        """All steps that are left; returns the last logged loss."""
        config, last = self.config, math.nan
        if self._over:
            # A run that was interrupted, and asked for less when it was resumed, was never calibrated.
            if self.data.validation and not is_calibrated(self._to_use):
                self._calibrate()
            return last
        gradient = Gradient(self.method, config, self.processes)
        started, logged = time.perf_counter(), self.done.step
        for micro_batches in self._steps():
            loss = self._step(gradient, micro_batches)
            self.done.step += 1
            step, total = self.done.step, config.steps
            if step % config.log_every == 0 or step == total:
                last = loss
                now = time.perf_counter()
                seconds = (now - started) / (step - logged)
                started, logged = now, step
                self._note(loss=last, lr=learning_rate(config, step - 1), seconds_per_step=round(seconds, 4))
            self._finish_step()
            if self.progress is not None:
                best = f", best mIoU {self.done.best_miou:.1f}" if self.done.best_step else ""
                self.progress(step, total, f"loss {last:.4f}{best}")
            if self._over:
                break
        return last

    @property
    def _over(self) -> bool:
        """Whether nothing is left to do: the last step is done, or validation has not improved for long enough."""
        config, done = self.config, self.done
        if done.step >= config.steps:
            return True
        if not (config.patience and self.data.validation and done.best_step) or done.step % config.steps_per_epoch:
            return False
        return self._validations(done.step) - self._validations(done.best_step) >= config.patience

    def _validations(self, step: int) -> int:
        """How many validations are due up to a step, one every `validate_every` epochs."""
        return int(step / (self.config.validate_every * self.config.steps_per_epoch))

    def _note(self, **values: Any) -> None:
        """Log values of the last step."""
        if self.metrics is not None:
            self.metrics.add(self.done.step, epoch=(self.done.step - 1) // self.config.steps_per_epoch, **values)

    def _steps(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process, for every step that is left."""
        batches = self._batches()
        for step in range(self.done.step, self.config.steps):
            yield list(islice(batches, len(step_items(self.config, self.processes, step))))

    def _batches(self) -> Iterator[Batch]:
        """The micro-batches one after the other, as images or, with cached views, as maps."""
        config, sources, size = self.config, self.data.sources, self.method.config.image_size
        processes, start, pin = self.processes, self.done.step, self.method.device.type == "cuda"
        if not config.cached_views:
            return iter(training_batches(sources, config, size, start=start, pin=pin, processes=processes))

        def tell(done: int, total: int, _: str) -> None:
            if self.progress is not None:
                self.progress(start, config.steps, f"caching features: {done} of {total} images")

        cache = FeatureCache(
            self.method.backbone,
            sources,
            size=size,
            count=config.cached_views,
            views=VIEWS[config.augment],
            seed=config.seed,
            amp=config.amp,
            folder=config.cache_folder,
            processes=processes,
            progress=tell,
        )
        items = shard_items(config, processes, start)
        return iter(cached_batches(training_episodes(sources, config, size), cache, items))

    def _step(self, gradient: Gradient, micro_batches: list[Batch]) -> float:
        """One update; returns the loss. A loss or gradient that is not finite changes nothing."""
        step = self.done.step
        self.optimiser.set_learning_rate(learning_rate(self.config, step))
        loss, norm = gradient(micro_batches, step)
        self._check("loss", loss, step + 1)
        self._check("gradient", norm, step + 1)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(step + 1)
        return loss

    def _check(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            last = self.out / LAST
            begin = f", with --init-from {last} to keep what was learnt" if last.is_file() else ""
            raise InvalidOption(
                f"the {what} became {value} at step {step}: "
                f"lower lr or set clip_grad, in a new folder{begin}; {self.out} keeps the checkpoints from before"
            )

    def _finish_step(self) -> None:
        """Validation at the end of epochs, checkpoints there and every so many steps."""
        config, step = self.config, self.done.step
        if step % config.checkpoint_every == 0 or step % config.steps_per_epoch == 0:
            self._check_weights()
        end = step % config.steps_per_epoch == 0
        due = self._validations(step) > self._validations(step - 1) or step == config.steps
        if due and self.data.validation:
            self._validate()
        if end:
            self._save(LAST)
        if self._over:
            self._calibrate()
        if self.processes.main and (end or step % config.checkpoint_every == 0):
            ema = self.ema.method if self.ema is not None else None
            save_state(self.out, self.method, self.optimiser, self.done, config.to_json(), ema)

    @property
    def _smooth(self) -> FewShotMethod:
        """The method that is validated and saved."""
        return self.method if self.ema is None else self.ema.method

    def _save(self, name: str) -> None:
        if self.processes.main:
            about = about_training(self.config, self.data, self.done)
            save_method(self._smooth, self.out / name, extra={**self.method.extra, "trained": about})

    @property
    def _to_use(self) -> Path:
        """The checkpoint to use."""
        return self.out / (BEST if self.done.best_step else LAST)

    def _calibrate(self) -> None:
        if self.data.validation:
            calibrate_checkpoint(self._to_use, self.data, self.config, self.method.device, self.processes)

    def _check_weights(self) -> None:
        """Raise `InvalidOption` for infinite weights, before they replace a good checkpoint.

        A finite gradient may still be too large a step.
        """
        worst = torch.stack([p.detach().abs().amax() for p in self.method.trainable_parameters()]).amax().item()
        self._check("largest weight", worst, self.done.step)

    def _validate(self) -> None:
        config, size, batch = self.config, self.method.config.image_size, micro_batch_size(self.config, self.processes)
        miou, fb_iou, parts = validate(
            self._smooth,
            self.data.validation,
            size=size,
            batch=batch,
            amp=config.amp,
            workers=config.workers,
            processes=self.processes,
        )
        values = {f"val_miou/{name}": value for name, value in parts.items()} if len(parts) > 1 else {}
        self._note(val_miou=miou, val_fb_iou=fb_iou, **values)
        log.info("step %d: validation mIoU %.2f, FB-IoU %.2f", self.done.step, miou, fb_iou)
        if miou > self.done.best_miou:
            self.done.best_miou, self.done.best_step = miou, self.done.step
            self._save(BEST)


def about_training(config: TrainConfig, data: TrainingData, done: Progress) -> dict[str, Any]:
    """How the weights were trained, saved beside them, without the paths of this machine."""
    values = config.to_json()
    for key in ("data", "backbone_weights", "init_from", "device", "cache_folder"):
        values.pop(key)
    return {
        "datasets": {s.dataset.name: [s.dataset.classes[c] for c in s.classes] for s in data.sources},
        "step": done.step,
        "val_miou": done.best_miou if done.best_step == done.step else None,
        "validated_on": _VALIDATED_ON[config.validate_on],
        "config": values,
    }
