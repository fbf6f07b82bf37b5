"""Explanations: their numbers against what the method itself computes, their figures and the command's errors."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg import cli
from fewseg.core.errors import InvalidOption, InvalidSupport, OutputError
from fewseg.core.types import Episode
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes, save_episodes
from fewseg.images.transforms import square_image
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.ops.otsu import otsu_threshold
from fewseg.tools.explain import (
    Case,
    Explained,
    binarised,
    default_points,
    explain_case,
    feature_cloud,
    mean_attention,
    point_attention,
    scale_masks,
)
from fewseg.tools.explain.features import penultimate_features
from fewseg.tools.explain.figures import attention_figure, masks_figure, save_figure

SIZE = 64
POINTS = ((0.1, 0.2), (0.51, 0.5), (0.99, 0.0))


def make(name: str = "dcama", **options: object) -> FewShotMethod:
    torch.manual_seed(0)
    return create_method(name, backbone="tiny", image_size=SIZE, **options)


@pytest.fixture(scope="module")
def data() -> SyntheticDataset:
    return SyntheticDataset(per_class=4, size=48)


@pytest.fixture(scope="module")
def explained(data: SyntheticDataset) -> Explained:
    return explain_case(make(), Case.from_episode(data, Episode("03-0000", ("03-0001", "03-0002"), 3)))


def test_the_probability_is_that_of_the_method(data: SyntheticDataset) -> None:
    random = {"identity_start": False, "position_weight": 1.0, "attention_scales": (8, 16, 32), "refinement_steps": 0}
    method = make("dcama_light", **random).eval()
    one = explain_case(method, Case.from_episode(data, Episode("05-0000", ("05-0001",), 5)))
    pixels = square_image(one.case.query, SIZE)[None]
    with torch.inference_mode():
        wanted = method.segment(pixels, one.support).softmax(1)[0, 1]
        without = method.segment(method.query_from_maps(one.maps, (SIZE, SIZE)), one.support).softmax(1)[0, 1]
    torch.testing.assert_close(one.probability, wanted)
    assert not torch.allclose(one.probability, without)


@pytest.mark.parametrize("options", [{}, {"attention": "cosine"}, {"use_background": False}])
def test_attention_sums_to_the_aggregated_mask_of_its_point(data: SyntheticDataset, options: dict[str, object]) -> None:
    """Rows sum to 1, and the mask values they weigh sum to the aggregated mask at that point, in every block."""
    case = Case.from_episode(data, Episode("05-0000", ("05-0001", "05-0002"), 5))
    one = explain_case(make(**options), case)
    votes = one.method.aggregated_masks(one.query, one.support)
    blocks = point_attention(one, POINTS)
    assert len(blocks) == len(votes) > 3
    for block, vote in zip(blocks, votes, strict=True):
        assert block.weights.shape == (3, 2, *vote.shape[1:])
        torch.testing.assert_close(block.weights.sum((1, 2, 3)), torch.ones(3))
        expected = torch.stack([vote[0, row, column] for row, column in block.cells])
        torch.testing.assert_close(block.aggregated, expected, atol=1e-5, rtol=1e-4)


def test_attention_of_one_scale_and_its_mean(explained: Explained) -> None:
    every, coarse = point_attention(explained, POINTS), point_attention(explained, POINTS, [32])
    assert {b.scale for b in coarse} == {32}
    assert [b.block for b in coarse] == [b.block for b in every if b.scale == 32]
    mean = mean_attention(every)
    assert mean.shape == (3, 2, SIZE // 8, SIZE // 8)
    torch.testing.assert_close(mean.sum((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(mean_attention(coarse), torch.stack([b.weights for b in coarse]).mean(0))


def test_attention_refuses_what_has_none(data: SyntheticDataset, explained: Explained) -> None:
    case = explained.case
    with pytest.raises(InvalidOption, match="hsnet does not aggregate masks"):
        point_attention(explain_case(make("hsnet"), case), POINTS)
    with pytest.raises(InvalidOption, match="prototype does not aggregate masks"):
        masks_figure(explain_case(make("prototype"), case))
    with pytest.raises(InvalidOption, match="support_pixel_budget"):
        point_attention(explain_case(make(support_pixel_budget=20), case), POINTS)
    with pytest.raises(InvalidOption, match="no attention at scale 1/4: choose among 8, 16, 32"):
        point_attention(explained, POINTS, [4])
    with pytest.raises(InvalidOption, match="from 0 to below 1"):
        point_attention(explained, [(0.5, 1.0)])


def test_default_points_lie_on_the_object_and_off_it() -> None:
    found = torch.zeros(20, 40)
    found[5:16, 20:40] = 0.9
    (x, y), (u, v) = default_points(found)
    assert found[int(y * 20), int(x * 40)] == pytest.approx(0.9)
    assert (int(y * 20), 24 < int(x * 40) < 36) == (10, True)
    assert found[int(v * 20), int(u * 40)] == 0
    found = torch.full((4, 4), 0.1)
    found[2, 3] = 0.2
    assert default_points(found)[0] == (3.5 / 4, 2.5 / 4)


def brute_force_otsu(values: np.ndarray) -> float:
    """The cut of least variance within the two groups, every cut tried."""
    levels = sorted(set(values.tolist()))
    cuts = [(low + high) / 2 for low, high in pairwise(levels)]

    def within(cut: float) -> float:
        groups = values[values > cut], values[values <= cut]
        return sum(len(g) * g.var() for g in groups)

    return min(cuts, key=within)


@pytest.mark.parametrize("seed", range(8))
def test_otsu_against_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, rng.integers(3, 60)), rng.normal(rng.uniform(1, 5), 1, 25)])
    if seed % 2:
        values = np.round(values)  # many that are equal
    assert otsu_threshold(torch.from_numpy(values)) == pytest.approx(brute_force_otsu(values))


def test_otsu_of_equal_values_leaves_nothing_above() -> None:
    assert otsu_threshold(torch.full((3, 3), 0.25)) == 0.25
    assert otsu_threshold(torch.tensor([2.0])) == 2.0


def test_scale_masks_sum_the_layers(explained: Explained) -> None:
    method = explained.method
    votes = method.aggregated_masks(explained.query, explained.support)
    masks = scale_masks(method, explained.query, explained.support)
    assert list(masks) == [8, 16, 32]
    for scale, mask in masks.items():
        layers = [v for (_, s), v in zip(method.attended, votes, strict=True) if s == scale]
        torch.testing.assert_close(mask, sum(layers[1:], layers[0]))
    mask = torch.zeros(4, 4)
    mask[1:3, 1:3] = 3
    assert torch.equal(binarised(mask, (4, 4)), mask > 1)
    assert 0.1 < float(binarised(mask, (40, 60)).float().mean()) < 0.4


@pytest.mark.parametrize("name", ["dcama", "hsnet", "sccan"])
def test_penultimate_features_give_the_logits(data: SyntheticDataset, name: str) -> None:
    """The last convolution over them is, resized, what the method answers."""
    one = explain_case(make(name), Case.from_episode(data, Episode("03-0000", ("03-0001",), 3)))
    features = penultimate_features(one)
    head = [m for m in one.method.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 2][-1]
    with torch.no_grad():
        logits = head(features[None])
        expected = one.method.segment(one.query, one.support)
        resized = torch.nn.functional.interpolate(logits, expected.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(resized, expected, atol=1e-4, rtol=1e-3)


def test_penultimate_features_of_the_default_model(data: SyntheticDataset) -> None:
    """Its decoder corrects a sum of votes: without the correction's last layer only the sum is left."""
    method = load_method("default")
    one = explain_case(method, Case.from_episode(data, Episode("03-0000", ("03-0001",), 3)))
    features = penultimate_features(one)
    layer = method.last_layer
    assert layer is method.decoder.correction
    assert features.shape == (layer.in_channels, *one.query.tensors["skip.4"].shape[-2:])


