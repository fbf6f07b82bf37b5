"""Checks of the contract that every method keeps (`base.py`): run them on a method of your own.

>>> from fewseg.models.methods import create_method
>>> check_method(create_method("prototype", backbone="tiny", image_size=64))

Images are noise and weights are nudged off any special start value: what is checked is that the method treats
batches, shots and precisions as it must, not that it is any good.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidSupport
from fewseg.core.types import SupportSet
from fewseg.models.methods.base import FewShotMethod


def check_method(method: FewShotMethod) -> None:
    """Run all `CHECKS` on copies of a method on the CPU; raises `AssertionError`, which names the check, at the first
    that fails. A small backbone and a small `image_size` make it quick.
    """
    for check in CHECKS:
        try:
            check(specimen(method))
        except Exception as error:
            raise AssertionError(f"{method.name}: {check.__name__.replace('_', ' ')}: {error}") from error


def specimen(method: FewShotMethod) -> FewShotMethod:
    """A copy in float32 and eval mode on the CPU, its weights a little off where they were."""
    rng = torch.Generator().manual_seed(0)
    made = copy.deepcopy(method).to("cpu", torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.02)
    return made


def episode(method: FewShotMethod, batch: int, shots: int, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
    """Query (B, 3, H, W), support images (B, n, 3, H, W) and masks (B, n, H, W) of noise and blocks."""
    height, width = size or (method.config.image_size,) * 2
    rng = torch.Generator().manual_seed(1)
    query = torch.randn(batch, 3, height, width, generator=rng)
    images = torch.randn(batch, shots, 3, height, width, generator=rng)
    masks = (torch.rand(batch, shots, 6, 6, generator=rng) > 0.5).float()
    return query, images, F.interpolate(masks, (height, width), mode="nearest")


def batch_gives_what_its_items_give(method: FewShotMethod) -> None:
    """For one shot and for several; episodes of a batch never mix."""
    for batch, shots in ((3, 1), (2, 3)):
        query, images, masks = episode(method, batch, shots)
        with torch.inference_mode():
            together = method(query, images, masks)
            _require(together.shape == (batch, 2, *query.shape[2:]), f"logits are {tuple(together.shape)}")
            for b in range(batch):
                _same(together[b : b + 1], method(query[b : b + 1], images[b : b + 1], masks[b : b + 1]))


def one_support_serves_many_queries(method: FewShotMethod) -> None:
    """Query features serve several support sets, too, and neither changes what it was made of."""
    query, images, masks = episode(method, 3, 2)
    with torch.inference_mode():
        support = method.encode_support(images[:1], masks[:1])
        together = method.segment(query, support)
        for b in range(3):
            _same(method.segment(query[b : b + 1], support), together[b : b + 1])
        features = method.encode_query(query)
        other = method.encode_support(images[1:2], masks[1:2])
        _same(method.segment(features, other), method.segment(query, other))
        _same(method.segment(features, support), together)


def the_support_is_not_looked_at_again(method: FewShotMethod) -> None:
    """What was encoded does not change with the images it came from."""
    query, images, masks = episode(method, 1, 2)
    with torch.inference_mode():
        support = method.encode_support(images, masks)
        expected = method.segment(query, support)
        images.fill_(torch.nan)
        masks.fill_(0)
        _same(method.segment(query, support), expected)


def support_is_a_value(method: FewShotMethod) -> None:
    """Shots are joined, dropped, saved and loaded; what is derived from all shots does not outlive a change."""
    query, images, masks = episode(method, 1, 3)
    with torch.inference_mode():
        whole = method.encode_support(images, masks)
        wrong = [k for k, t in whole.tensors.items() if t.shape[:2] != (1, 3)]
        _require(not wrong, f"tensors {wrong} of the support set are not (B, n, ...)")
        expected = method.segment(query, whole)
        parts = [method.encode_support(images[:, k : k + 1], masks[:, k : k + 1]) for k in range(3)]
        joined = SupportSet.concatenate(parts)
        _same(method.segment(query, joined), expected)
        extra = SupportSet.concatenate([parts[1], joined])
        method.segment(query, extra)
        _same(method.segment(query, extra.drop(0)), expected)
        with tempfile.TemporaryDirectory() as folder:
            joined.save(Path(folder) / "support.safetensors")
            _same(method.segment(query, SupportSet.load(Path(folder) / "support.safetensors")), expected)


def any_size_will_do(method: FewShotMethod) -> None:
    """Odd and oblong images, and queries of another size than the support's."""
    side = method.config.image_size
    with torch.inference_mode():
        for size in ((side + 1, side + 1), (2 * side // 3, side), (4 * side // 3, 3 * side // 4 - 1)):
            out = method(*episode(method, 2, 2, size))
            _require(out.shape == (2, 2, *size), f"logits of a {size} query are {tuple(out.shape)}")
            _require(bool(out.isfinite().all()), f"logits of a {size} query are not finite")
        _, images, masks = episode(method, 1, 2)
        support = method.encode_support(images, masks)
        for size in ((2 * side // 3, 2 * side // 3), (4 * side // 3, side), (2 * side // 3, 2 * side // 3)):
            out = method.segment(episode(method, 2, 1, size)[0], support)
            _require(out.shape == (2, 2, *size), f"logits of a {size} query are {tuple(out.shape)}")


def masks_matter(method: FewShotMethod) -> None:
    """Another mask gives other logits; ignored pixels (255) are background; an empty mask is no error."""
    query, images, masks = episode(method, 1, 1)
    with torch.inference_mode():
        out = method(query, images, masks)
        _require(bool((out - method(query, images, 1 - masks)).abs().max() > 1e-4), "the mask changes nothing")
        _same(method(query, images, torch.where(masks == 0, 255.0, masks)), out)
        for value in (0.0, 1.0):
            uniform = method(query, images, torch.full_like(masks, value))
            _require(bool(uniform.isfinite().all()), f"a mask of {value:g} everywhere gives logits that are not finite")


def half_precision(method: FewShotMethod) -> None:
    """bfloat16 is near float32 but for discrete methods, float16 stays finite, and supports of another are cast."""
    query, images, masks = episode(method, 1, 2)
    with torch.inference_mode():
        exact, support = method(query, images, masks), method.encode_support(images, masks)
        kept = method.segment(query, support.to(dtype=torch.bfloat16))
        _require(kept.dtype == torch.float32, f"float32 gives {kept.dtype} with a support set in bfloat16")
        low = method.to(torch.bfloat16)(query, images, masks)
        _require(low.dtype == torch.bfloat16, f"bfloat16 gives {low.dtype}")
        _require(bool(low.isfinite().all()), "logits in bfloat16 are not finite")
        error, spread, size = (float(x) for x in ((low.float() - exact).abs().mean(), exact.std(), exact.abs().mean()))
        allowed = 0.1 * spread + 2**-7 * size  # twice the distance of neighbouring numbers
        _require(
            method.discrete or error < allowed,
            f"bfloat16 is off by {error:.3f} on average; logits of {size:.3f} vary by {spread:.3f}",
        )
        _require(bool(method.half().segment(query, support).isfinite().all()), "logits in float16 are not finite")


def gradients_reach_what_is_trained(method: FewShotMethod) -> None:
    """Every trainable parameter gets a finite gradient, and the frozen backbone none, nor does it leave eval mode."""
    if not list(method.trainable_parameters()):
        return
    method.train()
    _require(not any(m.training for m in method.backbone.modules()), "the backbone left eval mode")
    query, images, masks = episode(method, 2, 2)
    features, support = method.encode_query(query), method.encode_support(images, masks)
    logits = method.segment(features, support)
    extra = method.regulariser(features, support, logits)
    loss = logits.float().square().mean()
    (loss if extra is None else loss + extra).backward()
    for name, parameter in method.named_parameters():
        problem = "gets no gradient" if parameter.requires_grad else "is frozen and gets a gradient"
        _require((parameter.grad is None) != parameter.requires_grad, f"{name} {problem}")
        if parameter.grad is not None:
            _require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")


def misfits_are_named(method: FewShotMethod) -> None:
    """`InvalidSupport` for shapes that do not fit and for support sets of another method or config."""
    query, images, masks = episode(method, 3, 2)
    with torch.inference_mode():
        two = method.encode_support(images[:2], masks[:2])
        _refuses(lambda: method.encode_support(images, masks[:, :1]), "masks for half of the shots")
        _refuses(lambda: method.segment(query, two), "2 support episodes for 3 queries")
        _require(two.encoder == method.support_key, f"its support sets name {two.encoder!r} as their encoder")
        _refuses(lambda: method.segment(query, SupportSet("", two.image_size, two.tensors, "another")), "another's set")


CHECKS: Final[tuple[Callable[[FewShotMethod], None], ...]] = (
    batch_gives_what_its_items_give,
    one_support_serves_many_queries,
    the_support_is_not_looked_at_again,
    support_is_a_value,
    any_size_will_do,
    masks_matter,
    half_precision,
    gradients_reach_what_is_trained,
    misfits_are_named,
)
"""What `check_method` runs; each takes a method that it may change."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _same(found: Tensor, expected: Tensor) -> None:
    """Equal but for the order of sums."""
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def _refuses(act: Callable[[], object], what: str) -> None:
    try:
        act()
    except InvalidSupport:
        return
    raise AssertionError(f"{what}: expected InvalidSupport")
