"""The light method's base prototype, and the images that training prepares methods with."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from torch.nn import functional as F

from fewseg.core.types import Episode
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.tensors import TrainingSource, collate, episode_tensors
from fewseg.models.checkpoints import load_method
from fewseg.models.methods import create_method
from fewseg.models.methods.dcama_light import DCAMALight
from fewseg.training.calibration.episodes import class_examples
from fewseg.training.config import TrainConfig
from fewseg.training.data import open_data
from fewseg.training.train import make_method, train
from helpers.dcama_light import light

pytestmark = pytest.mark.usefixtures("one_thread")

FEW, MORE = SyntheticDataset(per_class=2, size=64), SyntheticDataset(per_class=12, size=64)


def test_is_the_mean_over_classes_and_weighted_sources() -> None:
    method = light()
    sources = [TrainingSource(FEW, (0, 2), 3.0), TrainingSource(FEW, (1,), 1.0)]
    method.prepare_training(class_examples(sources, size=64, seed=0))
    wanted = 0.75 * (_prototypes(method, 0) + _prototypes(method, 2)) / 2 + 0.25 * _prototypes(method, 1)
    torch.testing.assert_close(method.calibration.base_prototype, wanted)


def _prototypes(method: DCAMALight, class_id: int) -> torch.Tensor:
    """Masked means of the projected tokens, of unit length, averaged over a class's images."""
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


def test_the_seed_decides_which_images_of_many() -> None:
    fitted = []
    for seed in (0, 0, 1):
        method = light()
        method.prepare_training(class_examples([TrainingSource(MORE, (0, 1))], size=64, seed=seed))
        fitted.append(method.calibration.base_prototype)
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])


def test_other_methods_read_no_images() -> None:
    unreadable = Mock(names=Mock(side_effect=AssertionError("an image was looked for")))
    method = create_method("dcama", backbone="tiny", image_size=64)
    method.prepare_training(class_examples([TrainingSource(unreadable, (0,))], size=64, seed=0))


def test_sources_that_are_never_drawn_do_not_count() -> None:
    fitted = []
    for others in ([], [TrainingSource(FEW, (2,), 0.0), TrainingSource(FEW, (), 0.0)]):
        method = light()
        told = Mock()
        sources = [TrainingSource(FEW, (0, 1)), *others]
        method.prepare_training(class_examples(sources, size=64, seed=0, progress=told))
        assert told.call_args_list == [call(n, 4, "") for n in range(1, 5)]
        fitted.append(method.calibration.base_prototype)
    assert torch.equal(*fitted)


def test_a_training_measures_it_once_and_what_goes_on_from_it_keeps_it(tmp_path: Path) -> None:
    settings = {
        "image_size": 64,
        "batch_size": 2,
        "episodes_per_epoch": 2,
        "epochs": 1,
        "validation_classes": (2,),
        "workers": 0,
    }
    config = TrainConfig(
        ("synthetic",), method="dcama_light", backbone="tiny", random_backbone=True, validation_episodes=4, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        fresh = make_method(config)
    data = open_data(config)
    fresh.prepare_training(class_examples(data.sources, size=64, seed=config.seed))
    report = train(config, tmp_path / "new")
    learnt = load_method(report.best)
    torch.testing.assert_close(learnt.calibration.base_prototype, fresh.calibration.base_prototype)
    assert learnt.calibration.base_prototype.any()
    assert {"presence_threshold", "presence_slope", "presence_offset"} <= learnt.extra.keys()
    again = TrainConfig(("synthetic@0/2",), init_from=str(report.best), validation_episodes=2, **settings)
    assert torch.equal(
        load_method(train(again, tmp_path / "more").best).calibration.base_prototype, learnt.calibration.base_prototype
    )