def test_methods_without_a_last_layer_are_told_before_anything_is_drawn(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prototype.safetensors"
    save_method(make("prototype"), path)
    words = ["--model", str(path), "--figures", "features", "attention"]
    assert cli.main(call(files, *images(files), *words)) == 2
    assert "ends in no layer that gives logits" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_feature_cloud_takes_both_sides(explained: Explained) -> None:
    cloud = feature_cloud([explained], per_side=20)
    label = explained.case.label
    assert cloud.labels.count(label) == cloud.labels.count("background") == 20
    assert cloud.backbone.shape[0] == cloud.penultimate.shape[0] == 40
    assert cloud.from_truth
    unknown = dataclasses.replace(explained, case=dataclasses.replace(explained.case, truth=None))
    assert not feature_cloud([unknown], per_side=20).from_truth
    with pytest.raises(InvalidOption, match="prototype ends in no layer"):
        feature_cloud([explain_case(make("prototype"), explained.case)])


def test_figures_are_the_same_every_time(explained: Explained, tmp_path: Path) -> None:
    points = default_points(explained.probability)
    for turn in range(2):
        figure = attention_figure(explained, points, point_attention(explained, points))
        for kind in ("png", "svg"):
            save_figure(figure, tmp_path / f"{turn}.{kind}", dpi=60)
    for kind in ("png", "svg"):
        assert (tmp_path / f"0.{kind}").read_bytes() == (tmp_path / f"1.{kind}").read_bytes()
    assert "support 2" in (tmp_path / "0.svg").read_text()
    with pytest.raises(InvalidOption, match="figure format 'jpg'"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(OutputError):
        save_figure(figure, tmp_path / "missing" / "a.png")


@pytest.fixture(scope="module")
def files(data: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    save_method(make(), folder / "tiny.safetensors")
    for name in ("03-0000", "03-0001", "03-0002"):
        data.image(name).save(folder / f"{name}.jpg")
        Image.fromarray(data.mask(name, 3) * 255).save(folder / f"{name}.png")
    return folder


def call(files: Path, *words: str) -> list[str]:
    common = ["--model", str(files / "tiny.safetensors"), "--device", "cpu", "--out", str(files / "out")]
    return ["explain", *common, *words]


def images(files: Path) -> list[str]:
    pair = [str(files / f"03-0001.{kind}") for kind in ("jpg", "png")]
    return ["--query", str(files / "03-0000.jpg"), "--support", *pair]


def test_command_with_images(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--truth",
        str(files / "03-0000.png"),
        "--points",
        "0.5,0.5",
        "3,40",
        "--attention-scales",
        "16",
        "--formats",
        "pdf",
    ]
    assert cli.main(call(files, *images(files), *words)) == 0
    written = [files / "out" / f"{name}.pdf" for name in ("attention", "masks")]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert all(path.read_bytes().startswith(b"%PDF") for path in written)


def test_command_with_episodes(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    dataset = SyntheticDataset()
    path = tmp_path / "list.json"
    save_episodes(path, draw_test_episodes(dataset, [0, 7], 1, 1, 0), dataset)
    words = ["--data", "synthetic", "--episode-list", str(path), "--entry", "0", "1", "--pixels", "20"]
    assert cli.main(call(files, *words, "--figures", "masks", "features")) == 0
    names = sorted(p.name for p in (files / "out").glob("*.png"))
    assert names == ["features.png", "masks_0.png", "masks_1.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give an image with --query"),
        (["--query", "q.jpg"], "0 support files"),
        (["--query", "q.jpg", "--support", "a.jpg"], "does not exist"),
        (["--query", "q.jpg", "--support", "a.jpg", "a.png"], "a.jpg"),
        (["--episode-list", "list.json"], "--data"),
        (["--episode-list", "list.json", "--truth", "t.png"], "leave out --support, --truth and --label"),
        (["--query", "q.jpg", "--entry", "1"], "--data and --entry are for episodes"),
        (["--query", "q.jpg", "--figures", "masks", "--points", "0.5,0.5"], "are for the figure of attention"),
        (["--query", "q.jpg", "--figures", "masc"], "unknown figure 'masc'; did you mean 'masks'?"),
        (["--query", "q.jpg", "--formats", "jpg"], "unknown format 'jpg'"),
    ],
)
def test_command_errors(files: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(call(files, *words)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


@pytest.mark.parametrize("point", ["0.5", "a,b", "1.5,0.1", "3,48"])
def test_points_that_mean_nothing(files: Path, capsys: pytest.CaptureFixture[str], point: str) -> None:
    assert cli.main(call(files, *images(files), "--points", point)) == 2
    assert f"point {point}" in capsys.readouterr().err.replace("'", "")


def test_a_case_needs_support(files: Path) -> None:
    with pytest.raises(InvalidSupport, match="at least one image"):
        Case.from_images(files / "03-0000.jpg", [])
