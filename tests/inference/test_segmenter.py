"""The segmenter: teaching, segmenting, forgetting, keeping."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from fewseg.core.devices import choose_device, choose_dtype
from fewseg.core.errors import (
    FewsegError,
    InvalidCheckpoint,
    InvalidImage,
    InvalidMask,
    InvalidOption,
    InvalidSupport,
    OutputError,
)
from fewseg.core.tensor_files import CHECKSUM
from fewseg.inference.postprocess import full_size_prediction
from fewseg.inference.predict import EncodedImages
from fewseg.inference.preprocess import PreparedImage
from fewseg.inference.segmenter import Segmenter
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import create_method
from fewseg.models.ops.resize import resize
from fewseg.models.presence import presence_scores
from helpers.colour_method import ColourMethod, blob, iou
from helpers.golden_models import released_state


def taught(*labels: str, **options: object) -> Segmenter:
    segmenter = Segmenter(ColourMethod(), device="cpu", **options)  # type: ignore[arg-type]
    for label in labels:
        segmenter.teach(label, *blob(label))
    return segmenter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    method = create_method("dcama", backbone="tiny", image_size=64)
    method.extra = {"presence_threshold": 0.25}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_method(method, path)
    return path


# ------------------------------------------------------------------------------------------------- results


def test_precision_may_be_a_type_of_torch() -> None:
    assert taught("red", precision=torch.float32).fingerprint == taught("red", precision="float32").fingerprint


def test_finds_what_was_taught_at_the_images_own_size() -> None:
    image, mask = blob("red", size=(301, 173))
    result = taught("red").segment(image)
    assert result.masks["red"].shape == (173, 301)
    assert (result.masks["red"].dtype, result.probabilities["red"].dtype) == (np.bool_, np.float32)
    assert result.label_map.dtype == np.uint16
    assert iou(result.masks["red"], mask) > 0.9
    np.testing.assert_array_equal(result.label_map, result.masks["red"])
    np.testing.assert_array_equal(result.masks["red"], result.probabilities["red"] >= 0.5)
    assert result.present["red"]
    assert result.scores["red"] > 0.95


def test_several_labels_share_the_query_features() -> None:
    segmenter = taught("red", "blue", "green")
    image, _ = blob("blue", "red")
    result = segmenter.segment(image)
    assert segmenter.method.queries_encoded == 1
    assert result.labels == segmenter.labels == ("red", "blue", "green")
    assert iou(result.masks["blue"], blob("blue", "red")[1]) > 0.85
    assert result.present["red"]
    assert result.present["blue"]


def test_overlaps_go_to_the_most_probable_label() -> None:
    coarse = torch.tensor([[[0.9, 0.6, 0.1, 0.6]], [[0.6, 0.7, 0.2, 0.6]]])
    result = full_size_prediction(coarse, ["a", "b"], (4, 1))
    assert result.label_map.tolist() == [[1, 2, 0, 1]]
    assert result.masks["b"].tolist() == [[True, True, False, True]]


def test_present_never_empties_a_mask() -> None:
    segmenter = Segmenter(ColourMethod(sharpness=0.2), device="cpu", presence_threshold=1.0)
    segmenter.teach("red", *blob("red"))
    result = segmenter.segment(blob("red")[0])
    assert not result.present["red"]
    assert result.masks["red"].any()


def test_score_is_the_mean_of_the_most_confident_percent() -> None:
    coarse = torch.zeros(2, 20, 20)
    coarse[0].view(-1)[:4] = torch.tensor([1.0, 0.8, 0.6, 0.4])
    coarse[1, 0, 0] = 1.0
    assert presence_scores(coarse) == pytest.approx([0.7, 0.25])


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (37, 91), (300, 200), (64, 64)])
def test_strips_equal_one_resize(size: tuple[int, int]) -> None:
    coarse = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    result = full_size_prediction(coarse, ["a", "b", "c"], size, strip=700)
    expected = resize(coarse[None], (size[1], size[0]))[0].numpy()
    np.testing.assert_allclose(np.stack(list(result.probabilities.values())), expected, atol=2e-5)


def test_without_probabilities() -> None:
    result = taught("red").segment(blob("red")[0], probabilities=False)
    assert result.probabilities == {}
    assert result.masks["red"].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_tiny_images(size: tuple[int, int]) -> None:
    result = taught("red").segment(Image.new("RGB", size, (220, 30, 30)))
    assert result.masks["red"].shape == (size[1], size[0])
    assert result.masks["red"].all()


def test_turned_image_gives_a_turned_result(tmp_path: Path) -> None:
    image, mask = blob("red", place=0.2)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    result = taught("red").segment(tmp_path / "a.png")
    assert result.masks["red"].shape == (96, 64)
    assert iou(result.masks["red"], np.rot90(mask, -1)) > 0.85


def test_a_batch_gives_what_its_images_give() -> None:
    segmenter = taught("red", "blue")
    images = [blob("red", size=(50, 70))[0], blob("blue", "red")[0], np.zeros((9, 5), np.uint8)]
    together = segmenter.segment_batch(images, batch_size=2)
    for image, found in zip(images, together, strict=True):
        alone = segmenter.segment(image)
        np.testing.assert_array_equal(found.label_map, alone.label_map)
        assert found.scores == pytest.approx(alone.scores)


@pytest.mark.parametrize("options", [{}, {"tta_flip": True, "tta_scales": (1, 0.5)}])
def test_the_steps_of_segment(options: dict[str, object]) -> None:
    """Features that were encoded once serve any supports, together or one by one."""
    segmenter = taught("red", "blue", **options)
    images = [blob("red", size=(50, 70))[0], blob("blue", "red")[0], blob("green")[0]]
    prepared = [segmenter.preprocess(image) for image in images]
    features = segmenter.encode(prepared)
    coarse = torch.stack(list(segmenter.predict(features)))
    assert (len(features), coarse.shape) == (3, (3, 2, 64, 64))
    encoded = segmenter.method.queries_encoded
    for image, given, probabilities in zip(images, prepared, coarse, strict=True):
        expected, found = segmenter.segment(image), segmenter.postprocess(probabilities, given.size)
        np.testing.assert_array_equal(found.label_map, expected.label_map)
        assert found.scores == pytest.approx(expected.scores)
    segmenter.method.queries_encoded = encoded
    green = {"green": segmenter.encode_example(*blob("green"))}
    parts = features.split()
    assert sum(part.nbytes for part in parts) == features.nbytes
    joined = EncodedImages.concatenate(parts[::-1])
    torch.testing.assert_close(torch.stack(list(segmenter.predict(joined))).flip(0), coarse)
    torch.testing.assert_close(segmenter.predict(parts[2], green)[0], segmenter.predict(features, green)[2])
    assert segmenter.method.queries_encoded == encoded
    assert segmenter.with_supports(green).segment(images[2]).present["green"]
    with pytest.raises(InvalidSupport, match="nothing has been taught"):
        segmenter.with_supports().predict(features)


def test_an_example_is_encoded_as_it_is_taught() -> None:
    segmenter = taught("red")
    other = segmenter.with_supports({"red": segmenter.encode_example(*blob("red"))})
    assert other.fingerprint == segmenter.fingerprint


# ---------------------------------------------------------------------------------------------- flips, scales


class LopsidedMethod(ColourMethod):
    """Believes the left half of every image."""

    def _segment(self, query, support):  # type: ignore[no-untyped-def]
        logits = super()._segment(query, support)
        logits[..., logits.shape[-1] // 2 :] = 0
        return logits


def test_flips_average_both_views() -> None:
    image, mask = blob("red")
    plain, flipped = (Segmenter(LopsidedMethod(), device="cpu", tta_flip=flips) for flips in (False, True))
    for segmenter in (plain, flipped):
        segmenter.teach("red", image, mask)
    coarse = [s.predict(s.encode([s.preprocess(image)]))[0][0] for s in (plain, flipped)]
    other = plain.preprocess(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    mirrored = plain.predict(plain.encode([other]))[0][0]
    torch.testing.assert_close(coarse[1], (coarse[0] + mirrored.flip(-1)) / 2)


def test_scales_use_supports_of_their_size() -> None:
    segmenter = taught("red", tta_scales=(1, 0.5, 1.5))
    assert segmenter.input_sizes == (64, 32, 96)
    assert [s.image_size for s in segmenter.supports["red"].sets] == [(64, 64), (32, 32), (96, 96)]
    image, mask = blob("red")
    assert iou(segmenter.segment(image).masks["red"], mask) > 0.85


@pytest.mark.parametrize("scales", [(), (0,), (-1,), (100,)])
def test_impossible_scales(scales: tuple[float, ...]) -> None:
    with pytest.raises(InvalidOption, match="scales"):
        Segmenter(ColourMethod(), device="cpu", tta_scales=scales)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_impossible_threshold(threshold: float) -> None:
    with pytest.raises(InvalidOption, match="threshold"):
        Segmenter(ColourMethod(), device="cpu", presence_threshold=threshold)


def test_threshold_comes_from_the_model() -> None:
    method = ColourMethod()
    method.extra["presence_threshold"] = 0.125
    assert Segmenter(method, device="cpu").presence_threshold == 0.125
    assert Segmenter(method, device="cpu", presence_threshold=0.75).presence_threshold == 0.75
    assert Segmenter(ColourMethod(), device="cpu").presence_threshold == 0.5


# --------------------------------------------------------------------------------------- device and precision


def test_unknown_device_and_precision() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'cuda'"):
        choose_device("cuba")
    with pytest.raises(InvalidOption, match="did you mean 'float32' or 'float16' or 'bfloat16'"):
        choose_dtype("float3", torch.device("cpu"))
    with pytest.raises(InvalidOption, match="not available"):
        choose_device("cuda:99")
    with pytest.raises(InvalidOption, match="means nothing"):
        choose_device("cpu:x")


def test_automatic_choice() -> None:
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision(precision: str) -> None:
    image, mask = blob("red")
    segmenter = Segmenter(ColourMethod(), device="cpu", precision=precision)
    segmenter.teach("red", image, mask)
    assert segmenter.supports["red"].sets[0].tensors["foreground"].dtype == getattr(torch, precision)
    assert iou(segmenter.segment(image).masks["red"], mask) > 0.85


# ----------------------------------------------------------------------------------------- teach and forget


def test_more_shots_any_time_and_lists() -> None:
    segmenter = taught("red")
    segmenter.teach("red", [blob("red", place=0.3)[0]] * 2, [blob("red", place=0.3)[1]] * 2)
    assert (segmenter.shots("red"), segmenter.shots("blue"), segmenter.labels) == (3, 0, ("red",))
    other = Segmenter(ColourMethod(), device="cpu")
    pairs = [blob("red"), blob("red", place=0.3), blob("red", place=0.3)]
    other.teach("red", [i for i, _ in pairs], [m for _, m in pairs])
    assert other.fingerprint == segmenter.fingerprint
    image, _ = blob("red")
    np.testing.assert_array_equal(
        other.segment(image).probabilities["red"], segmenter.segment(image).probabilities["red"]
    )


def test_a_view_shares_the_model_and_nothing_that_was_taught() -> None:
    segmenter = taught("red")
    view = segmenter.with_supports()
    assert view.method is segmenter.method
    assert view.labels == ()
    view.teach("blue", *blob("blue", place=0.3))
    assert (segmenter.labels, view.labels) == (("red",), ("blue",))
    both = segmenter.with_supports({**segmenter.supports, **view.supports})
    image = blob("red", place=0.4)[0]
    np.testing.assert_array_equal(
        both.segment(image).probabilities["red"], segmenter.segment(image).probabilities["red"]
    )
    with pytest.raises(TypeError):
        segmenter.supports["green"] = both.supports["blue"]  # type: ignore[index]


def test_chosen_value() -> None:
    image, mask = blob("red")
    segmenter = Segmenter(ColourMethod(), device="cpu")
    segmenter.teach("red", image, mask // 255 * 7 + (mask == 0) * np.uint8(3), value=7)
    assert iou(segmenter.segment(image).masks["red"], mask) > 0.85


def test_forget_a_shot_or_a_label() -> None:
    segmenter = taught("red", "blue")
    before = segmenter.fingerprint
    segmenter.teach("red", *blob("green"))
    assert segmenter.fingerprint != before
    segmenter.forget("red", 1)
    assert segmenter.fingerprint == before
    segmenter.forget("red", 0)
    assert segmenter.labels == ("blue",)
    segmenter.forget("blue")
    assert segmenter.labels == ()


def test_what_others_teach_meanwhile_is_for_later_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a thread would that replaces an example: the order of the labels changes, and one more is taught."""
    segmenter = taught("red", "blue")
    image, _ = blob("red")
    before = segmenter.segment(image)
    computing = Segmenter.encode

    def interrupted(self: Segmenter, images: Sequence[PreparedImage]) -> EncodedImages:
        found = computing(self, images)
        segmenter.forget("red")
        segmenter.teach("red", *blob("red"))
        segmenter.teach("green", *blob("green"))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "encode", interrupted)
        meanwhile = segmenter.segment(image)
    assert segmenter.labels == ("blue", "red", "green")
    assert list(meanwhile.masks) == ["red", "blue"]
    for label, mask in before.masks.items():
        np.testing.assert_array_equal(meanwhile.masks[label], mask)


