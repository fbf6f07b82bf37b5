"""From a name and, if wanted, weights to a frozen feature pyramid."""

from __future__ import annotations

import ast
import logging
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint, InvalidOption, unknown
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.backbones.base import ALL_MAPS, BackboneSpec, FeaturePyramid, MapChoice
from fewseg.models.backbones.deep_resnet import DeepResNetPyramid, timm_stem_names
from fewseg.models.backbones.names import NAMED_BACKBONES, PAPER_BACKBONES
from fewseg.models.backbones.published import published_weights
from fewseg.models.backbones.timm_pyramid import TransformerPyramid, build_timm_pyramid, pretrained_config
from fewseg.models.backbones.tiny import TinyPyramid
from fewseg.models.backbones.vgg import VGG16Pyramid

log = logging.getLogger(__name__)

_STAGE_OUTPUTS = {"resnet50_deep_dilated", "resnet101_deep_dilated"}
"""Those that yield one map a stage, after its last ReLU (SCCAN)."""

NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
}
"""Pixel scalings by name; `half` maps [0, 1] to [-1, 1]."""

_METADATA_NORMALISATIONS = {"mean=std=0.5": "half"}


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    pretrained_name: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    normalisation: str | None = None,
    maps: MapChoice = ALL_MAPS,
    transformer_maps: MapChoice | None = None,
) -> FeaturePyramid:
    """A frozen pyramid with random weights, published weights, or weights from a local file.

    Args:
        name: `resnet50`, `dinov3-large`, ... (`NAMED_BACKBONES`), `tiny` or any timm model name.
        pretrained: use the published weights, downloaded where they are not here yet (`published.py`).
        pretrained_name: timm's name of these weights, where not those that the backbone usually has.
        weights: a local `.safetensors` or PyTorch file instead; its metadata may name constructor options (`kwargs`)
            and the scaling (`norm`), which then need not be given.
        options: keyword arguments for the model's constructor, e.g. `{"pad_type": "same"}`.
        normalisation: scaling that the weights expect: `imagenet`, `half` or `none`; if not given, what the file or
            timm says.
        maps: which maps to give.
        transformer_maps: which of a plain transformer's instead, if given.

    Raises:
        InvalidOption: unknown name, option, scaling or layer.
        InvalidCheckpoint: the weights cannot be read or do not fit.
    """
    timm_name, defaults = NAMED_BACKBONES.get(name, (name, {}))
    if name != "tiny" and timm_name.split(".")[0] not in timm.list_models():
        raise unknown("backbone", name, [*NAMED_BACKBONES, "tiny", *timm.list_models()])
    if normalisation is not None and normalisation not in NORMALISATIONS:
        raise unknown("normalisation", normalisation, NORMALISATIONS)
    state, metadata = read_weights(weights) if weights is not None else ({}, {})
    merged = {**defaults, **_metadata_options(metadata), **(options or {})}
    mean, std = _scaling(name, timm_name, normalisation or _METADATA_NORMALISATIONS.get(metadata.get("norm", "")))
    pyramid = _all_maps(BackboneSpec(name, merged, mean, std))
    plain = isinstance(pyramid, TransformerPyramid)
    pyramid.choose_maps(maps if transformer_maps is None or not plain else transformer_maps)
    if weights is not None:
        load_backbone_weights(pyramid, state, source=os.fspath(weights))
    elif pretrained:
        load_published_weights(pyramid, pretrained_name)
    else:
        log.info("backbone %s has random weights: give pretrained=True or backbone_weights=PATH", name)
    return pyramid


def build_pyramid(spec: BackboneSpec) -> FeaturePyramid:
    """The architecture of a spec, weights random."""
    return _all_maps(spec).choose_maps(spec.maps)


