"""What things have in common, for the light decoder's likeness."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fewseg.datasets.synthetic import SyntheticDataset
from fewseg.episodes.tensors import TrainingSource, collate, episode_tensors
from fewseg.methods.dcama import DCAMA
from fewseg.methods.dcama_light import LightDecoder
from fewseg.training.usual import fit_usual
from fewseg.types import Episode
from helpers.toy_method import toy
from test_dcama_light import light

pytestmark = pytest.mark.usefixtures("one_thread")

FEW, MORE = SyntheticDataset(per_class=2, size=64), SyntheticDataset(per_class=12, size=64)


def test_is_the_mean_over_classes_and_weighted_sources() -> None:
    method = light()
    assert isinstance(method.decoder, LightDecoder)
    sources = [TrainingSource(FEW, (0, 2), 3.0), TrainingSource(FEW, (1,), 1.0)]
    assert fit_usual(method, sources, size=64, seed=0)
    wanted = 0.75 * (_things(method, 0) + _things(method, 2)) / 2 + 0.25 * _things(method, 1)
    torch.testing.assert_close(method.decoder.usual, wanted)


def _things(method: DCAMA, class_id: int) -> torch.Tensor:
    """Plainly: masked means of the projected tokens of the coarsest scale, of unit length, over a class's pictures."""
    means = []
    for name in FEW.names(class_id):
        tensors = collate([episode_tensors(FEW, Episode(name, (name,), class_id), 64)])
        with torch.no_grad():
            support = method.encode_support(tensors.images, tensors.masks).tensors
        found = []
        for scale, places in sorted(method.places.items()):
            inside = F.avg_pool2d(tensors.masks, scale)[0, 0].flatten() ** 2
            found += [F.normalize(inside @ support[f"key.{place}"][0, 0], dim=0) for place in places]
        means.append(torch.cat(found))
    return torch.stack(means).mean(0)


def test_the_seed_decides_which_pictures_of_many() -> None:
    fitted = []
    for seed in (0, 0, 1):
        method = light()
        assert isinstance(method.decoder, LightDecoder)
        fit_usual(method, [TrainingSource(MORE, (0, 1))], size=64, seed=seed)
        fitted.append(method.decoder.usual)
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])


def test_methods_without_the_light_decoder_have_none() -> None:
    sources = [TrainingSource(FEW, (0,))]
    assert not fit_usual(light(decoder="published"), sources, size=64, seed=0)
    assert not fit_usual(toy(), sources, size=64, seed=0)
