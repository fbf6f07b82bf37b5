"""A training run from its first step, or the one it goes on from, to its last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fewseg.core.distributed import Processes
from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback
from fewseg.data.episodes.views import VIEWS
from fewseg.models.checkpoints.native import BEST, load_method, save_method
from fewseg.models.methods import FewShotMethod
from fewseg.training.average import WeightAverage
from fewseg.training.batches import Batch, part_size, share_of_items
from fewseg.training.calibration.episodes import calibrate_method
from fewseg.training.calibration.presence import calibrate_presence
from fewseg.training.config import TrainConfig
from fewseg.training.data import TrainingData, training_batches, training_episodes
from fewseg.training.feature_cache import MapCache, map_batches
from fewseg.training.log import MetricsLog
from fewseg.training.optim import Optimisers, learning_rate
from fewseg.training.state import Progress, save_state
from fewseg.training.step import Gradient
from fewseg.training.validate import validate

LOG = logging.getLogger(__name__)


LAST = "last.safetensors"


@dataclass
class Run:
    """A run of `loop.fit`: its steps, validations and checkpoints."""

    method: FewShotMethod
    data: TrainingData
    config: TrainConfig
    out: Path
    optimiser: Optimisers
    average: WeightAverage | None
    done: Progress
    processes: Processes
    log: MetricsLog | None
    """Of the process that writes."""
    progress: ProgressCallback | None

    def run(self) -> float:
        """All steps that are left; returns the last logged loss."""
        config, last = self.config, math.nan
        if self._over:
            self._calibrate_if_missing()
            return last
        gradient = Gradient(self.method, config, self.processes)
        started, logged = time.perf_counter(), self.done.step
        for parts in self._steps():
            loss = self._step(gradient, parts)
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
        epochs, best = done.step // config.steps_per_epoch, done.best_step // config.steps_per_epoch
        return epochs // config.validate_every - best // config.validate_every >= config.patience

    def _note(self, **values: Any) -> None:
        """A line about the step that was done last."""
        if self.log is not None:
            self.log.add(self.done.step, epoch=(self.done.step - 1) // self.config.steps_per_epoch, **values)

    def _steps(self) -> Iterator[list[Batch]]:
        """Of every step that is left, the parts that this process computes."""
        batches = self._batches()
        return iter(lambda: list(islice(batches, self.config.accumulate)), [])

    def _batches(self) -> Iterator[Batch]:
        """These parts one after the other, as images or, where maps are kept, as maps."""
        config, sources, size = self.config, self.data.sources, self.method.config.image_size
        processes, start, pin = self.processes, self.done.step, self.method.device.type == "cuda"
        if not config.cache_views:
            return iter(training_batches(sources, config, size, start=start, pin=pin, processes=processes))

        def tell(done: int, total: int, _: str) -> None:
            if self.progress is not None:
                self.progress(start, config.steps, f"keeping maps: {done} of {total} images")

        cache = MapCache(
            self.method.backbone,
            sources,
            size=size,
            count=config.cache_views,
            views=VIEWS[config.augment],
            seed=config.seed,
            amp=config.amp,
            folder=config.cache_folder,
            processes=processes,
            progress=tell,
        )
        items = share_of_items(config, processes, start)
        return iter(map_batches(training_episodes(sources, config, size), cache, items, part_size(config, processes)))

    def _step(self, gradient: Gradient, parts: list[Batch]) -> float:
        """One update; returns the loss. A loss or gradient that is not finite changes nothing."""
        step = self.done.step
        self.optimiser.set_learning_rate(learning_rate(self.config, step))
        loss, norm = gradient(parts, step)
        self._check("loss", loss, step + 1)
        self._check("gradient", norm, step + 1)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(step + 1)
        return loss

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
            self._validate()
        if end:
            self._save(LAST)
        if self._over:
            self._calibrate()
        if self.processes.main and (end or step % config.checkpoint_every == 0):
            average = self.average.method if self.average is not None else None
            save_state(self.out, self.method, self.optimiser, self.done, config.to_json(), average)

    @property
    def _smooth(self) -> FewShotMethod:
        """What is validated and saved."""
        return self.method if self.average is None else self.average.method

    def _save(self, name: str) -> None:
        if self.processes.main:
            about = about_training(self.config, self.data, self.done)
            save_method(self._smooth, self.out / name, extra={**self.method.extra, "trained": about})

    @property
    def _to_use(self) -> Path:
        """The checkpoint that the run is for."""
        return self.out / (BEST if self.done.best_step else LAST)

    def _calibrate_if_missing(self) -> None:
        """For a run that was interrupted, and asked for less when it was resumed: its end never came."""
        if self.data.validation and "presence_threshold" not in load_method(self._to_use).extra:
            self._calibrate()

    def _calibrate(self) -> None:
        """Calibrate the checkpoint to use, once training ends: the method's own fits and the presence scale."""
        if not self.data.validation:
            return
        self.processes.barrier()  # until the checkpoint is written
        path = self._to_use
        method = load_method(path).to(self.method.device)
        config, sets, processes = self.config, self.data.validation, self.processes
        calibrate_method(method, sets, seed=config.seed, negative_episodes=config.absent > 0)
        processes.broadcast([*method.buffers()])  # rounding may lead each to a fit of its own
        values = calibrate_presence(method, sets, seed=config.seed, amp=config.amp, processes=processes)
        if processes.main:
            LOG.info("presence: %s", values)
            save_method(method, path, extra={**method.extra, **values})

    def _check_weights(self) -> None:
        """A finite gradient may still be too large a step: what it left must not replace a good checkpoint."""
        worst = torch.stack([p.detach().abs().amax() for p in self.method.trainable_parameters()]).amax().item()
        self._check("largest weight", worst, self.done.step)

    def _validate(self) -> None:
        config, size, batch = self.config, self.method.config.image_size, part_size(self.config, self.processes)
        miou, fb_iou, parts = validate(
            self._smooth, self.data.validation, size=size, batch=batch, amp=config.amp, processes=self.processes
        )
        values = {f"val_miou/{name}": value for name, value in parts.items()} if len(parts) > 1 else {}
        self._note(val_miou=miou, val_fb_iou=fb_iou, **values)
        LOG.info("step %d: validation mIoU %.2f, FB-IoU %.2f", self.done.step, miou, fb_iou)
        if miou > self.done.best_miou:
            self.done.best_miou, self.done.best_step = miou, self.done.step
            self._save(BEST)


def about_training(config: TrainConfig, data: TrainingData, done: Progress) -> dict[str, Any]:
    """What goes beside the weights: how they were trained, without the paths of this machine."""
    values = config.to_json()
    for key in ("data", "backbone_weights", "init_from", "device", "cache_folder"):
        values.pop(key)
    return {
        "datasets": {s.dataset.name: [s.dataset.classes[c] for c in s.classes] for s in data.sources},
        "step": done.step,
        "val_miou": done.best_miou if done.best_step == done.step else None,
        "validated_on": "the test classes" if config.validate_on == "novel" else "base classes kept from training",
        "config": values,
    }
