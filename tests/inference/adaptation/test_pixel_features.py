"""What describes a pixel: a layer applied to small maps is the layer of every pixel; parts; the basis."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.inference.adaptation.adapted import PARTS, part_columns
from fewseg.inference.adaptation.features import (
    PixelFeatures,
    described_blocks,
    described_by_input,
    fit_basis,
    image_maps,
)
from fewseg.inference.adaptation.network import HIDDEN, WIDTH, fold_standardisation, map_logits, pixel_logits
from helpers.adapting import disc, small_method

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = st.integers(1, 45)


@st.composite
def described(draw: st.DrawFn) -> PixelFeatures:
    """Maps of any sizes, larger than the image and smaller than `middle` among them."""
    size, middle = draw(st.tuples(SIDES, SIDES)), draw(st.tuples(SIDES, SIDES))
    others = draw(st.lists(st.tuples(st.integers(1, 3), SIDES, SIDES), max_size=4))
    shapes = draw(st.permutations([(2, *size), *others]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return PixelFeatures(tuple(torch.randn(shape, generator=rng) for shape in shapes), size, middle)


def everywhere(features: PixelFeatures) -> torch.Tensor:
    """The descriptions (H * W, width) of all pixels."""
    height, width = features.size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return features.at(rows.flatten(), columns.flatten())


def random_network(width: int, seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {
        "weight1": (width, WIDTH), "bias1": (1, WIDTH), "weight2": (WIDTH, HIDDEN), "bias2": (1, HIDDEN),
        "weight3": (HIDDEN, 1), "bias3": (1, 1), "frozen": (1, 1),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=rng) / shape[0] ** 0.5 for name, shape in shapes.items()}


@given(described(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_layer_of_the_maps_is_the_layer_of_every_pixel(features: PixelFeatures, seed: int) -> None:
    network = random_network(features.width, seed)
    frozen = torch.randn(features.size, generator=torch.Generator().manual_seed(seed))
    plain = pixel_logits(network, everywhere(features), frozen.flatten()).view(features.size)
    torch.testing.assert_close(map_logits(network, features, frozen), plain, atol=1e-4, rtol=1e-4)


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(shape, generator=rng) for shape in ((2, 67, 41), (3, 33, 20), (4, 5, 3)))
    features, network = PixelFeatures(maps, (67, 41), (17, 11)), random_network(9, 0)
    frozen = torch.zeros(67, 41)
    whole = map_logits(network, features, frozen)
    for strip in (1, 100, 41 * 9):
        monkeypatch.setattr("fewseg.inference.adaptation.network.STRIP", strip)
        torch.testing.assert_close(map_logits(network, features, frozen), whole, atol=1e-5, rtol=1e-5)


def test_a_network_of_standardised_descriptions_is_folded() -> None:
    rng = torch.Generator().manual_seed(1)
    x, mean, scale = torch.randn(50, 7, generator=rng) * 3, torch.randn(7, generator=rng), torch.rand(7) + 0.5
    network, frozen = random_network(7, 1), torch.randn(50, generator=rng)
    folded = fold_standardisation(network, mean, scale)
    expected = pixel_logits(network, (x - mean) / scale, frozen)
    torch.testing.assert_close(pixel_logits(folded, x, frozen), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(96, 80), (7, 5), (300, 9), (9, 200), (33, 65)])
@pytest.mark.parametrize("name", ["prototype", "hsnet"])
def test_images_of_any_size_are_described(name: str, size: tuple[int, int]) -> None:
    method = small_method(name)
    image = torch.from_numpy(disc(0, size)[0]).permute(2, 0, 1).contiguous()
    basis = fit_basis(method, [image])
    assert [b.block for b in basis] == described_blocks(method.backbone)
    features = image_maps(method, image).project(basis)
    widths = {b.block: len(b.weight) for b in basis}
    deep = sum(widths[block] for blocks in described_by_input(method.backbone) for block in blocks)
    assert features.size == (size[1], size[0])
    assert features.width == 72 + deep
    for part, maps in PARTS.items():
        columns = part_columns(part, features.width)
        assert features.part(maps).width == columns.stop - columns.start
        corner = torch.tensor([0, size[1] - 1]), torch.tensor([0, size[0] - 1])
        torch.testing.assert_close(features.part(maps).at(*corner), features.at(*corner)[:, columns])


def test_components_are_standard_and_uncorrelated() -> None:
    method = small_method()
    images = [torch.from_numpy(disc(n)[0]).permute(2, 0, 1).contiguous() for n in range(3)]
    for basis in fit_basis(method, images):
        maps = [image_maps(method, image).deep[1][basis.block] for image in images]
        tokens = torch.cat([basis.project(m).flatten(1) for m in maps], 1)
        torch.testing.assert_close(tokens.mean(1), torch.zeros(len(tokens)), atol=1e-3, rtol=0)
        covariance = torch.cov(tokens)
        variances = covariance.diagonal()
        assert torch.allclose(covariance, torch.diag(variances), atol=1e-2 * math.sqrt(len(variances)))
        assert (variances.diff() <= 1e-3).all()  # the first components say most
