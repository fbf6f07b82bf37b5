"""Adapting labels: what it brings, that it is the same every time, and what happens to it afterwards."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fewseg.core.errors import InvalidCheckpoint, InvalidOption, InvalidSupport
from fewseg.core.types import Prediction
from fewseg.inference.adaptation import fit, network
from fewseg.inference.adaptation.choice import Choice
from fewseg.inference.segmenter import Segmenter
from fewseg.models.checkpoints import save_method
from helpers.adapting import OPTIONS, disc, small_method, taught, teach
from helpers.colour_method import iou

pytestmark = pytest.mark.usefixtures("one_thread", "short")

NEW = 50
"""Number of a disc that is never taught."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


@pytest.fixture(scope="module")
def adapted() -> Segmenter:
    """Taught with three discs and adapted; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        segmenter = taught(3)
        segmenter.adapt(force=True)
    return segmenter


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Fits take few steps over few pixels, which is enough for discs."""
    patch.setattr(fit, "SHORTEST", 40)
    patch.setattr(fit, "STEPS", 40)
    patch.setattr(network, "BATCH", 256)


def copied(segmenter: Segmenter) -> Segmenter:
    return segmenter.with_supports(segmenter.supports)


def found(segmenter: Segmenter, number: int = NEW, size: tuple[int, int] = (96, 80)) -> Prediction:
    return segmenter.segment(disc(number, size)[0])


def same(one: Segmenter, other: Segmenter) -> bool:
    """Whether both give the same bits for a new image."""
    results = [found(segmenter) for segmenter in (one, other)]
    return all(
        np.array_equal(results[0].probabilities[label], results[1].probabilities[label])
        and results[0].scores[label] == results[1].scores[label]
        and results[0].present[label] == results[1].present[label]
        for label in one.labels
    )


# ---------------------------------------------------------------------------------------------- what it brings


def test_it_helps_and_says_so() -> None:
    segmenter = taught(4)
    before = iou(found(segmenter).masks["rough"], disc(NEW)[1])
    report = segmenter.adapt()["rough"]
    after = iou(found(segmenter).masks["rough"], disc(NEW)[1])
    assert (report.label, report.examples, report.adapted) == ("rough", 4, True)
    assert report.iou_after > report.iou_before + 0.2
    assert after > before + 0.2
    assert len(report.per_image) == 4
    assert np.mean(report.per_image, 0) == pytest.approx([report.iou_before, report.iou_after])
    assert report.spread > 0
    assert report.seconds > 0
    assert "rough: 4 examples; on each left out in turn IoU" in str(report)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_every_method_over_the_contract(name: str) -> None:
    segmenter = taught(2, method=small_method(name))
    before = found(segmenter)
    report = segmenter.adapt(seconds=0, force=True)["rough"]
    after = found(segmenter)
    assert report.adapted
    assert after.masks["rough"].shape == (80, 96)
    assert not np.array_equal(after.probabilities["rough"], before.probabilities["rough"])
    assert iou(after.masks["rough"], disc(NEW)[1]) > 0.3
    assert 0 <= after.scores["rough"] <= 1


def test_one_example_stays_to_the_bit(caplog: pytest.LogCaptureFixture) -> None:
    segmenter, plain = taught(1), taught(1)
    for made in (segmenter, plain):
        made.fit_presence("rough", [disc(0)[0]], [disc(7)[0]])
    assert segmenter.supports["rough"].presence_threshold is not None
    report = segmenter.adapt(force=True)["rough"]
    assert not report.adapted
    assert math.isnan(report.iou_before)
    assert math.isnan(report.spread)
    assert str(report) == "rough: 1 example; not adapted: that takes at least two"
    assert segmenter.fingerprint == plain.fingerprint
    assert same(segmenter, plain)


def test_what_does_not_help_is_not_used() -> None:
    """Masks without relation to the images."""
    segmenter = taught(0)
    for number in range(3):
        mask = np.zeros((80, 96), np.uint8)
        top, left = np.random.default_rng(number).integers(0, 50, 2)
        mask[top : top + 20, left : left + 20] = 1
        segmenter.teach("rough", disc(number)[0], mask, value=1)
    plain = copied(segmenter)
    report = segmenter.adapt()["rough"]
    assert not report.adapted
    assert report.iou_before == report.iou_after
    assert "adapting would not improve it" in str(report)
    assert segmenter.fingerprint == plain.fingerprint
    assert same(segmenter, plain)


def test_partial_labels_teach_as_far_as_they_go() -> None:
    """Three quarters of every image are unlabelled."""
    segmenter = taught(0)
    for number in range(4):
        image, mask = disc(number)
        rows, columns = np.nonzero(mask)
        partial = np.full_like(mask, 255)
        near = slice(max(0, rows.min() - 8), rows.max() + 1), slice(max(0, columns.min() - 16), columns.max() - 4)
        partial[near] = mask[near]
        assert (partial == 255).mean() > 0.7
        segmenter.teach("rough", image, partial, value=1)
    segmenter.adapt(force=True)
    assert iou(found(segmenter).masks["rough"], disc(NEW)[1]) > 0.25


