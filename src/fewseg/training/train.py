"""A training from its config to the calibrated checkpoint: killed at any moment, it goes on with the same losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewseg.core.devices import choose_device
from fewseg.core.distributed import Processes, join_processes
from fewseg.core.files import write_text
from fewseg.core.locks import FolderLock
from fewseg.core.progress import ProgressCallback
from fewseg.models.checkpoints.native import BEST, load_method
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.methods.options import method_options
from fewseg.training.batches import micro_batch_size
from fewseg.training.calibration.episodes import class_examples
from fewseg.training.config import TrainConfig
from fewseg.training.config_file import CONFIG, as_yaml
from fewseg.training.data import TrainingData, open_data, with_epoch
from fewseg.training.ema import WeightEMA
from fewseg.training.log import MetricsLog
from fewseg.training.loop import LAST, Run
from fewseg.training.optim import make_optimiser
from fewseg.training.state import Progress, read_state, restore


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
    usual rounding noise. Started by `torchrun`, the processes divide every batch among them; `out` has to be the same
    folder for all, and the first of them writes there.

    Raises:
        InvalidOption, InvalidDataset, InvalidCheckpoint: the config cannot work, or `out` holds another run.
        OutputError: `out` cannot be written; what was written before stays.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with join_processes(config.device) as processes:
        micro_batch_size(config, processes)
        state = read_state(out)
        data = open_data(config)
        config = with_epoch(config, data)
        if state is not None:
            config.check_resumes(state["config"], str(out))
        with _seeded(config.seed):
            method = make_method(config)
        return fit(method, data, config, out, state=state, processes=processes, progress=progress)


def make_method(config: TrainConfig) -> FewShotMethod:
    """The method that a run starts from."""
    if config.init_from:
        method = load_method(config.init_from)
        method.reset_calibration()
        method.extra = {key: value for key, value in method.extra.items() if not key.startswith("presence_")}
        return method
    return create_method(
        config.method,
        backbone=config.backbone,
        pretrained=config.pretrained,
        backbone_weights=config.backbone_weights,
        image_size=config.image_size,
        **method_options(config.method, config.model_kwargs),
    )


def fit(
    method: FewShotMethod,
    data: TrainingData,
    config: TrainConfig,
    out: Path,
    *,
    state: dict[str, Any] | None = None,
    processes: Processes | None = None,
    progress: ProgressCallback | None = None,
) -> TrainReport:
    """`train` for a method and data that are made already.

    Args:
        method: trained in place.
        data: from `divide`.
        config: all choices.
        out: see `train`.
        state: from `read_state(out)`.
        processes: from `join_processes`; this process alone if not given.
        progress: called by the main process.
    """
    config = with_epoch(config, data)
    processes = processes or Processes(device=choose_device(config.device))
    with FolderLock(out) if processes.main else nullcontext():
        return _fit(method, data, config, out, state, processes, progress)


def _fit(
    method: FewShotMethod,
    data: TrainingData,
    config: TrainConfig,
    out: Path,
    state: dict[str, Any] | None,
    processes: Processes,
    progress: ProgressCallback | None,
) -> TrainReport:
    place(method.to(processes.device), config)
    optimiser = make_optimiser(method, config)
    if state is None and not config.init_from and processes.main:  # trained weights rely on what was fitted for them
        _prepare(method, data, config, progress)
    ema = WeightEMA(method, config.ema_decay) if config.ema_decay else None
    done = Progress()
    if state is not None:
        done = restore(state, method, optimiser, ema.method if ema else None)
    processes.broadcast([*method.parameters(), *method.buffers()])
    resumed_from = done.step
    with ExitStack() as stack:
        stack.enter_context(_seeded(config.seed))
        metrics = None
        if processes.main:
            write_text(out / CONFIG, as_yaml(config))
            metrics = stack.enter_context(MetricsLog(out, done.step, tensorboard=config.tensorboard))
        processes.barrier()
        report = progress if processes.main else None
        loss = Run(method, data, config, out, optimiser, ema, done, processes, metrics, report).run()
    method.eval()
    best = out / (BEST if done.best_step else LAST)
    return TrainReport(done.step, resumed_from, loss, done.best_miou, done.best_step, best)


def place(method: FewShotMethod, config: TrainConfig) -> None:
    """Memory layout and frozen parts as a config trains with them."""
    if config.amp:
        method.to(memory_format=torch.channels_last)
    if config.train_backbone:
        method.backbone.freeze(False)


def _prepare(method: FewShotMethod, data: TrainingData, config: TrainConfig, progress: ProgressCallback | None) -> None:
    def tell(done: int, count: int, _: str) -> None:
        if progress is not None:
            progress(0, config.steps, f"preparing: {done} of {count} images")

    size = method.config.image_size
    method.prepare_training(class_examples(data.sources, size=size, seed=config.seed, progress=tell))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator, which dropout and initialisation draw from, seeded here and given back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