def test_threads_that_teach_one_label_lose_nothing() -> None:
    segmenter = taught("red")
    threads = [threading.Thread(target=segmenter.teach, args=("red", *blob("red"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert segmenter.shots("red") == 13


def test_batches_of_anything_that_can_be_gone_through() -> None:
    segmenter, images = taught("red"), [blob("red", place=place)[0] for place in (0.3, 0.5, 0.6)]
    found = segmenter.segment_batch((image for image in images), batch_size=2)
    for image, prediction in zip(images, found, strict=True):
        np.testing.assert_array_equal(prediction.masks["red"], segmenter.segment(image).masks["red"])
    for one in (np.asarray(images[0]), "a.jpg", torch.zeros(3, 8, 8)):
        with pytest.raises(InvalidOption, match="one image in place of several"):
            segmenter.segment_batch(one)  # type: ignore[arg-type]


def test_a_bad_example_adds_nothing() -> None:
    segmenter = taught("red")
    image, mask = blob("red")
    with pytest.raises(InvalidMask):
        segmenter.teach("red", [image, image], [mask, np.zeros_like(mask)])
    assert segmenter.shots("red") == 1


def dot() -> np.ndarray:
    """Foreground of one pixel, which no row of a 64 x 64 nearest sampling of 1000 x 1000 meets."""
    mask = np.zeros((1000, 1000), np.uint8)
    mask[7, 7] = 255
    return mask


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda s: s.forget("rod"), InvalidSupport, "no label 'rod'; did you mean 'red'"),
        (lambda s: s.forget("xylophone"), InvalidSupport, "taught: 'red'"),
        (lambda s: s.forget("red", 5), InvalidSupport, "no shot 5: choose from 0 to 0"),
        (lambda s: s.teach("", *blob("red")), InvalidSupport, "label '' is empty"),
        (lambda s: s.teach(" ", *blob("red")), InvalidSupport, "is empty"),
        (lambda s: s.teach(None, *blob("red")), InvalidSupport, "label None is of type NoneType"),
        (lambda s: s.teach("a\nb", *blob("red")), InvalidSupport, "cannot be shown: leave them out"),
        (lambda s: s.teach("a", [blob("red")[0]], []), InvalidSupport, "1 images and 0 masks"),
        (lambda s: s.teach("a", [], []), InvalidSupport, "0 images and 0 masks"),
        (lambda s: s.teach("a", blob("red")[0], np.ones((3, 3))), InvalidMask, "3x3, its image 96x64"),
        (lambda s: s.teach("a", blob("red")[0], np.zeros((64, 96))), InvalidMask, "no foreground"),
        (lambda s: s.teach("a", np.zeros((1000, 1000)), dot()), InvalidMask, "vanishes"),
        (lambda s: s.teach("a", "none.jpg", "none.png"), InvalidImage, "none.jpg: no such file"),
        (lambda s: s.segment("none.jpg"), InvalidImage, "none.jpg: no such file"),
        (lambda s: s.segment_batch([], batch_size=0), InvalidOption, "at least 1"),
        (lambda s: s.teach("a", *blob("red"), value=1.5), InvalidMask, "value 1.5 is neither an index nor a colour"),
        (lambda s: s.teach("a", *blob("red"), value="red"), InvalidMask, "value 'red' is neither"),
        (lambda s: Segmenter(ColourMethod(), tta_scales=1.25), InvalidOption, "scales 1.25: give a list"),
        (lambda s: Segmenter(ColourMethod(), presence_threshold="0.5"), InvalidOption, "choose a number from 0 to 1"),
        (lambda s: Segmenter("default"), InvalidOption, "a str is no method: give one of create_method, or call"),
        (lambda s: Segmenter(ColourMethod(), precision=None), InvalidOption, "unknown precision None"),
        (lambda s: s.forget(None), InvalidSupport, "no label None"),
        (lambda s: Segmenter(ColourMethod(), device="cpu").segment(blob("red")[0]), InvalidSupport, "teach"),
        (lambda s: Segmenter(ColourMethod(), device="cpu").segment_batch([]), InvalidSupport, "teach"),
    ],
)
def test_errors(act: Callable[[Segmenter], None], error: type[FewsegError], words: str) -> None:
    segmenter = taught("red")
    with pytest.raises(error, match=words) as caught:
        act(segmenter)
    assert "\n" not in str(caught.value)
    assert segmenter.labels == ("red",)


# -------------------------------------------------------------------------------------------- save and load


def test_save_and_load_with_the_method(tmp_path: Path) -> None:
    segmenter = taught("red", "blue", tta_flip=True, tta_scales=(1, 1.5), presence_threshold=0.3)
    segmenter.teach("red", *blob("red", place=0.3))
    segmenter.save(tmp_path / "colours.fewseg")
    loaded = Segmenter.load(tmp_path / "colours.fewseg", ColourMethod(), device="cpu")
    assert loaded.labels == ("red", "blue")
    assert loaded.shots("red") == 2
    assert (loaded.tta_flip, loaded.tta_scales, loaded.presence_threshold) == (True, (1, 1.5), 0.3)
    assert loaded.fingerprint == segmenter.fingerprint
    image, _ = blob("blue", "red")
    np.testing.assert_array_equal(segmenter.segment(image).label_map, loaded.segment(image).label_map)
    loaded.teach("red", *blob("red"))
    loaded.forget("red", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["colours.fewseg"]


def test_load_finds_the_model_again(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    segmenter = Segmenter.from_pretrained(checkpoint.name, device="cpu", presence_threshold=None)
    assert segmenter.presence_threshold == 0.25
    image, mask = blob("red")
    segmenter.teach("a thing: ünïcode/slash.", image, mask)
    segmenter.save(tmp_path / "a.fewseg")
    monkeypatch.chdir(tmp_path)
    loaded = Segmenter.load("a.fewseg", device="cpu", tta_flip=True, presence_threshold=0.75)
    assert (loaded.tta_flip, loaded.presence_threshold, loaded.labels) == (True, 0.75, segmenter.labels)
    one, other = segmenter.segment(image), Segmenter.load("a.fewseg", device="cpu").segment(image)
    np.testing.assert_array_equal(one.probabilities[segmenter.labels[0]], other.probabilities[segmenter.labels[0]])


def test_precision_changes_between_save_and_load(tmp_path: Path, checkpoint: Path) -> None:
    segmenter = Segmenter.from_pretrained(checkpoint, device="cpu", precision="bfloat16")
    segmenter.teach("red", *blob("red"))
    segmenter.save(tmp_path / "a.fewseg")
    loaded = Segmenter.load(tmp_path / "a.fewseg", device="cpu", precision="float32")
    assert loaded.segment(blob("red")[0]).labels == ("red",)


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_rounding_leaves_the_callers_method_alone(
    tmp_path: Path, checkpoint: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU's "auto" is bfloat16.
    monkeypatch.setattr("fewseg.inference.model.choose_dtype", lambda *_: torch.bfloat16)
    method = load_method(checkpoint)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    first = Segmenter(method, device="cpu", precision=precision)
    first.teach("red", *blob("red"))
    first.save(tmp_path / "a.fewseg")
    assert (first.method.dtype, method.dtype) == (torch.bfloat16, torch.float32)
    for key, value in method.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert Segmenter.load(tmp_path / "a.fewseg", method, device="cpu", precision=precision).labels == ("red",)
    second = Segmenter.from_pretrained(checkpoint, device="cpu", precision=precision)
    second.teach("red", *blob("red"))
    assert second.fingerprint == first.fingerprint
    second.save(tmp_path / "b.fewseg")
    loaded = Segmenter.load(tmp_path / "b.fewseg", device="cpu", precision=precision)
    assert loaded.fingerprint == second.fingerprint
    for each in (second, loaded):
        each.teach("red", *blob("red", place=0.3))  # what was loaded and what is new are of one encoder
    image = blob("red")[0]
    np.testing.assert_array_equal(loaded.segment(image).label_map, second.segment(image).label_map)


def test_load_refuses_another_model(tmp_path: Path, checkpoint: Path) -> None:
    taught("red").save(tmp_path / "a.fewseg")
    with pytest.raises(InvalidCheckpoint, match="taught with another model"):
        Segmenter.load(tmp_path / "a.fewseg", ColourMethod(sharpness=7.0), device="cpu")
    with pytest.raises(InvalidCheckpoint, match="does not say which model"):
        Segmenter.load(tmp_path / "a.fewseg", device="cpu")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(checkpoint.read_bytes())
    segmenter = Segmenter.from_pretrained(moved, device="cpu")
    segmenter.teach("red", *blob("red"))
    segmenter.save(tmp_path / "b.fewseg")
    moved.unlink()
    with pytest.raises(InvalidCheckpoint, match="not there any more"):
        Segmenter.load(tmp_path / "b.fewseg", device="cpu")
    assert Segmenter.load(tmp_path / "b.fewseg", create_from(checkpoint), device="cpu").labels == ("red",)


def create_from(checkpoint: Path):  # type: ignore[no-untyped-def]
    return Segmenter.from_pretrained(checkpoint, device="cpu", precision="float32").method


def test_load_refuses_other_files(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "text").write_text("no")
    for path, words in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "text", "not a saved"),
        (checkpoint, "not a s"),
    ):
        with pytest.raises(InvalidCheckpoint, match=words) as caught:
            Segmenter.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        "[1]",
        "7",
        "{}",
        "{",
        '{"version": 1}',
        '{"version": 1, "labels": [{"label": "a"}], "method": "colour", "scales": [1.0]}',
        '{"version": 1, "labels": [], "method": 3, "fingerprint": "", "flips": 1, "scales": 1}',
    ],
)
def test_load_refuses_damaged_metadata(tmp_path: Path, metadata: str) -> None:
    save_file({"0.0.x": torch.zeros(1, 1)}, tmp_path / "a.fewseg", {"fewseg.segmenter": metadata})
    with pytest.raises(InvalidCheckpoint, match="not a saved segmenter") as caught:
        Segmenter.load(tmp_path / "a.fewseg", ColourMethod())
    assert "\n" not in str(caught.value)


