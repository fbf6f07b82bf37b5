"""How sure the light decoder is: fitted to validation pixels, masks untouched."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fewseg.core.types import IGNORE
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.models.methods.dcama.light_decoder import LightDecoder
from fewseg.training.calibration.presence import queries_with_and_without
from fewseg.training.calibration.temperature import _Asked, _asked, _fitted, fit_sureness
from fewseg.training.data import ValidationSet
from helpers.light_dcama import light
from helpers.toy_method import toy
from helpers.validation_sets import DATA, SETS

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(images: int, found: tuple[float, float], elsewhere: float, seed: int = 0) -> list[_Asked]:
    """Pixels whose true log-odds are the logits over `exp(found[0] + found[1] * alike)`, or over `exp(elsewhere)`."""
    torch.manual_seed(seed)
    asked = []
    for _ in range(images):
        logit, alike, near = 4 * torch.randn(1, 1, 32, 32), torch.randn(1), torch.rand(1, 1, 32, 32).round()
        factor = torch.exp(near * (found[0] + found[1] * alike) + (1 - near) * elsewhere)
        asked.append(_Asked(logit, near, alike, torch.bernoulli((logit / factor).sigmoid()).long()))
    return asked


def test_finds_how_sure_it_may_be() -> None:
    fitted = _fitted(drawn(100, (0.7, -0.4), 0.3))
    torch.testing.assert_close(fitted, torch.tensor([[-0.3, 0.0], [-0.7, 0.4]]), atol=0.06, rtol=0)


def test_pixels_that_do_not_count_are_left_out() -> None:
    asked = drawn(20, (0.5, 0.2), 0.2)
    spoilt = drawn(20, (0.5, 0.2), 0.2)
    for one in spoilt:
        one.truth[..., :8] = IGNORE
        one.logit[..., :8] = 100.0
    torch.testing.assert_close(_fitted(spoilt), _fitted(asked), atol=0.1, rtol=0)


def test_probabilities_get_nearer_and_masks_stay() -> None:
    method = light()
    decoder = method.decoder
    assert isinstance(decoder, LightDecoder)
    decoder.sureness.zero_()
    before = _state(method)
    assert fit_sureness(method, SETS, size=64, seed=0)
    after = _state(method)
    assert after[0] < before[0]
    assert (after[1] != before[1]).float().mean() < 1e-3  # both are read through a resizing
    assert decoder.sureness.abs().sum() > 0
    fitted = decoder.sureness.clone()
    fit_sureness(method, SETS, size=64, seed=0)  # from where it was: the same again
    torch.testing.assert_close(decoder.sureness, fitted, atol=1e-3, rtol=1e-3)


def _state(method: torch.nn.Module) -> tuple[float, torch.Tensor]:
    """Cross-entropy of the validation pixels, and which of them are foreground."""
    asked = list(_asked(method, queries_with_and_without(SETS, 0), 64))  # type: ignore[arg-type]
    logit, truth = torch.cat([a.logit for a in asked]), torch.cat([a.truth for a in asked])
    loss = F.binary_cross_entropy_with_logits(logit[truth != IGNORE], (truth == 1).float()[truth != IGNORE])
    return float(loss), logit > 0


def test_without_such_queries_a_fit_stays_as_it_was() -> None:
    method = light()
    assert isinstance(method.decoder, LightDecoder)
    fitted = method.decoder.sureness.clone()
    one_class = ValidationSet(DATA, tuple(draw_test_episodes(DATA, (1,), 1, 4, 0)))
    assert not fit_sureness(method, [one_class], size=64, seed=0)
    assert torch.equal(method.decoder.sureness, fitted)


def test_others_have_nothing_to_fit() -> None:
    assert not fit_sureness(toy(), SETS, size=64, seed=0)
    assert not fit_sureness(light(decoder="published"), SETS, size=64, seed=0)


def test_queries_without_the_class_do_not_hold_it() -> None:
    asked = queries_with_and_without(SETS, 0)
    assert len(asked) == len(SETS[0].episodes)
    for part, here, away in asked:
        assert (part.dataset.mask(here.query, here.class_id) == 1).any()
        assert not (part.dataset.mask(away.query, away.class_id) == 1).any()
        assert here.support == away.support