def _all_maps(spec: BackboneSpec) -> FeaturePyramid:
    """A pyramid that gives every block's map."""
    if spec.name == "tiny":
        return TinyPyramid(spec)
    if spec.name == "vgg16_convolutions":
        return VGG16Pyramid(spec)
    timm_name = NAMED_BACKBONES.get(spec.name, (spec.name, {}))[0]
    if spec.name in _STAGE_OUTPUTS:
        return DeepResNetPyramid(spec, timm_name)
    return build_timm_pyramid(spec, timm_name)


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict and its metadata; PyTorch files are unpickled with `weights_only=True`.

    Raises `InvalidCheckpoint` for files that are missing, broken or hold something else.
    """
    try:
        if os.fspath(path).endswith(".safetensors"):
            with safe_open(path, "pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InvalidCheckpoint(f"{os.fspath(path)}: no such file") from error
    except pickle.UnpicklingError as error:
        raise InvalidCheckpoint(
            f"{os.fspath(path)} holds more than tensors, or is no PyTorch file: not opened"
        ) from error
    except Exception as error:  # readers of damaged files raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InvalidCheckpoint(f"{os.fspath(path)} is not a readable checkpoint ({reason}): get it again") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise InvalidCheckpoint(f"{os.fspath(path)} holds no state dict: expected parameter names and tensors")
    return strip_prefix(state, "module."), {}


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Without `prefix` where every name has it (`module.` of data-parallel training)."""
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def load_backbone_weights(pyramid: FeaturePyramid, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a pyramid by name; every parameter must come, and nothing but a classifier may be left over."""
    net = pyramid.net
    wanted = net.state_dict()
    given = timm_stem_names(state) if isinstance(pyramid, DeepResNetPyramid) else dict(state)
    known = wanted.keys() <= given.keys() and all(k in wanted or _is_classifier(k) for k in given)
    if not known:
        module = sys.modules[type(net).__module__]
        convert = getattr(module, "checkpoint_filter_fn", None)  # timm's own, for the names of original releases
        if convert is not None:
            given = dict(convert(given, net))
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    shapes = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    extra = [k for k in given if k not in wanted and not _is_classifier(k)]
    for problem, keys in (("lacks", missing), ("has other shapes for", shapes), ("has unknown", extra)):
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise InvalidCheckpoint(
                f"{source or 'state dict'} does not fit backbone {pyramid.name}: it {problem} {shown}"
            )
    net.load_state_dict({k: given.get(k, wanted[k]) for k in wanted})


def _is_classifier(key: str) -> bool:
    """Parameters after the last block, which no pyramid keeps."""
    return key.split(".")[0] in {
        "classifier",
        "head",
        "head_dist",
        "fc",
        "conv_head",
        "bn2",
        "norm",
        "fc_norm",
        "norm_head",
        "pre_logits",
    }


def _metadata_options(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Constructor options written in a file's metadata as `a='b',c=(0, 1)`; literals only."""
    text = metadata.get("kwargs", "")
    if not text:
        return {}
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        return {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise InvalidCheckpoint(f"the weights' metadata has options that cannot be read: {text}") from error


def _scaling(name: str, timm_name: str, normalisation: str | None) -> tuple[Any, Any]:
    if normalisation is not None:
        return NORMALISATIONS[normalisation]
    if name == "tiny" or name in PAPER_BACKBONES:
        return NORMALISATIONS["imagenet"]
    config = pretrained_config(timm_name)
    return (config.mean, config.std) if config is not None else NORMALISATIONS["imagenet"]


def load_published_weights(pyramid: FeaturePyramid, pretrained_name: str | None = None) -> None:
    """Fill a pyramid with its published weights, or those of timm's name, downloaded where they are not here yet.

    Raises `InvalidCheckpoint` where they cannot be had, `InvalidOption` where nobody has published any.
    """
    timm_name = pretrained_name or NAMED_BACKBONES.get(pyramid.name, (pyramid.name, {}))[0]
    if pyramid.name == "tiny":
        raise InvalidOption(
            "the tiny backbone's weights come with the default model's: use that, or give backbone weights of your own"
        )
    file = published_weights(timm_name).fetched()
    if pyramid.spec.options.get("features_only"):  # whose parameters have other names
        staged = timm.create_model(
            timm_name, pretrained=True, pretrained_cfg_overlay={"file": os.fspath(file)}, **pyramid.spec.options
        )
        pyramid.net.load_state_dict(staged.state_dict())
        return
    load_backbone_weights(pyramid, read_weights(file)[0], source=os.fspath(file))
