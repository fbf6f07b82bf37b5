"""INSID3 beyond the recorded episodes: the positional subspace, masks that are empty, calibration, odd backbones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.core.types import EpisodeTensors
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.methods.contract import episode
from fewseg.models.methods.insid3 import INSID3, INSID3Config
from fewseg.models.methods.insid3.subspace import leading_directions
from fewseg.models.methods.insid3.temperature import fitted_factor
from fewseg.models.ops.clusters import cosine_clusters, cosine_distances, mean_by_cluster
from helpers.invented_scenes import GivenMaps, black_map, scene

GRID, SIZE = (8, 10), (128, 160)


def small() -> FewShotMethod:
    torch.manual_seed(0)
    return create_method("insid3", backbone="vit_tiny_patch16_224", image_size=64, svd_components=4)


def invented(shots: int, **options: float) -> tuple[INSID3, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A method over invented features, and query, images and masks of one episode."""
    shown = [scene(3, f"support.{k}", 32, GRID) for k in range(shots)]
    maps = [tokens for tokens, _ in shown] + [scene(3, "query", 32, GRID)[0]]
    backbone = GivenMaps(black_map(3, 32, GRID), maps)
    method = INSID3(backbone, INSID3Config(image_size=128, svd_components=5, **options)).eval()
    images = torch.stack([backbone.image(k, SIZE) for k in range(shots)])[None]
    return method, backbone.image(shots, SIZE)[None], images, torch.stack([mask for _, mask in shown])[None]


@pytest.mark.parametrize("count", [1, 2, 3, 40, 700])
@pytest.mark.parametrize("similarity", [0.6, 0.9])
def test_clusters_are_scipys(count: int, similarity: float) -> None:
    """The partition of the whole distance matrix, in one piece or in several."""
    rng = torch.Generator().manual_seed(count)
    centres = torch.randn(6, 24, generator=rng)
    places = torch.randint(0, 6, (count,), generator=rng)
    tokens = F.normalize(centres[places] + 0.7 * torch.randn(count, 24, generator=rng), dim=1)
    labels = cosine_clusters(tokens, similarity).tolist()
    assert list(dict.fromkeys(labels)) == list(range(max(labels) + 1))  # numbered by first appearance
    if count == 1:
        return
    whole = (1 - (tokens @ tokens.T).clamp(-1, 1)).numpy()
    upper = whole[np.triu_indices(count, 1)]
    np.testing.assert_allclose(cosine_distances(tokens), upper, rtol=0, atol=1e-6)
    expected = fcluster(linkage(upper.astype(np.float64), "average"), np.nextafter(1 - similarity, 0), "distance")
    together = np.equal.outer(expected, expected)
    np.testing.assert_array_equal(np.equal.outer(labels, labels), together)


def test_means_by_cluster() -> None:
    values, labels = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 1, 0])
    torch.testing.assert_close(mean_by_cluster(values, labels), torch.tensor([[3.0, 3.0], [3.0, 4.0]]))
    torch.testing.assert_close(mean_by_cluster(values[:, 0], labels), torch.tensor([3.0, 3.0]))


