"""Rows of an experiment: scores and costs of a variant's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback, part_of
from fewseg.evaluation.metrics.iou import IoUMeter
from fewseg.evaluation.plan import Trial
from fewseg.evaluation.protocols import Protocol
from fewseg.evaluation.run import evaluate_trials
from fewseg.evaluation.scoring import read_batch
from fewseg.evaluation.summary import summarise
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import resize
from fewseg.tools.ablations.costs import multiply_adds, peak_megabytes, seconds
from fewseg.tools.ablations.experiments import Variant
from fewseg.tools.explain.intermediate import binarised, scale_masks

ResultRow = dict[str, Any]
"""`title`, and numbers by column."""


def score_rows(
    variant: Variant,
    method: FewShotMethod,
    trials: Sequence[Trial],
    protocol: Protocol,
    batch: int,
    progress: ProgressCallback,
) -> list[ResultRow]:
    """Mean IoU, FB-IoU, ROM and RUM over the trials; a row for each dataset and number of shots."""
    results = evaluate_trials(method, trials, protocol.settings(variant.fusion, batch), progress=progress)
    rows = []
    summaries = summarise(results)
    datasets, shots = {s.dataset for s in summaries}, {s.shots for s in summaries}
    for summary in summaries:
        of_dataset = [r for r in results if (r.benchmark or r.dataset) == summary.dataset]
        interval = [r.miou_interval for r in of_dataset if r.shots == summary.shots]
        words = [variant.title, *([summary.dataset] * (len(datasets) > 1))]
        rows.append(
            {
                "title": ", ".join(words + [f"{summary.shots}-shot"] * (len(shots) > 1)),
                "miou": summary.miou,
                "fb_iou": summary.fb_iou,
                "rom": summary.rom,
                "rum": summary.rum,
                "shots": summary.shots,
                # Over episodes; only where a single list was run, else the spread is that of folds and seeds.
                **({"miou_low": interval[0][0], "miou_high": interval[0][1]} if len(interval) == 1 else {}),
            }
        )
    return rows


def check_masks(protocol: Protocol) -> None:
    """Raise `InvalidOption` for a protocol that pads images: intermediate masks are of the squashed ones here."""
    if protocol.resize != "square":
        raise InvalidOption(
            f"protocol {protocol.name} pads images: intermediate masks are scored with square ones, "
            "e.g. --protocol folder"
        )


@torch.inference_mode()
def mask_rows(
    method: FewShotMethod, trials: Sequence[Trial], protocol: Protocol, progress: ProgressCallback
) -> list[ResultRow]:
    """IoU of each scale's intermediate mask, cut at Otsu's threshold, and the prediction.

    Means of the trials of a dataset with a number of shots. Raises `InvalidOption` for a protocol that pads images.
    """
    check_masks(protocol)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    datasets = [trial.target.benchmark or trial.target.dataset.name for trial in trials]
    several = len({trial.shots for trial in trials}) > 1
    total, before = sum(len(trial.episodes) for trial in trials), 0
    for trial, dataset in zip(trials, datasets, strict=True):
        words = [*([dataset] * (len(set(datasets)) > 1)), *([f"{trial.shots}-shot"] * several)]
        meters = _count_masks(method, trial, protocol, part_of(progress, before, total, ""))
        before += len(trial.episodes)
        for title, meter in meters.items():
            scores = meter.scores()
            found.setdefault((", ".join([title, *words]), trial.shots), []).append((scores.miou, scores.fb_iou))
    rows = []
    for (title, shots), values in found.items():
        miou, fb_iou = np.mean(values, 0)
        rows.append({"title": title, "miou": float(miou), "fb_iou": float(fb_iou), "shots": shots})
    return rows


def _count_masks(
    method: FewShotMethod, trial: Trial, protocol: Protocol, progress: ProgressCallback
) -> dict[str, IoUMeter]:
    meters: dict[str, IoUMeter] = {}
    side = method.config.image_size
    for number, episode in enumerate(trial.episodes):
        one = read_batch(trial.target.dataset, [episode], side, protocol.settings())
        query = method.encode_query(one.tensors.query)
        support = method.encode_support(one.tensors.images, one.tensors.masks)
        truth = one.truths[0]
        size = truth.shape[0], truth.shape[1]
        masks = scale_masks(method, query, support)
        cuts = {f"1/{scale}, Otsu": binarised(mask[0], size).numpy() for scale, mask in masks.items()}
        logits = method.segment(query, support).float().cpu()
        cuts["prediction"] = resize(logits, size).argmax(1)[0].numpy()
        for title, cut in cuts.items():
            meters.setdefault(title, IoUMeter()).add(episode.class_id, cut, truth)
        progress(number + 1, len(trial.episodes), "")
    return meters


def cost_rows(variant: Variant, method: FewShotMethod, repeats: int, epochs: float | None) -> list[ResultRow]:
    """Operations and time of one shot; `epochs` to the best checkpoint, where it was trained."""
    whole, backbone = multiply_adds(method)
    both, query = seconds(method, 1, variant.fusion, repeats)
    row = {"title": variant.title, "gmacs": whole, "backbone_gmacs": backbone, "seconds": both, "query_seconds": query}
    return [row if epochs is None else {**row, "epochs": epochs}]


def shot_rows(
    variant: Variant, method: FewShotMethod, shots: Sequence[int], repeats: int, progress: ProgressCallback
) -> list[ResultRow]:
    """Memory and time for each number of shots."""
    rows = []
    for done, number in enumerate(shots, 1):
        both, query = seconds(method, number, variant.fusion, repeats)
        megabytes = peak_megabytes(method, number, variant.fusion)
        row = {"title": variant.title, "shots": number, "megabytes": megabytes}
        rows.append({**row, "seconds": both, "query_seconds": query})
        progress(done, len(shots), "")
    return rows
