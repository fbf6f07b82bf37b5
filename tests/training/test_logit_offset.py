"""How lenient the light decoder is where little stands out: what it does, and how it is fitted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods.dcama.boundary import guide_among, lenient, peak
from fewseg.models.methods.dcama.light_decoder import LightDecoder
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.ops.resize import resize
from fewseg.training.calibration.logit_offset import _RAISES, _best, fit_leniency
from fewseg.training.config import TrainConfig
from fewseg.training.train import make_method
from helpers.light_dcama import light
from helpers.toy_method import toy
from helpers.validation_sets import SETS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_low_peaks_are_raised_and_high_ones_left() -> None:
    logit = torch.full((3, 1, 20, 20), -5.0)
    logit[:, 0, :2, :10] = torch.tensor([1.0, 3.0, 6.0])[:, None, None]
    assert peak(logit).tolist() == [1.0, 3.0, 6.0]
    raised = lenient(logit, torch.tensor([5.0, 0.25])) - logit
    torch.testing.assert_close(raised[:, 0, 0, 0], torch.tensor([1.0, 0.5, 0.0]))
    assert (raised == raised[:, :, :1, :1]).all()
    assert torch.equal(lenient(logit, torch.zeros(2)), logit)


def drawn(wanted: Tensor) -> Tensor:
    """IoU (E, R) that are best where `wanted` (E) is added, and fall off to both sides."""
    return 1 - (_RAISES - wanted[:, None]).abs() / 4


def test_finds_what_the_best_masks_were_drawn_with() -> None:
    torch.manual_seed(0)
    peaks = torch.linspace(0, 10, 81)
    start, slope = _best(peaks, drawn(0.4 * (6 - peaks).clamp_min(0))).tolist()
    assert start == pytest.approx(6, abs=0.3)
    assert slope == pytest.approx(0.4, abs=0.03)


def test_where_raising_helps_nothing_nothing_is_raised() -> None:
    assert _best(torch.linspace(0, 10, 30), drawn(torch.zeros(30))).tolist() == [0, 0]


@pytest.mark.parametrize("follow_edges", [False, True])
def test_it_is_fitted_to_the_masks_of_validation_episodes(follow_edges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method = light(follow_edges=follow_edges)
    assert isinstance(method.decoder, LightDecoder)
    # A method that recognises every thing, but the later the episode the less surely, and then finds too little of it.
    truths = [collate([episode_tensors(part.dataset, e, 64)]).query_mask == 1 for part in SETS for e in part.episodes]
    asked = iter(enumerate(truths))

    def segment(query: QueryFeatures, support: object) -> Tensor:
        # What it gives of itself, neither raised before nor led along edges.
        assert not method.decoder.leniency.any()
        assert guide_among(query.tensors) is None
        number, truth = next(asked)
        sure = 8 - 6 * number / len(truths)
        depth = F.avg_pool2d(truth[:, None].float(), 9, 1, 4) - 0.5  # half of what is within 4 pixels
        logit = sure * 2 * depth - 0.5 * (8 - sure)
        logit = resize(logit, query.image_size)
        return torch.cat([-logit, logit], 1) / 2

    monkeypatch.setattr(method, "segment", segment)
    assert fit_leniency(method, SETS, size=64)
    assert not method.decoder.sureness.any()  # that has to be fitted anew
    start, slope = method.decoder.leniency.tolist()
    assert start == pytest.approx(8, abs=1)
    # A unit less of `sure` takes a half off the logits, and one and a half off their peaks.
    assert slope == pytest.approx(0.5 / 1.5, abs=0.1)


def test_others_have_nothing_to_fit() -> None:
    assert not fit_leniency(toy(), SETS, size=64)
    assert not fit_leniency(light(decoder="published"), SETS, size=64)
    assert not fit_leniency(light(), [], size=64)


def test_a_training_begins_without_what_another_was_fitted_to() -> None:
    method = make_method(TrainConfig(data=("synthetic@0/4",), init_from="default"))
    assert isinstance(method, DCAMA)
    assert isinstance(method.decoder, LightDecoder)
    assert not method.decoder.leniency.any()
    assert not method.decoder.sureness.any()
