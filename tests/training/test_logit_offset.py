"""The light method's logit offset: what it does, and how it is fitted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.models.methods.dcama_light.boundary import guide_from
from fewseg.models.methods.dcama_light.calibration import RAISES, Calibration, best_offset, peak
from fewseg.models.ops.resize import resize
from fewseg.training.calibration.episodes import calibrate_method
from fewseg.training.config import TrainConfig
from fewseg.training.train import make_method
from helpers.dcama_light import light
from helpers.validation_sets import SETS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_low_peaks_are_raised_and_high_ones_left() -> None:
    logit = torch.full((3, 1, 20, 20), -5.0)
    logit[:, 0, :2, :10] = torch.tensor([1.0, 3.0, 6.0])[:, None, None]
    assert peak(logit).tolist() == [1.0, 3.0, 6.0]
    calibration = Calibration([4])
    assert torch.equal(calibration.add_offset(logit), logit)
    calibration.logit_offset.copy_(torch.tensor([5.0, 0.25]))
    raised = calibration.add_offset(logit) - logit
    torch.testing.assert_close(raised[:, 0, 0, 0], torch.tensor([1.0, 0.5, 0.0]))
    assert (raised == raised[:, :, :1, :1]).all()


def drawn(wanted: Tensor) -> Tensor:
    """IoU (E, R) that are best where `wanted` (E) is added, and fall off to both sides."""
    return 1 - (RAISES - wanted[:, None]).abs() / 4


def test_finds_what_the_best_masks_were_drawn_with() -> None:
    torch.manual_seed(0)
    peaks = torch.linspace(0, 10, 81)
    start, slope = best_offset(peaks, drawn(0.4 * (6 - peaks).clamp_min(0))).tolist()
    assert start == pytest.approx(6, abs=0.3)
    assert slope == pytest.approx(0.4, abs=0.03)


def test_where_raising_helps_nothing_nothing_is_raised() -> None:
    assert best_offset(torch.linspace(0, 10, 30), drawn(torch.zeros(30))).tolist() == [0, 0]


@pytest.mark.parametrize("boundary", [False, True])
def test_it_is_fitted_to_the_masks_of_validation_episodes(boundary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method = light(boundary_refinement=boundary)
    # A method that recognises every thing, but the later the episode the less surely, and then finds too little of it.
    truths = [collate([episode_tensors(part.dataset, e, 64)]).query_mask == 1 for part in SETS for e in part.episodes]
    asked = iter(enumerate(truths))

    def segment(query: QueryFeatures, support: object) -> Tensor:
        # The decoder's own logits, neither raised before nor refined along edges.
        assert not method.calibration.logit_offset.any()
        assert guide_from(query.tensors) is None
        number, truth = next(asked)
        sure = 8 - 6 * number / len(truths)
        depth = F.avg_pool2d(truth[:, None].float(), 9, 1, 4) - 0.5  # half of what is within 4 pixels
        logit = sure * 2 * depth - 0.5 * (8 - sure)
        logit = resize(logit, query.image_size)
        return torch.cat([-logit, logit], 1) / 2

    monkeypatch.setattr(method, "segment", segment)
    size = method.config.image_size
    method.calibrate((collate([episode_tensors(p.dataset, e, size)]) for p in SETS for e in p.episodes), ())
    assert not method.calibration.temperature.any()  # that has to be fitted anew
    start, slope = method.calibration.logit_offset.tolist()
    assert start == pytest.approx(8, abs=1)
    # A unit less of `sure` takes a half off the logits, and one and a half off their peaks.
    assert slope == pytest.approx(0.5 / 1.5, abs=0.1)


def test_without_episodes_it_stays_as_it_was() -> None:
    method = light()
    before = method.calibration.logit_offset.clone()
    calibrate_method(method, [], seed=0)
    assert torch.equal(method.calibration.logit_offset, before)


def test_models_trained_with_negative_episodes_keep_theirs() -> None:
    method = light()
    before = method.calibration.logit_offset.clone()
    calibrate_method(method, SETS, seed=0, negative_episodes=True)
    assert torch.equal(method.calibration.logit_offset, before)
    calibrate_method(method, SETS, seed=0)
    assert not torch.equal(method.calibration.logit_offset, before)


def test_a_training_begins_without_what_another_was_fitted_to() -> None:
    method = make_method(TrainConfig(data=("synthetic@0/4",), init_from="default"))
    assert isinstance(method, DCAMALight)
    assert not method.calibration.logit_offset.any()
    assert not method.calibration.temperature.any()
    assert method.calibration.base_prototype.any()
