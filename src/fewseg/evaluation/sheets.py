"""The best and the worst episodes of an evaluation as images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewseg.core.files import replacing
from fewseg.data.datasets.base import Dataset
from fewseg.evaluation.evaluate import EpisodeScore, EvaluationResult, EvaluationSettings, segment_episode
from fewseg.evaluation.plan import Trial
from fewseg.images.draw import contact_sheet, overlay
from fewseg.models.methods import FewShotMethod


def draw_sheets(method: FewShotMethod, trial: Trial, result: EvaluationResult, out: Path, count: int) -> None:
    """A sheet of the `count` best and one of the worst episodes: first support, truth, prediction."""
    ranked, dataset = sorted(result.scores, key=lambda score: score.iou), trial.target.dataset
    for word, chosen in (("worst", ranked[:count]), ("best", ranked[::-1][:count])):
        if chosen:
            images, titles = [], []
            for score in chosen:
                images += _row(method, dataset, score, result)
                titles += [dataset.classes[score.episode.class_id], "truth", f"IoU {score.iou:.2f}"]
            sheet = contact_sheet(images, titles, columns=3, side=240)
            with replacing(out / f"{word}_{trial.stem}.jpg") as temporary:
                sheet.save(temporary, "JPEG", quality=88)


def _row(method: FewShotMethod, dataset: Dataset, score: EpisodeScore, result: EvaluationResult) -> list[Any]:
    """The first support with its mask, the query with the truth, the query with the prediction."""
    episode, settings = score.episode, EvaluationSettings("original", result.resize, result.fusion)
    predicted, truth, _ = segment_episode(method, dataset, episode, settings)
    first, query = episode.support[0], dataset.image(episode.query)
    shown = (
        (dataset.image(first), dataset.mask(first, episode.class_id) == 1),
        (query, truth == 1),
        (query, predicted == 1),
    )
    return [overlay(image, {"": mask}, legend=False) for image, mask in shown]
