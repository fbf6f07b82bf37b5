"""The light method's temperature: fitted to validation pixels, masks untouched."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

from fewseg.core.types import IGNORE
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.checkpoints import fingerprint
from fewseg.models.methods import create_method
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.models.methods.dcama_light.calibration import PixelSample, best_temperature
from fewseg.training.calibration.episodes import calibrate_method, with_negatives
from fewseg.training.data import ValidationSet
from helpers.dcama_light import light
from helpers.validation_sets import DATA, SETS

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(images: int, found: tuple[float, float], elsewhere: float, seed: int = 0) -> list[PixelSample]:
    """Pixels whose true log-odds are the logits over `exp(found[0] + found[1] * alike)`, or over `exp(elsewhere)`."""
    torch.manual_seed(seed)
    asked = []
    for _ in range(images):
        logit, alike, near = 4 * torch.randn(1, 1, 32, 32), torch.randn(1), torch.rand(1, 1, 32, 32).round()
        factor = torch.exp(near * (found[0] + found[1] * alike) + (1 - near) * elsewhere)
        asked.append(PixelSample(logit, near, alike, torch.bernoulli((logit / factor).sigmoid()).long()))
    return asked


def test_finds_how_sure_it_may_be() -> None:
    fitted = best_temperature(drawn(100, (0.7, -0.4), 0.3))
    torch.testing.assert_close(fitted, torch.tensor([[-0.3, 0.0], [-0.7, 0.4]]), atol=0.06, rtol=0)


def test_pixels_that_do_not_count_are_left_out() -> None:
    asked = drawn(20, (0.5, 0.2), 0.2)
    spoilt = drawn(20, (0.5, 0.2), 0.2)
    for one in spoilt:
        one.truth[..., :8] = IGNORE
        one.logit[..., :8] = 100.0
    torch.testing.assert_close(best_temperature(spoilt), best_temperature(asked), atol=0.1, rtol=0)


def test_probabilities_get_nearer_and_masks_stay() -> None:
    method = light(1)
    calibration = method.calibration
    calibration.temperature.zero_()
    before = _state(method)
    calibrate_method(method, SETS, seed=0, negative_episodes=True)
    after = _state(method)
    assert after[0] < before[0]
    assert (after[1] != before[1]).float().mean() < 1e-3  # both are read through a resizing
    assert calibration.temperature.abs().sum() > 0
    fitted = calibration.temperature.clone()
    calibrate_method(method, SETS, seed=0, negative_episodes=True)  # from where it was: the same again
    torch.testing.assert_close(calibration.temperature, fitted, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def _state(method: DCAMALight) -> tuple[float, torch.Tensor]:
    """Cross-entropy of the validation pixels, and which of them are foreground."""
    logits, truths = [], []
    for part, *pair in with_negatives(SETS, 0):
        for episode in pair:
            tensors = collate([episode_tensors(part.dataset, episode, 64)])
            found = method(tensors.query, tensors.images, tensors.masks)
            logits.append(found[:, 1] - found[:, 0])
            truths.append(tensors.query_mask)
    logit, truth = torch.cat(logits), torch.cat(truths)
    loss = F.binary_cross_entropy_with_logits(logit[truth != IGNORE], (truth == 1).float()[truth != IGNORE])
    return float(loss), logit > 0


def test_without_such_queries_a_fit_stays_as_it_was() -> None:
    method = light()
    fitted = method.calibration.temperature.clone()
    one_class = ValidationSet(DATA, tuple(draw_test_episodes(DATA, (1,), 1, 4, 0)))
    calibrate_method(method, [one_class], seed=0, negative_episodes=True)
    assert torch.equal(method.calibration.temperature, fitted)


@pytest.mark.parametrize("name", ["dcama", "hsnet", "prototype"])
def test_other_methods_have_nothing_to_fit(name: str) -> None:
    method = create_method(name, backbone="tiny", image_size=64)
    before = fingerprint(method)
    unreadable = Mock(names=Mock(side_effect=AssertionError("an image was looked for")))
    calibrate_method(method, [ValidationSet(unreadable, SETS[0].episodes)], seed=0)
    assert fingerprint(method) == before


def test_queries_without_the_class_do_not_hold_it() -> None:
    pairs = with_negatives(SETS, 0)
    assert len(pairs) == len(SETS[0].episodes)
    for part, positive, negative in pairs:
        assert (part.dataset.mask(positive.query, positive.class_id) == 1).any()
        assert not (part.dataset.mask(negative.query, negative.class_id) == 1).any()
        assert positive.support == negative.support
