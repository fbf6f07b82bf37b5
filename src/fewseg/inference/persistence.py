"""What `Segmenter.save` writes, one file of encoded examples, and how `Segmenter.load` makes a segmenter of it again.

Neither images nor the model's weights are in the file, only where the model came from and its fingerprint.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from fewseg.core.errors import InvalidCheckpoint, InvalidSupport, one_line
from fewseg.core.objects import KINDS, Kind
from fewseg.core.tensor_files import read_tensors, write_tensors
from fewseg.core.types import SupportSet
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.model import InferenceModel
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.supports import LabelSupport, check_label
from fewseg.models.checkpoints import load_official, open_model
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import PresenceScale

_KEY: Final = "fewseg.segmenter"
_VERSION: Final = 1
_ADAPTED: Final = "adapted"
"""In the name of a tensor, in place of an input size: it belongs to the label's adaptation."""

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
    check_fits(model, supports, name)
    device, dtype = model.method.device, model.method.dtype
    return model, {label: support.to(device, dtype) for label, support in supports.items()}


def find_model(source: Mapping[str, str] | None, path: str) -> FewShotMethod:
    """The model that the file at `path` says it was taught with; raises `InvalidCheckpoint`."""
    if source is None:
        raise InvalidCheckpoint(f"{path} does not say which model it belongs to: pass it, load(path, method=...)")
    try:
        if "official" in source:
            return load_official(source["name"], source.get("method", "dcama"), source["official"])
        return open_model(source["name"])
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
    for i, support in enumerate(supports.values()):
        fitted = support.adaptation.tensors() if support.adaptation else {}
        tensors |= {f"{i}.{_ADAPTED}.{name}": t.clone().cpu().contiguous() for name, t in fitted.items()}
    labels = [
        {
            "label": label,
            "digests": support.digests,
            "image_sizes": [s.image_size for s in support.sets],
            "encoders": [s.encoder for s in support.sets],
            **({} if support.presence_threshold is None else {"presence_threshold": support.presence_threshold}),
            **({"adaptation": support.adaptation.about} if support.adaptation else {}),
            "objects": [one.as_json() if one else None for one in support.objects],
            **({"kind": support.kind} if support.kind else {}),
        }
        for label, support in supports.items()
    ]
    write_tensors(path, tensors, {_KEY: json.dumps({"version": _VERSION, **about, "labels": labels})})


def read_supports(path: str | os.PathLike[str]) -> tuple[dict[str, LabelSupport], dict[str, Any]]:
    """What `write_supports` wrote; raises `InvalidCheckpoint` for any other file, and a damaged one."""
    name = os.fspath(path)
    if not Path(name).is_file():
        raise InvalidCheckpoint(f"{name}: no such file; give one that Segmenter.save wrote")
    tensors, metadata = read_tensors(path, "saved segmenter")
    try:
        about = json.loads(metadata.get(_KEY, "null"))
        if about and about["version"] != _VERSION:
            raise InvalidCheckpoint(f"{name} was saved by another version of fewseg: teach again, or update")
        return _grouped(about, tensors), _checked(about)
    except (InvalidSupport, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidCheckpoint(
            f"{name} is not a saved segmenter, or damaged ({one_line(error)}): give one that Segmenter.save wrote"
        ) from error


def _grouped(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, LabelSupport]:
    """Tensors by label and input size; raises whatever JSON of another shape makes it raise."""
    grouped: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
    adapted: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        label, size, tensor_name = key.split(".", 2)
        if size == _ADAPTED:
            adapted.setdefault(int(label), {})[tensor_name] = tensor
            continue
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
        check_label(entry["label"])
        fitted = AdaptedLabel.from_tensors(adapted[i], entry["adaptation"]) if "adaptation" in entry else None
        supports[entry["label"]] = LabelSupport(
            sets, digests, _threshold_of(entry), adaptation=fitted, objects=_objects_of(entry), kind=_kind_of(entry)
        )
    return supports


def check_fits(model: InferenceModel, supports: Mapping[str, LabelSupport], name: str) -> None:
    """Raise `InvalidCheckpoint` where the file `name` holds what the model cannot have made."""
    side = max(model.input_sizes)
    made = model.encode_example(torch.full((3, side, side), 0.5), torch.ones(side, side))
    for label, support in supports.items():
        for encoded, pattern in zip(support.sets, made.sets, strict=True):
            if wrong := _misfit(encoded, pattern):
                raise InvalidCheckpoint(f"the examples of {label[:100]!r} in {name} are damaged, {wrong}: teach again")
        if support.adaptation and (wrong := support.adaptation.misfit(model.method.backbone)):
            raise InvalidCheckpoint(f"the adaptation of {label[:100]!r} in {name} is damaged, {wrong}: teach again")


def _misfit(encoded: SupportSet, pattern: SupportSet) -> str:
    """What is wrong with an encoded example beside one that the model made; empty where nothing is."""
    if (encoded.encoder, encoded.image_size) != (pattern.encoder, pattern.image_size):
        return f"encoded by {encoded.encoder[:60]!r} at {encoded.image_size}"
    if missing := pattern.tensors.keys() - encoded.tensors.keys():
        return f"without {', '.join(sorted(missing))}"
    if further := encoded.tensors.keys() - pattern.tensors.keys():
        return f"with an unknown {min(further)[:60]}"
    for key, expected in pattern.tensors.items():
        tensor = encoded.tensors[key]
        if tensor.shape[:1] != (1,) or tensor.shape[2:] != expected.shape[2:]:
            return f"{key} has another shape"
        if tensor.is_floating_point() != expected.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            return f"{key} has values that are no numbers"
    return ""


def _objects_of(entry: Mapping[str, Any]) -> tuple[ExampleObjects | None, ...]:
    """The measures of objects of each example, none in files from before there were any.

    Raises `LookupError`, `TypeError` or `ValueError` for anything else.
    """
    listed = entry.get("objects") or ()
    if len(listed) not in (0, len(entry["digests"])):
        raise ValueError("measures of objects of other examples")
    return tuple(None if one is None else ExampleObjects.from_json(one) for one in listed)


def _kind_of(entry: Mapping[str, Any]) -> Kind | None:
    """The kind that was set for a label, None without; raises `ValueError`."""
    kind = entry.get("kind")
    if kind not in (None, *KINDS):
        raise ValueError(f"a kind {kind!r:.40}")
    return kind


def _threshold_of(entry: Mapping[str, Any]) -> float | None:
    """The presence threshold that was fitted to a label, None without; raises `ValueError`."""
    value = entry.get("presence_threshold")
    if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ValueError(f"a presence threshold of {value!r}")
    return value


def _checked(about: dict[str, Any]) -> dict[str, Any]:
    """The values that `read_supports` hands on, if they fit; raises `LookupError`, `TypeError` or `ValueError`."""
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
    if not 0 <= about["presence_threshold"] <= 1 or not all(map(math.isfinite, scale)):
        raise ValueError("a presence threshold or scale that is none")
    if not about["scales"] or not all(isinstance(v, (int, float)) and 0.1 <= v <= 8 for v in about["scales"]):
        raise ValueError("input scales that are none")
    return about
