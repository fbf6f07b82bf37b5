"""Batch norm folded into the convolutions before it, in a copy that computes and is never saved.

In eval mode a batch norm is a factor and a shift per channel, which the convolution before it can carry. Whether it may
is read off one run of the network, not off its names: a convolution is folded only if its output goes into one batch
norm and nowhere else.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fewseg.models.backbones.stamp import WeightsStamp

log = logging.getLogger(__name__)

ProbeRun = Callable[[], Iterable[Tensor]]
"""Runs the network on some image and returns its maps."""


_LOOKS = {"__get__", "dim", "size", "stride", "is_contiguous"}
"""Calls that look at a tensor's shape, not at what is in it; `__get__` gets attributes."""


class _Observer(TorchFunctionMode):
    """Notes which convolution feeds which batch norm, and how often every tensor and weight is used."""

    def __init__(self) -> None:
        super().__init__()
        self.convolved: dict[int, tuple[Tensor, Tensor]] = {}  # id of an output: the output and the weight
        self.normalised: list[tuple[Tensor, Tensor]] = []  # input, running mean
        self.uses: Counter[int] = Counter()
        self.alive: list[Tensor] = []  # whatever was counted: the id of a tensor that is gone may be another's

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            return result
        for value in (*args, *kwargs.values()):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor):
                    self.uses[id(tensor)] += 1
                    self.alive.append(tensor)
        if name == "conv2d" and isinstance(result, Tensor):
            self.convolved[id(result)] = (result, args[1] if len(args) > 1 else kwargs["weight"])
        elif name == "batch_norm":
            mean = args[1] if len(args) > 1 else kwargs.get("running_mean")
            if isinstance(mean, Tensor):
                self.normalised.append((args[0] if args else kwargs["input"], mean))
        return result


def foldable_pairs(net: nn.Module, run: ProbeRun) -> list[tuple[str, str]]:
    """Names of the (convolution, batch norm) of `net` that may become one convolution.

    `run` must run `net`, which must be in eval mode.
    """
    convolutions = {id(m.weight): name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    norms = {id(m.running_mean): name for name, m in net.named_modules() if _foldable(m)}
    with torch.no_grad(), _Observer() as seen:
        maps = list(run())
    returned = {id(m) for m in maps}
    weights = Counter(id(weight) for _, weight in seen.convolved.values())
    means = Counter(id(mean) for _, mean in seen.normalised)
    pairs = []
    for x, mean in seen.normalised:
        output, weight = seen.convolved.get(id(x), (None, None))
        if output is None or id(output) in returned or seen.uses[id(x)] != 1:
            continue
        if weights[id(weight)] != 1 or means[id(mean)] != 1:  # one that is run twice could carry only one of the two
            continue
        if id(weight) in convolutions and id(mean) in norms:
            pairs.append((convolutions[id(weight)], norms[id(mean)]))
    return pairs


def _foldable(module: nn.Module) -> bool:
    """Whether it is a batch norm, perhaps with an activation, that uses running statistics in eval mode."""
    return type(module) in (nn.BatchNorm2d, BatchNormAct2d) and cast("nn.BatchNorm2d", module).running_mean is not None


@torch.no_grad()
def folded_copy(net: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """A copy of `net` in which each pair is one convolution; equal to it in eval mode, to rounding.

    What is not folded is shared with `net`: of the rest the copy holds no second one.
    """
    memo: dict[int, Any] = {}
    replaced = {name for pair in pairs for name in pair}
    for name, module in net.named_modules():
        if name not in replaced:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                memo[id(tensor)] = tensor
    copied = copy.deepcopy(net, memo)
    for convolution, norm in pairs:
        _fold(cast("nn.Conv2d", copied.get_submodule(convolution)), cast("nn.BatchNorm2d", net.get_submodule(norm)))
        parent, _, child = norm.rpartition(".")
        setattr(copied.get_submodule(parent), child, _rest(net.get_submodule(norm)))
    return copied.requires_grad_(False) if not any(p.requires_grad for p in net.parameters()) else copied


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let the convolution carry the norm's factor and shift; computed in float64 on the CPU, rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = convolution.weight, convolution.bias
    factor = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * _exact(norm.weight)
    shift = -_exact(norm.running_mean) if bias is None else _exact(bias) - _exact(norm.running_mean)
    shift = shift * factor
    if norm.bias is not None:
        shift = shift + _exact(norm.bias)
    scaled = _exact(weight) * factor.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(scaled.to(weight.dtype).to(weight.device), False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype).to(weight.device), False)


def _exact(values: Tensor) -> Tensor:
    """The values in float64 on the CPU: Apple's GPUs have no such numbers."""
    return values.detach().cpu().double()


def _rest(norm: nn.Module) -> nn.Module:
    """What remains of a norm once folded: nothing, or its activation."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(copy.deepcopy(norm.drop), copy.deepcopy(norm.act))
    return nn.Identity()


@dataclass
class FoldedNet:
    """Keeps the folded copy of a network for as long as the network's weights stay what they were.

    A plain object, no module: neither saved, nor counted, nor moved with the network it belongs to; copies of the
    owner begin without one.
    """

    pairs: list[tuple[str, str]] | None = None
    """What can be folded; None: not looked yet."""
    net: nn.Module | None = None
    stamp: WeightsStamp | None = None
    """The weights that `net` was folded from."""

    def drop(self) -> None:
        self.net = self.stamp = None

    def get(self, net: nn.Module, run: ProbeRun) -> nn.Module | None:
        """The folded copy, made if there is none of these weights; None where nothing can be folded."""
        if self.pairs is None:
            self.pairs = foldable_pairs(net, run)
            log.debug("%d batch norms can be folded", len(self.pairs))
        if not self.pairs:
            return None
        if self.stamp is None or not self.stamp.holds(net):
            self.drop()
            self.stamp = WeightsStamp.of(net)
            if self.stamp is not None:
                with torch.inference_mode(False):
                    self.net = folded_copy(net, self.pairs)
        return self.net

    def __deepcopy__(self, memo: dict[int, Any]) -> FoldedNet:
        return FoldedNet(self.pairs)

    def __reduce__(self) -> tuple[Any, ...]:
        return FoldedNet, (self.pairs,)