def test_load_refuses_missing_tensors(tmp_path: Path) -> None:
    taught("red").save(tmp_path / "a.fewseg")
    with safe_open(tmp_path / "a.fewseg", "pt") as file:
        about = {key: value for key, value in file.metadata().items() if key != CHECKSUM}
    save_file({"0.0.foreground": torch.zeros(1, 5, 3)}, tmp_path / "b.fewseg", about)
    save_file({"strange": torch.zeros(1)}, tmp_path / "c.fewseg", {"fewseg.segmenter": '{"version": 1}'})
    for name in ("b.fewseg", "c.fewseg"):
        with pytest.raises(InvalidCheckpoint, match="not a saved segmenter"):
            Segmenter.load(tmp_path / name, ColourMethod())


def test_save_to_nowhere_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = taught("red")
    with pytest.raises(OutputError, match="cannot write"):
        segmenter.save(tmp_path / "none" / "a.fewseg")
    segmenter.save(tmp_path / "a.fewseg")
    before = (tmp_path / "a.fewseg").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        segmenter.save(tmp_path / "a.fewseg")
    assert (tmp_path / "a.fewseg").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.fewseg"]


def test_releases_of_other_methods_are_found_again(tmp_path: Path) -> None:
    """What was taught with a released file names the method, so that loading reads the file the same way."""
    release = tmp_path / "hsnet.pt"
    torch.save(released_state("keys_hsnet_resnet50.tsv", 0), release)
    segmenter = Segmenter.from_official(release, "resnet50", "hsnet", device="cpu", precision="float32")
    image, mask = Image.new("RGB", (40, 30), "red"), np.zeros((30, 40), bool)
    mask[5:20, 5:20] = True
    segmenter.teach("red", image, mask)
    segmenter.save(tmp_path / "red.fewseg")
    again = Segmenter.load(tmp_path / "red.fewseg", device="cpu", precision="float32")
    assert (again.method.name, again.labels, again.shots("red")) == ("hsnet", ("red",), 1)


