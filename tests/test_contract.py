"""What every method must do, checked on each of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewseg.checkpoints import fingerprint, load_method, save_method
from fewseg.errors import InvalidCheckpoint, InvalidSupport
from fewseg.methods import METHODS, FewShotMethod, create_method
from fewseg.types import SupportSet

BACKBONE = "mobilenetv3_small_050"


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> FewShotMethod:
    torch.manual_seed(0)
    scales = {"prototype": {"scales": (8, 16)}}
    model = create_method(request.param, backbone=BACKBONE, image_size=96, **scales.get(request.param, {}))
    for parameter in model.parameters():  # away from any special start value
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def episode(batch: int, shots: int, size: tuple[int, int] = (96, 96)) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    query = torch.randn(batch, 3, *size, generator=rng)
    images = torch.randn(batch, shots, 3, *size, generator=rng)
    masks = (torch.rand(batch, shots, 6, 6, generator=rng) > 0.5).float()
    masks = torch.nn.functional.interpolate(masks, size, mode="nearest")
    return query, images, masks


@pytest.mark.parametrize(("batch", "shots"), [(3, 1), (2, 4)])
@torch.inference_mode()
def test_batch_equals_loop(method: FewShotMethod, batch: int, shots: int) -> None:
    query, images, masks = episode(batch, shots)
    together = method(query, images, masks)
    assert together.shape == (batch, 2, 96, 96)
    for b in range(batch):
        alone = method(query[b : b + 1], images[b : b + 1], masks[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_one_support_serves_many_queries(method: FewShotMethod) -> None:
    query, images, masks = episode(3, 2)
    support = method.encode_support(images[:1], masks[:1])
    together = method.segment(query, support)
    for b in range(3):
        torch.testing.assert_close(method.segment(query[b : b + 1], support), together[b : b + 1], atol=2e-5, rtol=1e-4)
    features = method.encode_query(query)
    torch.testing.assert_close(method.segment(features, support), together, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_support_is_a_value(method: FewShotMethod, tmp_path) -> None:
    query, images, masks = episode(1, 4)
    whole = method.encode_support(images, masks)
    expected = method.segment(query, whole)
    parts = [method.encode_support(images[:, k : k + 1], masks[:, k : k + 1]) for k in range(4)]
    joined = SupportSet.concatenate(parts)
    assert (joined.shots, joined.batch) == (4, 1)
    torch.testing.assert_close(method.segment(query, joined), expected, atol=2e-5, rtol=1e-4)

    extra = SupportSet.concatenate([parts[1], joined])
    method.segment(query, extra)  # what is derived from all shots must not outlive a change
    torch.testing.assert_close(method.segment(query, extra.drop(0)), expected, atol=2e-5, rtol=1e-4)

    joined.save(tmp_path / "support.safetensors")
    loaded = SupportSet.load(tmp_path / "support.safetensors")
    torch.testing.assert_close(method.segment(query, loaded), expected, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_support_of_another_precision_is_cast(method: FewShotMethod) -> None:
    query, images, masks = episode(1, 2)
    support = method.encode_support(images, masks)
    assert method.segment(query, support.to(dtype=torch.bfloat16)).dtype == torch.float32
    assert method.half().segment(query, support).isfinite().all()


@torch.inference_mode()
def test_the_support_is_not_looked_at_again(method: FewShotMethod) -> None:
    query, images, masks = episode(1, 2)
    expected = method(query, images, masks)
    support = method.encode_support(images, masks)
    images.fill_(torch.nan)
    masks.fill_(0)
    torch.testing.assert_close(method.segment(query, support), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(97, 97), (64, 96), (130, 71)])
@torch.inference_mode()
def test_odd_sizes(method: FewShotMethod, size: tuple[int, int]) -> None:
    assert method(*episode(2, 2, size)).shape == (2, 2, *size)


@torch.inference_mode()
def test_queries_of_another_size_than_the_support(method: FewShotMethod) -> None:
    _, images, masks = episode(1, 2)
    support = method.encode_support(images, masks)
    for size in ((64, 64), (128, 96), (64, 64)):
        assert method.segment(torch.randn(2, 3, *size), support).shape == (2, 2, *size)


@torch.inference_mode()
def test_mask_matters_and_ignored_pixels_are_background(method: FewShotMethod) -> None:
    query, images, masks = episode(1, 1)
    out = method(query, images, masks)
    assert (out - method(query, images, 1 - masks)).abs().max() > 1e-4
    ignored = torch.where(masks == 0, 255.0, masks)
    torch.testing.assert_close(method(query, images, ignored), out, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_bfloat16_is_close(method: FewShotMethod) -> None:
    query, images, masks = episode(1, 2)
    exact = method(query, images, masks)
    low = method.to(torch.bfloat16)(query, images, masks)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().mean() < 0.1 * exact.std() + 0.02


def test_backward_reaches_all_but_the_backbone(method: FewShotMethod) -> None:
    if not list(method.trainable_parameters()):
        pytest.skip(f"{method.name} learns nothing")
    method.train()
    assert not any(module.training for module in method.backbone.modules())
    method(*episode(2, 2)).square().mean().backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


def test_checkpoint_round_trip(method: FewShotMethod, tmp_path) -> None:
    query, images, masks = episode(1, 1)
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


def test_misfits_are_named(method: FewShotMethod, tmp_path) -> None:
    query, images, masks = episode(3, 2)
    with pytest.raises(InvalidSupport, match="masks"):
        method.encode_support(images, masks[:, :1])
    with pytest.raises(InvalidSupport, match="2 support episodes for 3"):
        method.segment(query, method.encode_support(images[:2], masks[:2]))
    other = create_method(method.name, backbone="tiny", image_size=96)
    with pytest.raises(InvalidSupport, match=f"{method.name} over {BACKBONE}.*encode it again"):
        other.segment(query, method.encode_support(images, masks))
    with pytest.raises(InvalidSupport, match="no shot 5"):
        method.encode_support(images, masks).drop(5)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors"):
        load_method(tmp_path)
