"""The checkpoints that the papers' authors released, by a strict name map."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint, InvalidOption, unknown
from fewseg.models.backbones.create import read_weights, strip_prefix
from fewseg.models.backbones.deep_resnet import DEEP_STEM
from fewseg.models.checkpoints.released_order import dcama_names, renamed_by_order
from fewseg.models.methods import FewShotMethod, create_method

log = logging.getLogger(__name__)

_BUFFERS = re.compile(r"\.(num_batches_tracked|relative_position_index|attn_mask)$|^model\.pe\.\d+\.pe$")
"""Values that follow from the architecture; they are computed, not read."""

_Names = tuple[tuple[str, Callable[[re.Match[str]], str]], ...]

_DCAMA_NAMES: _Names = (
    (r"^feature_extractor\.layers\.(\d)\.downsample\.", lambda m: f"backbone.net.layers.{int(m[1]) + 1}.downsample."),
    (r"^feature_extractor\.", lambda _: "backbone.net."),
    (r"^model\.DCAMA_blocks\.(\d)\.linears\.0\.", lambda m: f"attention.{8 << int(m[1])}.query.@."),
    (r"^model\.DCAMA_blocks\.(\d)\.linears\.1\.", lambda m: f"attention.{8 << int(m[1])}.support.@."),
    (r"^model\.conv([123])\.", lambda m: f"decoder.vote.{64 >> int(m[1])}."),
    (r"^model\.conv([45])\.", lambda m: f"decoder.merge.{256 >> int(m[1])}."),
    (r"^model\.mixer", lambda _: "decoder.mixer"),
)
"""Released name to ours; `@` stands for the width of the block, read off the tensor."""


def _hsnet_layer(match: re.Match[str]) -> str:
    """Convolutions, normalisation and ReLU of a block are three layers of the release, one module here."""
    coarser, stage, index, layer = match.groups()
    part = "mix" if coarser else "squeeze"
    ours = {"conv1.": "query.", "conv2.": "support.", None: "norm."}[layer]
    return f"{part}.{2 << int(stage)}.{int(index) // 3}.{ours}"


_HSNET_NAMES: _Names = (
    (r"^backbone\.", lambda _: "backbone.net."),
    (r"^hpn_learner\.encoder_layer(\dto)?(\d)\.(\d)\.(conv[12]\.)?", _hsnet_layer),
    (r"^hpn_learner\.", lambda _: ""),
)

_STREAMS = {"q": "query", "s": "support"}
_SCCAN_NAMES: _Names = (
    (r"^backbone\.body\.((conv|bn)[123]\.)", lambda m: f"backbone.net.{DEEP_STEM[m[1]]}"),
    (r"^backbone\.body\.", lambda _: "backbone.net."),
    (r"^down_query\.0\.", lambda _: "down_query."),
    (r"^down_supp\.0\.", lambda _: "down_support."),
    (r"^init_merge_query\.0\.", lambda _: "merge_query."),
    (r"^init_merge_supp\.0\.", lambda _: "merge_support."),
    (r"^transformer\.layers\.0\.(blocks\.\d\.)attn_([qs])\.", lambda m: f"transformer.{m[1]}{_STREAMS[m[2]]}."),
    (
        r"^transformer\.layers\.0\.(blocks\.\d\.)mlp_([qs])\.fc([12])\.",
        lambda m: f"transformer.{m[1]}{_STREAMS[m[2]]}.mlp.{2 * int(m[3]) - 2}.",
    ),
    (r"^transformer\.layers\.0\.", lambda _: "transformer."),
    (r"^transformer\.norm0\.", lambda _: "transformer.norm."),
    (r"^ASPP_meta\.layer6_(\d)\.0\.", lambda m: f"head.branches.{m[1]}."),
    (r"^res1_meta\.0\.", lambda _: "head.reduce."),
    (r"^res2_meta\.", lambda _: "head.refine."),
    (r"^cls_meta\.", lambda _: "head.classify."),
)

_DROPPED = re.compile(
    r"^(feature_extractor|backbone)\.(fc|head|norm|classifier)\.|^transformer\.layers\.0\.blocks\.7\.(attn_s|mlp_s)\."
)
"""What the method does not use: the classifier, and SCCAN's support after the last block."""


