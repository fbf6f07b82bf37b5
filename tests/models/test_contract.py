"""What every method must do, checked on each of them: whatever is registered in METHODS is picked up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewseg.core.errors import InvalidCheckpoint, InvalidOption, InvalidSupport
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.sources import open_source
from fewseg.evaluation.evaluate import evaluate
from fewseg.inference.segmenter import Segmenter
from fewseg.models.backbones import BackboneSpec, FeaturePyramid, build_pyramid
from fewseg.models.checkpoints import fingerprint, load_method, load_official, save_method
from fewseg.models.checkpoints.official import _READERS
from fewseg.models.methods import METHODS, FewShotMethod, create_method, register_method
from fewseg.models.methods.contract import CHECKS, check_method, episode, specimen
from fewseg.models.methods.prototype import Prototype, PrototypeConfig
from fewseg.training.config import TrainConfig
from fewseg.training.data import divide
from fewseg.training.log import read_metrics
from fewseg.training.train import fit
from helpers.golden_models import GOLDEN, released_state

BACKBONE = "mobilenetv3_small_050"
SIZE = 96

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prototype": ("prototype", {"scales": (8, 16)}),
    "prototype, learned": ("prototype", {"scales": (8, 16), "learned": True}),
    "prototype, several": (
        "prototype",
        {"scales": (8, 16), "learned": True, "width": 24, "background_prototypes": 3, "foreground_prototypes": 2},
    ),
    "dcama, ours": ("dcama", {"attention": "cosine", "heads": 1, "identity_start": True, "class_balanced": True}),
    "dcama_light": ("dcama_light", {"skip_scales": (4, 8, 16), "dropout": 0.5, "position_weight": 1.0}),
    "sccan": ("sccan", {"width": 32, "heads": 4, "blocks": 3}),
}
"""Options that keep a method small, and further variants of it; any other method runs with its defaults."""
CASES |= {name: (name, {}) for name in METHODS if name not in CASES}


@pytest.fixture(params=sorted(CASES), scope="module")
def made(request: pytest.FixtureRequest) -> FewShotMethod:
    name, options = CASES[request.param]
    torch.manual_seed(0)
    return create_method(name, backbone=BACKBONE, image_size=SIZE, **options)


@pytest.fixture
def method(made: FewShotMethod) -> FewShotMethod:
    """A copy that a test may change."""
    return specimen(made)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(method: FewShotMethod, check: Callable[[FewShotMethod], None]) -> None:
    check(method)


def test_checkpoint_round_trip(method: FewShotMethod, tmp_path: Path) -> None:
    query, images, masks = episode(method, 1, 1)
    method.extra = {"presence_threshold": 0.25}
    save_method(method, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        again = load_method(source)
        assert not again.training
        assert again.config == method.config
        assert again.extra == method.extra
        assert fingerprint(again) == fingerprint(method)
        with torch.inference_mode():
            torch.testing.assert_close(again(query, images, masks), method(query, images, masks))
    other = create_method(method.name, backbone="tiny", image_size=SIZE)
    _, images, masks = episode(method, 1, 2)
    with pytest.raises(InvalidSupport, match=re.escape(method.support_key) + ".*encode it again"):
        other.segment(query, method.encode_support(images, masks))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors"):
        load_method(tmp_path)


def test_in_a_segmenter(method: FewShotMethod, tmp_path: Path) -> None:
    dataset = SyntheticDataset(per_class=4, size=80)
    names = dataset.names(5)
    segmenter = Segmenter(method, device="cpu", precision="float32")
    for name in names[:3]:
        segmenter.teach("shape", dataset.image(name), dataset.mask(name, 5) == 1)
    segmenter.forget("shape", 1)
    segmenter.teach("all", dataset.image(names[0]), np.ones((80, 80), bool))
    found = segmenter.segment(dataset.image(names[3]))
    assert found.labels == ("shape", "all")
    assert found.masks["shape"].shape == (80, 80)
    assert np.isfinite(found.probabilities["shape"]).all()
    segmenter.save(tmp_path / "taught.fewseg")
    again = Segmenter.load(tmp_path / "taught.fewseg", method, device="cpu", precision="float32")
    assert again.fingerprint == segmenter.fingerprint
    repeated = again.segment(dataset.image(names[3]))
    for label in found.labels:
        np.testing.assert_allclose(repeated.probabilities[label], found.probabilities[label], atol=1e-5)


def test_evaluates(method: FewShotMethod) -> None:
    dataset = SyntheticDataset(per_class=4, size=64)
    episodes = draw_test_episodes(dataset, (0, 5), 2, 1, 0, min_images=3)
    first, again = (evaluate(method, dataset, episodes) for _ in range(2))
    assert first.scores == again.scores
    assert first.shots == 2


TRAINING = TrainConfig(
    data=("synthetic@0/4",),
    backbone=BACKBONE,
    random_backbone=True,
    batch_size=2,
    episodes_per_epoch=2,
    epochs=1,
    lr=1e-4,
    workers=0,
    validation_episodes=0,
    tensorboard=False,
    device="cpu",
)


def test_takes_a_step_of_training(method: FewShotMethod, tmp_path: Path) -> None:
    opened = open_source("synthetic@0/4")
    data = divide([replace(opened, dataset=SyntheticDataset(per_class=4, size=64))], (1.0,), TRAINING)
    if not list(method.trainable_parameters()):
        with pytest.raises(InvalidOption, match="has nothing to train"):
            fit(method, data, TRAINING, tmp_path)
        return
    before = {name: value.clone() for name, value in method.state_dict().items()}
    report = fit(method, data, TRAINING, tmp_path)
    assert (report.steps, report.best.name) == (1, "last.safetensors")
    (line,) = read_metrics(tmp_path)
    assert np.isfinite(line["loss"])
    after = load_method(report.best).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not [name for name in moved if name.startswith("backbone.")]


@pytest.mark.parametrize("name", sorted(_READERS))
def test_reads_the_release(name: str) -> None:
    """Names with or without their prefix; every parameter has to be there, and nothing else."""
    keys = f"keys_{name}_resnet50.tsv"
    assert (GOLDEN / keys).is_file(), f"copy {keys} into tests/golden"
    state = released_state(keys, seed=0)
    method = load_official(state, method=name, backbone="resnet50")
    assert torch.stack([p.isfinite().all() for p in method.parameters()]).all()
    bare = {k.removeprefix("module."): v for k, v in state.items()}
    for wrong, message in ((dict(list(bare.items())[:-1]), "lacks"), ({**bare, "surplus": torch.zeros(1)}, "surplus")):
        with pytest.raises(InvalidCheckpoint, match=message):
            load_official(wrong, method=name, backbone="resnet50")


class Mixes(Prototype):
    """Faulty: the episodes of a batch see each other."""

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        logits = super()._segment(query, support)
        return logits - logits.mean(0)


class Keeps(Prototype):
    """Faulty: keeps the first support it sees."""

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        self.seen = getattr(self, "seen", support)
        return super()._segment(query, self.seen)


class Blind(Prototype):
    """Faulty: the mask plays no part."""

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        return super().support_from_maps(maps, torch.zeros_like(masks))


class Unused(Prototype):
    """Faulty: a parameter that nothing uses."""

    def __init__(self, backbone: FeaturePyramid, config: PrototypeConfig) -> None:
        super().__init__(backbone, config)
        self.spare = nn.Parameter(torch.zeros(3))


class Overflows(Prototype):
    """Faulty: sums in half precision."""

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        return super()._segment(query, support) * 1e8 / 1e8


class Square(Prototype):
    """Faulty: knows one size of images."""

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        return super()._segment(query, support)[:, :, :SIZE, :SIZE]


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (Mixes, "batch gives what its items give"),
        (Keeps, "batch gives what its items give|serves many queries"),
        (Blind, "the mask changes nothing"),
        (Unused, "spare gets no gradient"),
        (Overflows, "half precision: .*float16 are not finite"),
        (Square, "any size will do: logits of a .97, 97. query are .2, 2, 96, 96"),
    ],
)
def test_faults_are_found(faulty: type[Prototype], message: str) -> None:
    torch.manual_seed(0)
    backbone = build_pyramid(
        BackboneSpec(
            "tiny", {"stem": 8, "widths": [8, 8, 12, 16], "depths": [1] * 4, "strides": [2] * 4, "expansions": [2] * 4}
        )
    )
    with pytest.raises(AssertionError, match=message):
        check_method(faulty(backbone, PrototypeConfig(SIZE, scales=(8, 16), learned=True)))


def test_registering_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewseg.models.methods.create.METHODS", dict(METHODS))

    class Mine(Prototype):
        name: ClassVar[str] = "mine"

    first = register_method(Mine)
    assert type(create_method("mine", backbone="tiny", image_size=SIZE)) is first is Mine
    again = register_method(type("Mine", (Mine,), {"__qualname__": Mine.__qualname__}))
    assert type(create_method("mine", backbone="tiny", image_size=SIZE)) is again
    with pytest.raises(InvalidOption, match=r"is fewseg\.models\.methods\.prototype\.Prototype already"):
        register_method(type("Other", (Prototype,), {}))
    with pytest.raises(InvalidOption, match="Nameless has no name"):
        register_method(type("Nameless", (FewShotMethod,), {}))
    with pytest.raises(InvalidOption, match="image_size"):
        register_method(type("Sizeless", (FewShotMethod,), {"name": "sizeless", "Config": dict}))


@pytest.mark.parametrize("name", ["dcama", "sccan", "hsnet", "prototype"])
@pytest.mark.parametrize("size", [7, 100_000, 64.0, True])
def test_impossible_image_sizes(name: str, size: object) -> None:
    with pytest.raises(InvalidOption, match=r"image_size .*from 32 to 4096"):
        create_method(name, backbone="tiny", image_size=size)