def test_without_background_nothing_can_be_learnt() -> None:
    segmenter = taught(0)
    for number in range(3):
        image, mask = disc(number)
        segmenter.teach("rough", image, np.where(mask == 1, 1, 255).astype(np.uint8), value=1)
    plain = copied(segmenter)
    report = segmenter.adapt(force=True)["rough"]
    assert not report.adapted
    assert str(report) == "rough: 3 examples; not adapted: no pixel of them is background"
    assert same(segmenter, plain)


def test_labels_are_adapted_side_by_side() -> None:
    segmenter = taught(3)
    teach(segmenter, range(1), "other")
    plain = found(segmenter)
    reports = segmenter.adapt(force=True)
    assert [(label, report.adapted) for label, report in reports.items()] == [("rough", True), ("other", False)]
    result = found(segmenter)
    assert not np.array_equal(result.masks["rough"], plain.masks["rough"])
    np.testing.assert_allclose(result.probabilities["other"], plain.probabilities["other"], atol=2e-3)
    alone = taught(3)
    alone.adapt(force=True)
    np.testing.assert_array_equal(found(alone).probabilities["rough"], result.probabilities["rough"])


@pytest.mark.parametrize("size", [(9, 7), (400, 12), (13, 300), (1100, 150)])
def test_images_of_any_size(adapted: Segmenter, size: tuple[int, int]) -> None:
    result = found(adapted, size=size)
    assert result.probabilities["rough"].shape == (size[1], size[0])
    assert np.isfinite(result.probabilities["rough"]).all()


def test_batches_give_what_single_images_give(adapted: Segmenter) -> None:
    images = [disc(NEW)[0], disc(NEW + 1, (70, 90))[0]]
    for image, result in zip(images, adapted.segment_batch(images), strict=True):
        alone = adapted.segment(image)
        np.testing.assert_allclose(result.probabilities["rough"], alone.probabilities["rough"], atol=1e-4)


# ------------------------------------------------------------------------------------------------- the same bits


def test_the_same_examples_give_the_same_bits(adapted: Segmenter) -> None:
    torch.rand(3)  # nothing depends on the global generator
    again = taught(3)
    state = torch.get_rng_state()
    again.adapt(force=True)
    assert torch.equal(state, torch.get_rng_state())
    assert again.fingerprint == adapted.fingerprint
    assert same(again, adapted)


def test_the_fingerprint_says_what_was_fitted(adapted: Segmenter) -> None:
    plain, other = taught(3), taught(3)
    other.adapt(force=True, seed=1)
    assert len({plain.fingerprint, adapted.fingerprint, other.fingerprint}) == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_can_be_called_where_gradients_are_off(mode: type, adapted: Segmenter) -> None:
    segmenter = taught(3)
    with mode():
        segmenter.adapt(force=True)
    assert same(segmenter, adapted)


def test_saved_and_read_back(tmp_path: Path) -> None:
    save_method(small_method(), tmp_path / "small.safetensors")
    segmenter = Segmenter.from_pretrained(tmp_path / "small.safetensors", device="cpu", precision="float32")
    teach(segmenter, range(3))
    teach(segmenter, range(1), "other")
    segmenter.adapt(force=True)
    segmenter.save(tmp_path / "a.fewseg")
    back = Segmenter.load(tmp_path / "a.fewseg", device="cpu")
    assert back.fingerprint == segmenter.fingerprint
    assert back.supports["rough"].adaptation.report == segmenter.supports["rough"].adaptation.report
    assert same(back, segmenter)
    back.save(tmp_path / "b.fewseg")
    assert (tmp_path / "b.fewseg").read_bytes() == (tmp_path / "a.fewseg").read_bytes()
    plain = taught(3)
    plain.save(tmp_path / "plain.fewseg")
    assert (tmp_path / "a.fewseg").stat().st_size - (tmp_path / "plain.fewseg").stat().st_size < 1_000_000
    with pytest.raises(InvalidSupport, match="taught in a file, which holds no images: teach its examples again"):
        back.adapt("rough")
    teach(back, range(9, 10))
    with pytest.raises(InvalidSupport, match="taught in a file"):
        back.adapt("rough")


def test_an_adaptation_to_another_model_is_refused(tmp_path: Path, adapted: Segmenter) -> None:
    fitted = adapted.supports["rough"].adaptation
    assert fitted.misfit(adapted.method.backbone) == ""
    short = {part: {**network, "weight1": network["weight1"][1:]} for part, network in fitted.networks.items()}
    nan = {part: {k: t * torch.nan for k, t in network.items()} for part, network in fitted.networks.items()}
    for networks, said in ((short, "another shape"), (nan, "no numbers")):
        damaged = copy.copy(adapted.supports["rough"])
        object.__setattr__(damaged, "adaptation", copy.copy(fitted))
        object.__setattr__(damaged.adaptation, "networks", networks)
        adapted.with_supports({"rough": damaged}).save(tmp_path / "damaged.fewseg")
        with pytest.raises(InvalidCheckpoint, match=f"adaptation of 'rough' in .* is damaged, weights .*{said}"):
            Segmenter.load(tmp_path / "damaged.fewseg", small_method(), device="cpu")
    assert fitted.misfit(taught(0, method=small_method("hsnet")).method.backbone) == ""  # the same backbone