def load_official(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    method: str = "dcama",
    backbone: str = "resnet50",
    *,
    allow_order: bool = False,
    **config: Any,
) -> FewShotMethod:
    """The authors' released weights as one of our methods, in eval mode.

    Args:
        source: the released file (opened with `weights_only=True`) or its state dict, names with or without `module.`.
        method: `dcama`, `hsnet` or `sccan`.
        backbone: `resnet50`, `resnet101`, of DCAMA `swin_b`, of HSNet `vgg16`; the one the file was trained with.
        allow_order: read a file of DCAMA whose names are not the released ones by the order of its tensors, as its test
            script does. Shapes are compared; two tensors of one shape that changed places are not noticed.
        config: fields of the method's config to set otherwise than published.

    Raises:
        InvalidOption: unknown method or backbone, or `allow_order` with another method than DCAMA.
        InvalidCheckpoint: the file cannot be read, or a name or shape differs.
    """
    if method not in _READERS:
        raise unknown("method with released weights", method, _READERS)
    if backbone not in RELEASED[method]:
        raise unknown(f"backbone with released weights of {method}", backbone, RELEASED[method])
    if isinstance(source, Mapping):
        state, name = strip_prefix(source, "module."), "the state dict"
    else:
        state, name = read_weights(source)[0], os.fspath(source)
    what = f"{name} as {method} over {backbone}"
    if method == "dcama":
        state = _dcama_named(state, backbone, allow_order, what)
    elif allow_order:
        raise InvalidOption(f"allow_order is for files of dcama, {method}'s code reads by name: leave it out")
    if (method, backbone) == ("hsnet", "resnet101") and "support_masking" not in config:
        log.warning(
            "%s: HSNet's release has files without support masking under the same names; read as one with it: give "
            "support_masking=False if it is one without, support_masking=True to leave out this line",
            name,
        )
    model = create_method(method, backbone=backbone, **config)
    _load_strictly(model, dict(_renamed(state, _READERS[method])), what)
    return model


def _dcama_named(state: dict[str, Tensor], backbone: str, allow_order: bool, what: str) -> dict[str, Tensor]:
    """The state by the released names: as it is, or where these are not all there and it is allowed, by the order."""
    names = dcama_names(backbone)
    used = {name for name in names if not _unused(name)}
    if used <= state.keys():
        return state
    if allow_order:
        return renamed_by_order(state, names, what)
    if len(state) == len(names) and not used & state.keys():
        raise InvalidCheckpoint(
            f"{what} does not fit: it has as many tensors as the release, by other names; allow_order=True reads them "
            "by their order"
        )
    return state


def _unused(key: str) -> bool:
    return bool(_DROPPED.search(key) or _BUFFERS.search(key))


def _renamed(state: Mapping[str, Tensor], names: _Names) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if _unused(key):
            continue
        for pattern, rename in names:
            match = re.match(pattern, key)
            if match:
                yield (rename(match) + key[match.end() :]).replace("@", str(value.shape[-1])), value
                break
        else:
            yield key, value


_READERS = {"dcama": _DCAMA_NAMES, "hsnet": _HSNET_NAMES, "sccan": _SCCAN_NAMES}

RELEASED = {
    "dcama": ("resnet50", "resnet101", "swin_b"),
    "hsnet": ("resnet50", "resnet101", "vgg16"),
    "sccan": ("resnet50", "resnet101"),
}
"""Backbones that each method's authors released weights for, as far as they are read here."""


def _load_strictly(model: FewShotMethod, state: dict[str, Tensor], what: str) -> None:
    own = model.state_dict()
    missing = [k for k in own if k not in state and not _BUFFERS.search(k)]
    extra = [k for k in state if k not in own]
    shapes = [k for k in state if k in own and state[k].shape != own[k].shape]
    for problem, keys in (("lacks", missing), ("has unknown", extra), ("has other shapes for", shapes)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise InvalidCheckpoint(
                f"{what} does not fit: it {problem} {', '.join(keys[:3])}{more}; "
                "is it the release of this method and backbone?"
            )
    model.load_state_dict({**own, **state})