def test_the_subspace_is_that_of_the_singular_values() -> None:
    tokens = F.normalize(torch.randn(50, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    basis = leading_directions(tokens, 4)
    vectors = torch.linalg.svd((tokens - tokens.mean(0)).T.double(), full_matrices=False).U[:, :4]
    torch.testing.assert_close(basis @ basis.T, vectors @ vectors.T, rtol=0, atol=1e-6)


def test_no_direction_is_arbitrary() -> None:
    """Fewer than asked for where there are few tokens, or where they vary in few directions."""
    few = F.normalize(torch.randn(6, 32), dim=1)
    assert leading_directions(few, 20).shape == (32, 5)
    plane = F.normalize(torch.cat([torch.randn(40, 3), torch.zeros(40, 29)], 1), dim=1)
    assert leading_directions(plane, 20).shape == (32, 3)
    assert leading_directions(torch.ones(9, 4) / 2, 2).shape == (4, 0)


@torch.inference_mode()
def test_the_subspace_follows_the_weights() -> None:
    method = small()
    query, images, masks = episode(method, 1, 1)
    before = method(query, images, masks)
    other = small()
    with torch.no_grad():
        for weight in [*method.backbone.parameters(), *other.backbone.parameters()]:
            weight.mul_(1.1)
    torch.testing.assert_close(method(query, images, masks), other(query, images, masks), rtol=0, atol=0)
    assert not torch.equal(method(query, images, masks), before)
    assert not [name for name in method.state_dict() if "subspace" in name]
    torch.testing.assert_close(copy.deepcopy(method)(query, images, masks), other(query, images, masks))


@torch.inference_mode()
def test_shots_with_an_empty_mask_are_left_out() -> None:
    method, query, images, masks = invented(3)
    masks[:, 1] = 0
    expected = method(query, images[:, [0, 2]], masks[:, [0, 2]])
    torch.testing.assert_close(method(query, images, masks), expected, rtol=0, atol=0)
    nothing = method(query, images, torch.zeros_like(masks))
    assert nothing.isfinite().all()
    assert not nothing.argmax(1).any()


@torch.inference_mode()
def test_an_image_of_one_token() -> None:
    method = small()
    query, images, masks = episode(method, 1, 1, (16, 16))
    assert method(query, images, masks).isfinite().all()


@torch.inference_mode()
def test_a_threshold_that_nothing_reaches_empties_the_mask() -> None:
    method, query, images, masks = invented(1, merge_threshold=0.99)
    logits = method(query, images, masks)
    assert not logits.argmax(1).any()
    assert float(logits.std()) > 1e-3  # but regions are not equally sure


@torch.inference_mode()
def test_temperature_moves_no_mask() -> None:
    method, query, images, masks = invented(2)
    cold = method(query, images, masks)
    method.temperature.data.fill_(0.5)
    torch.testing.assert_close(method(query, images, masks), cold / 12)
    method.reset_calibration()
    torch.testing.assert_close(method(query, images, masks), cold)


def test_calibration_finds_the_factor() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 200, 200, generator=rng)
    masks = (torch.rand(logits.shape, generator=rng) < (0.4 * logits).sigmoid()).long()
    masks[:, :20] = 255
    assert fitted_factor([(logits, masks)]) == pytest.approx(0.4, rel=0.1)
    assert fitted_factor([]) == 1


def test_calibration_of_the_method() -> None:
    method, query, images, masks = invented(1)
    found = method(query, images, masks).argmax(1)
    right = EpisodeTensors(query, found, images, masks)
    wrong = EpisodeTensors(query, torch.zeros_like(found), images, masks)
    temperature = float(method.temperature)
    method.calibrate([], [(right, right)])
    assert float(method.temperature) > temperature
    method.reset_calibration()
    method.calibrate([], [(right, wrong)])
    assert float(method.temperature) < temperature


def test_impossible_options() -> None:
    with pytest.raises(InvalidOption, match="svd_components 192: vit_tiny_patch16_224 has 192 channels"):
        create_method("insid3", backbone="vit_tiny_patch16_224", svd_components=192)
    with pytest.raises(InvalidOption, match=r"svd_components 2\.5"):
        create_method("insid3", backbone="vit_tiny_patch16_224", svd_components=2.5)
    assert create_method("insid3", backbone="vit_tiny_patch16_224").rank == 94  # 500 of 1024


def test_labels_adapt() -> None:
    """Adaptation uses the backbone's maps and the method's probabilities like any other's."""
    dataset = SyntheticDataset(per_class=6, size=64)
    sizes = {"stem": 4, "thin": 4, "widths": [4, 8], "depths": [1, 1], "strides": [4, 4], "expansions": [2, 2]}
    torch.manual_seed(0)
    method = create_method("foris", backbone="tiny", backbone_options=sizes, image_size=64)
    segmenter = Segmenter(method, device="cpu", precision="float32")
    for image in dataset.names(5)[:3]:
        segmenter.teach("shape", dataset.image(image), dataset.mask(image, 5) == 1)
    report = segmenter.adapt(seconds=0)
    assert 0 <= report["shape"].iou_before <= 1
    found = segmenter.segment(dataset.image(dataset.names(5)[5]))
    assert np.isfinite(found.probabilities["shape"]).all()