def test_a_mistyped_path_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking the hub, which takes half a minute where there is no network."""
    monkeypatch.setattr("fewseg.models.checkpoints.native.hf_hub_download", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/trial").mkdir(parents=True)
    with pytest.raises(InvalidCheckpoint, match=r"no checkpoint runs/tria \(did you mean 'trial'\?\): give"):
        load_method("runs/tria")


def test_scales_that_coincide_are_one_size(tmp_path: Path) -> None:
    segmenter = Segmenter(ColourMethod(), device="cpu", tta_scales=(1.0, 1.01))
    segmenter.teach("red", *blob("red"))
    twice = segmenter.with_supports(dict.fromkeys(("red", "rot"), segmenter.supports["red"]))  # one example, two names
    twice.save(tmp_path / "a.fewseg")
    loaded = Segmenter.load(tmp_path / "a.fewseg", ColourMethod(), device="cpu")
    assert loaded.labels == ("red", "rot")
    assert loaded.input_sizes == segmenter.input_sizes
    found = loaded.segment(blob("red")[0])
    np.testing.assert_array_equal(found.masks["red"], found.masks["rot"])


# ------------------------------------------------------------------------------------------- damaged and foreign files


def resaved(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """A file as an earlier version wrote it, without a checksum, with something changed."""
    with safe_open(source, "pt") as file:
        about = json.loads(file.metadata()["fewseg.segmenter"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    change(about, tensors)
    save_file(tensors, target, {"fewseg.segmenter": json.dumps(about)})
    return target


def test_files_without_a_checksum_load(tmp_path: Path) -> None:
    taught("red").save(tmp_path / "a.fewseg")
    old = resaved(tmp_path / "a.fewseg", tmp_path / "old.fewseg", lambda about, tensors: None)
    assert Segmenter.load(old, ColourMethod(), device="cpu").labels == ("red",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about, tensors: tensors.pop("0.0.background"), "without background"),
        (
            lambda about, tensors: tensors["0.0.background"].fill_(torch.nan),
            "background has values",
        ),
        (
            lambda about, tensors: tensors.update({"0.0.background": torch.zeros(1, 1, 4)}),
            "background has another",
        ),
        (lambda about, tensors: tensors.update({"0.0.more": torch.zeros(1, 1)}), "an unknown more"),
        (lambda about, tensors: about.update(scales=["a"]), "scales"),
        (lambda about, tensors: about.update(scales=[]), "scales"),
        (lambda about, tensors: about.update(presence_threshold=7), "threshold"),
        (lambda about, tensors: about.update(presence_threshold=float("nan")), "threshold"),
        (lambda about, tensors: about.update(presence_scale=[float("inf"), 0]), "scale"),
        (lambda about, tensors: about["labels"][0].update(label=""), "is empty"),
        (lambda about, tensors: about["labels"][0].update(label="a\nb"), "cannot be shown"),
        (lambda about, tensors: about["labels"][0].update(presence_threshold="x"), "threshold"),
        (lambda about, tensors: about["labels"][0].update(encoders=["other"]), "encoded by 'other'"),
    ],
)
def test_what_a_file_lacks_is_said_when_it_is_opened(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], said: str
) -> None:
    taught("red").save(tmp_path / "a.fewseg")
    with pytest.raises(InvalidCheckpoint, match=said) as caught:
        Segmenter.load(resaved(tmp_path / "a.fewseg", tmp_path / "b.fewseg", change), ColourMethod(), device="cpu")
    assert "\n" not in str(caught.value)


def test_deeply_nested_metadata(tmp_path: Path) -> None:
    save_file({"0.0.x": torch.zeros(1, 1)}, tmp_path / "a.fewseg", {"fewseg.segmenter": "[" * 100_000})
    with pytest.raises(InvalidCheckpoint, match="not a saved segmenter"):
        Segmenter.load(tmp_path / "a.fewseg", ColourMethod())


# ----------------------------------------------------------------------------------------------- a task's threshold


def test_left_out_examples_lower_the_threshold() -> None:
    segmenter = Segmenter(ColourMethod(sharpness=0.5), device="cpu", presence_threshold=0.999)
    images = [blob("red", place=place)[0] for place in (0.4, 0.5, 0.6)]
    for image, place in zip(images, (0.4, 0.5, 0.6), strict=True):
        segmenter.teach("red", image, blob("red", place=place)[1])
    before = segmenter.fingerprint
    assert not segmenter.segment(images[0]).present["red"]
    threshold = segmenter.fit_presence("red", images)
    assert threshold is not None
    assert threshold < 0.999
    assert all(segmenter.segment(image).present["red"] for image in images)
    assert segmenter.fingerprint != before
    assert segmenter.fit_presence("red") is None
    assert segmenter.fingerprint == before


def test_refused_images_raise_the_threshold(tmp_path: Path) -> None:
    segmenter = Segmenter(ColourMethod(sharpness=0.2), device="cpu", presence_threshold=0.01)
    segmenter.teach("red", *blob("red"))
    segmenter.teach("blue", *blob("blue"))
    refused = blob("green")[0]
    assert segmenter.segment(refused).present == {"red": True, "blue": True}
    segmenter.fit_presence("red", refused=[refused])
    assert segmenter.segment(refused).present == {"red": False, "blue": True}
    assert segmenter.segment(blob("red")[0]).present["red"]
    segmenter.save(tmp_path / "a.fewseg")
    loaded = Segmenter.load(tmp_path / "a.fewseg", segmenter.method, device="cpu")
    assert loaded.segment(refused).present == {"red": False, "blue": True}
    assert loaded.fingerprint == segmenter.fingerprint
    segmenter.teach("red", *blob("red"))
    assert segmenter.segment(refused).present["red"]


def test_impossible_fits_of_presence() -> None:
    segmenter = taught("red")
    with pytest.raises(InvalidSupport, match="no label 'rod'; did you mean 'red'"):
        segmenter.fit_presence("rod")
    with pytest.raises(InvalidSupport, match="2 images for 1 examples of 'red': give all, in order"):
        segmenter.fit_presence("red", [blob("red")[0]] * 2)