def test_copies_are_the_same(adapted: Segmenter) -> None:
    for other in (pickle.loads(pickle.dumps(adapted)), copy.deepcopy(adapted), adapted.to("cpu")):
        assert other.fingerprint == adapted.fingerprint
        assert same(other, adapted)


# --------------------------------------------------------------------------------------------------- afterwards


def test_teaching_and_forgetting_drop_it_and_say_so(adapted: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    said = "rough: what was fitted to its examples is dropped"
    one = copied(adapted)
    teach(one, range(3, 4))
    assert said in caplog.text
    assert one.supports["rough"].adaptation is None
    assert one.fingerprint == taught(4).fingerprint
    assert same(one, taught(4))
    caplog.clear()
    other = copied(adapted)
    other.forget("rough", 2)
    assert said in caplog.text
    assert same(other, taught(2))
    caplog.clear()
    teach(other, range(3, 4))
    other.forget("rough")
    assert said not in caplog.text  # nothing was fitted any more
    assert adapted.supports["rough"].adaptation is not None


def test_adapting_again_without_gain_drops_it(adapted: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = copied(adapted)
    monkeypatch.setattr(fit, "choose", lambda logits, truth, **_: fit_choice(len(truth)))
    segmenter.adapt()
    assert segmenter.supports["rough"].adaptation is None
    assert segmenter.fingerprint == taught(3).fingerprint


def fit_choice(count: int) -> Choice:
    return Choice(("all",), False, (0.5,) * count, (0.5,) * count)


def test_presence_is_judged_by_what_was_fitted(adapted: Segmenter) -> None:
    assert adapted.supports["rough"].presence_threshold is not None
    assert len(adapted.supports["rough"].adaptation.peaks) == 3
    assert found(adapted).present["rough"]


def test_teaching_meanwhile_ends_it() -> None:
    """Another thread teaches while a label is adapted: nothing is lost, and nothing that was fitted is kept."""
    segmenter = taught(2)

    def teach_once(done: int, total: int, last: str) -> None:
        if segmenter.shots("rough") == 2:
            other = threading.Thread(target=teach, args=(segmenter, range(2, 3)))
            other.start()
            other.join()

    with pytest.raises(InvalidSupport, match="taught or forgotten meanwhile: adapt it again"):
        segmenter.adapt(force=True, progress=teach_once)
    assert same(segmenter, taught(3))


def test_segmenting_meanwhile_goes_on_with_what_was_taught(adapted: Segmenter) -> None:
    segmenter, plain = taught(3), found(taught(3))
    seen: list[bool] = []

    def look(done: int, total: int, last: str) -> None:
        if segmenter.supports["rough"].adaptation is None:
            seen.append(np.array_equal(found(segmenter).probabilities["rough"], plain.probabilities["rough"]))

    segmenter.adapt(force=True, progress=look)
    assert all(seen)
    assert len(seen) >= 3
    assert same(segmenter, adapted)


def test_images_that_were_encoded_before(adapted: Segmenter) -> None:
    plain = taught(3)
    features = plain.encode([plain.preprocess(disc(NEW)[0])])
    with pytest.raises(InvalidOption, match="preprocess and encode them again"):
        adapted.predict(features)
    with pytest.raises(InvalidOption, match="preprocess and encode them again"):
        adapted.predict(type(features)(features.queries))


# ------------------------------------------------------------------------------------------------- in passing


@pytest.mark.parametrize("shots", [(3, 1), (1, 2)])
def test_progress_reaches_its_total(shots: tuple[int, int]) -> None:
    segmenter = taught(0)
    for label, count in zip("ab", shots, strict=True):
        teach(segmenter, range(count), label)
    told: list[tuple[int, int, str]] = []
    segmenter.adapt(seconds=0, progress=lambda *values: told.append(values))
    done, totals, labels = zip(*told, strict=True)
    assert set(totals) == {200}
    assert list(done) == sorted(done)
    assert done[-1] == 200
    assert set(labels) == {"a", "b"}


def test_seconds_decide_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SHORTEST", 10)
    steps: list[int] = []

    def counted(*args: object, **options: object) -> object:
        steps.append(int(options["steps"]))  # type: ignore[call-overload]
        return real(*args, **options)  # type: ignore[arg-type]

    real = fit.fit_networks
    monkeypatch.setattr(fit, "fit_networks", counted)
    segmenter = taught(2)
    for seconds in (0.0, 30.0, 1e9):
        segmenter.adapt(seconds=seconds)
    assert list(dict.fromkeys(steps)) == [10, 25, 40]


def test_unknown_labels_and_nothing_taught() -> None:
    with pytest.raises(InvalidSupport, match="no label 'ruogh'; did you mean 'rough'"):
        taught(1).adapt("ruogh")
    with pytest.raises(InvalidSupport, match="nothing has been taught yet"):
        taught(0).adapt()
