"""Batch norm folded for inference: the same maps, from weights that are still the network's own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from fewseg.models.backbones import create_backbone
from fewseg.models.backbones.base import FeaturePyramid
from fewseg.models.backbones.folding import foldable_pairs, folded_copy


def pyramid(name: str = "resnet18") -> FeaturePyramid:
    """In float64, with batch norms that do something."""
    torch.manual_seed(0)
    built = create_backbone(name).double()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                assert isinstance(values, Tensor)
                values.data.uniform_(0.5, 1.5)
            for values in (module.bias, module.running_mean):
                assert isinstance(values, Tensor)
                values.data.normal_()
    return built


def image() -> Tensor:
    return torch.randn(1, 3, 64, 64, dtype=torch.double)


def norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def check_equal(ours: FeaturePyramid, x: Tensor) -> None:
    for one, wanted in zip(ours(x), ours.features(x), strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "mobilenetv2_050", "efficientnet_b0", "vgg11_bn"])
def test_folded_maps_are_the_same(name: str) -> None:
    built = pyramid(name)
    before = {k: v.clone() for k, v in built.state_dict().items()}
    with torch.no_grad():
        check_equal(built, image())
    assert norms(built.fast_self().net) == 0 < norms(built.net)
    after = built.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert len(list(built.parameters())) == len(list(built.net.parameters()))


def test_only_convolutions_seen_by_one_norm_alone_are_folded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alone, self.twice, self.shown = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.a, self.b, self.c, self.d, self.e = (nn.BatchNorm2d(3) for _ in range(5))

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.a(self.alone(x))
            x = self.b(self.twice(x)) + self.c(self.twice(x * 2))  # one kernel, two norms
            shown = self.shown(x)
            both = self.shown(x + 1)
            return [shown, self.d(both) + both, self.e(x)]  # both is also used as it is; e follows no convolution

    net = Net().eval()
    x = torch.randn(1, 3, 8, 8)
    assert foldable_pairs(net, lambda: net(x)) == [("alone", "a")]
    folded = folded_copy(net, [("alone", "a")])
    for one, wanted in zip(folded(x), net(x), strict=True):
        torch.testing.assert_close(one, wanted)
    assert folded.get_parameter("twice.weight") is net.twice.weight  # no second copy of what stays


@torch.no_grad()
def test_changed_weights_are_seen() -> None:
    """Loaded, replaced, changed in place, converted and moved back: never the maps of the weights before."""
    built, x = pyramid(), image()
    built(x)
    other = pyramid("resnet18")
    for values in other.net.parameters():
        values.mul_(0.7)
    built.load_state_dict(other.state_dict())
    check_equal(built, x)
    built.load_state_dict(pyramid().state_dict(), assign=True)
    check_equal(built, x)
    next(m for m in built.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1)  # type: ignore[union-attr]
    check_equal(built, x)
    built.to(torch.bfloat16)
    assert built(x.bfloat16())[0].dtype == torch.bfloat16
    check_equal(built.double(), x)  # the rounded weights, not those from before


def test_nothing_is_folded_where_it_would_be_wrong() -> None:
    built, x = pyramid(), image()
    assert built.fast_self() is not built
    built.freeze(False)
    assert built.fast_self() is built
    built(x)[-1].sum().backward()
    assert all(p.grad is not None for p in built.net.parameters())
    built.freeze()
    assert built.fast_self() is not built
    calls = []
    handle = built.net.get_submodule("layer1").register_forward_hook(lambda *_: calls.append(1))
    assert built.fast_self() is built  # the hook would not see another network's modules
    handle.remove()
    assert built.fast_self() is not built


@torch.no_grad()
def test_copies_and_pickles_have_their_own() -> None:
    built, x = pyramid(), image()
    wanted = built(x)
    size = len(pickle.dumps(built))
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        for one, reference in zip(twin(x), wanted, strict=True):
            torch.testing.assert_close(one, reference)
        twin.net.get_parameter("conv1.weight").zero_()
        check_equal(twin, x)
    for one, reference in zip(built(x), wanted, strict=True):
        assert torch.equal(one, reference)
    assert size < 1.1 * len(pickle.dumps(pyramid()))


@torch.no_grad()
def test_maps_come_channels_last_on_a_cpu() -> None:
    maps = create_backbone("resnet18")(torch.randn(2, 3, 64, 64))
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)
