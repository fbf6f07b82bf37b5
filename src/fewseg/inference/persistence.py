"""What `Segmenter.save` writes, one file of encoded examples, and how `Segmenter.load` makes a segmenter of it again.

Neither images nor the model's weights are in the file, only where the model came from and its fingerprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from fewseg.core.errors import InvalidCheckpoint, one_line
from fewseg.core.files import write_bytes
from fewseg.core.types import SupportSet
from fewseg.inference.model import InferenceModel
from fewseg.inference.supports import LabelSupport
from fewseg.models.checkpoints import load_method, load_official
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import PresenceScale

_KEY: Final = "fewseg.segmenter"
_VERSION: Final = 1

_Model = TypeVar("_Model", bound=InferenceModel)


def save_segmenter(model: InferenceModel, supports: Mapping[str, LabelSupport], path: str | os.PathLike[str]) -> None:
    """`Segmenter.save`."""
    about = {
        "method": model.method.name,
        "model": model.source,
        "fingerprint": model.model_fingerprint,
        "scales": model.tta_scales,
        "flips": model.tta_flip,
        "presence_threshold": model.presence_threshold,
        "presence_scale": model.presence_scale,
    }
    write_supports(path, supports, about)


def load_segmenter(
    kind: type[_Model], path: str | os.PathLike[str], method: FewShotMethod | None, options: Mapping[str, Any]
) -> tuple[_Model, dict[str, LabelSupport]]:
    """`Segmenter.load`: a model of that `kind`, its `options` as saved where they are None, and what was taught."""
    name = os.fspath(path)
    supports, about = read_supports(path)
    source = None
    if method is None:
        source = about["model"]
        method = find_model(source, name)
    chosen = {**options, "tta_scales": about["scales"]}
    if chosen["tta_flip"] is None:
        chosen["tta_flip"] = about["flips"]
    model = kind(method, **chosen)
    # On another scale the same number would mean something else.
    if chosen["presence_threshold"] is None and model.presence_scale == PresenceScale(*about["presence_scale"]):
        model.presence_threshold = about["presence_threshold"]
    model.source = source
    if model.model_fingerprint != about["fingerprint"]:
        raise InvalidCheckpoint(
            f"{name} was taught with another model than {source['name'] if source else 'the given one'} "
            f"({about['method']}, fingerprint {about['fingerprint']}, not {model.model_fingerprint}): "
            "load it with that model, or teach again"
        )
    if any(len(support.sets) != len(model.input_sizes) for support in supports.values()):  # sizes may coincide
        raise InvalidCheckpoint(f"{name} has examples for other input sizes than its scales: teach again")
    device, dtype = model.method.device, model.method.dtype
    return model, {label: support.to(device, dtype) for label, support in supports.items()}


def find_model(source: Mapping[str, str] | None, path: str) -> FewShotMethod:
    """The model that the file at `path` says it was taught with; raises `InvalidCheckpoint`."""
    if source is None:
        raise InvalidCheckpoint(f"{path} does not say which model it belongs to: pass it, load(path, method=...)")
    try:
        if "official" in source:
            return load_official(source["name"], source.get("method", "dcama"), source["official"])
        return load_method(source["name"])
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"the model of {path} is not there any more: {error}; or pass method=...") from error


def write_supports(
    path: str | os.PathLike[str], supports: Mapping[str, LabelSupport], about: Mapping[str, Any]
) -> None:
    """Write the labels, and JSON values about them, to a safetensors file, atomically; raises `OutputError`."""
    tensors = {
        f"{i}.{j}.{name}": tensor.clone(memory_format=torch.contiguous_format).cpu()  # labels may share examples
        for i, support in enumerate(supports.values())
        for j, encoded in enumerate(support.sets)
        for name, tensor in encoded.tensors.items()
    }
    labels = [
        {
            "label": label,
            "digests": support.digests,
            "image_sizes": [s.image_size for s in support.sets],
            "encoders": [s.encoder for s in support.sets],
        }
        for label, support in supports.items()
    ]
    metadata = {_KEY: json.dumps({"version": _VERSION, **about, "labels": labels})}
    write_bytes(path, serialise(tensors, metadata))


def read_supports(path: str | os.PathLike[str]) -> tuple[dict[str, LabelSupport], dict[str, Any]]:
    """What `write_supports` wrote; raises `InvalidCheckpoint` for any other file."""
    name = os.fspath(path)
    if not Path(name).is_file():
        raise InvalidCheckpoint(f"{name}: no such file; give one that Segmenter.save wrote")
    try:
        with safe_open(name, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        if about and about["version"] != _VERSION:
            raise InvalidCheckpoint(f"{name} was saved by another version of fewseg: teach again, or update")
        return _grouped(about, tensors), _checked(about)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise InvalidCheckpoint(
            f"{name} is not a saved segmenter, or damaged ({one_line(error)}): give one that Segmenter.save wrote"
        ) from error


def _grouped(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, LabelSupport]:
    """Tensors by label and input size; raises whatever JSON of another shape makes it raise."""
    grouped: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        label, size, tensor_name = key.split(".", 2)
        grouped.setdefault((int(label), int(size)), {})[tensor_name] = tensor
    supports = {}
    for i, entry in enumerate(about["labels"]):
        sets = tuple(
            SupportSet(about["method"], (int(side[0]), int(side[1])), grouped[i, j], encoder)
            for j, (side, encoder) in enumerate(zip(entry["image_sizes"], entry["encoders"], strict=True))
        )
        digests = tuple(entry["digests"])
        if not sets or len(sets) != len(about["labels"][0]["encoders"]) or any(s.shots != len(digests) for s in sets):
            raise ValueError(f"the examples of {entry['label']!r} are incomplete")
        supports[str(entry["label"])] = LabelSupport(sets, digests)
    return supports


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    """The values that `read_supports` hands on, if they fit; raises `LookupError` or `TypeError`."""
    kinds: dict[str, type | tuple[type, ...]]
    kinds = {"method": str, "fingerprint": str, "flips": bool, "scales": list, "presence_threshold": (int, float)}
    about.setdefault("presence_scale", [1.0, 0.0])  # files from before there were any
    wrong = [key for key, kind in kinds.items() if not isinstance(about[key], kind)]
    source = about["model"]
    if source is not None and not isinstance(source["name"], str):
        wrong.append("model")
    scale = about["presence_scale"]
    if not isinstance(scale, list) or len(scale) != 2 or not all(isinstance(v, (int, float)) for v in scale):
        wrong.append("presence_scale")
    if wrong:
        raise TypeError(f"unexpected value of {wrong[0]}")
    return about
