"""Our own checkpoints: one safetensors file with the weights and, in its metadata, all that builds the method again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fewseg.core.errors import InvalidCheckpoint, did_you_mean
from fewseg.core.tensor_files import read_tensors, write_tensors
from fewseg.models.backbones import BackboneSpec
from fewseg.models.methods import FewShotMethod, build_method
from fewseg.models.methods.saved_names import first_identity, first_key, upgraded, upgraded_state
from fewseg.models.presence import PresenceScale
from fewseg.models.zoo import ZOO

FILE_NAME = "model.safetensors"
"""Name within a folder or on the hub."""
BEST = "best.safetensors"
"""The checkpoint to use of those in a training run's folder."""

EMBEDDED = {"default": Path(__file__).parent.parent / "weights" / "default.safetensors"}
"""Models that the package carries."""

_KEY = "fewseg.method"


def save_method(
    method: FewShotMethod,
    path: str | os.PathLike[str],
    *,
    extra: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a method, backbone included, atomically.

    Args:
        method: what to save.
        path: the file; its folder must exist.
        extra: JSON values to keep beside the weights; `method.extra` if not given.
        dtype: floating-point type to store, e.g. `torch.float16` to halve the file.

    Raises:
        OutputError: the file cannot be written; an older one stays as it was.
    """
    about = {
        "method": method.name,
        "config": dataclasses.asdict(method.config),
        "backbone": method.backbone.spec.to_json(),
        "extra": method.extra if extra is None else extra,
    }
    tensors = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None)
        for key, value in method.state_dict().items()
    }
    write_tensors(path, tensors, {_KEY: json.dumps(about)})


def load_method(
    source: str | os.PathLike[str] = "default",
    device: torch.device | str | None = None,
    *,
    image_size: int | None = None,
) -> FewShotMethod:
    """A saved method in eval mode, float32.

    Args:
        source: `default` (the embedded model), a file, a folder with `model.safetensors`, or a hub id `user/name`.
        device: where to put it.
        image_size: side of the square input, pixels; the saved one if not given.

    Raises:
        InvalidCheckpoint: it cannot be found or read, is damaged, or is not a fewseg checkpoint.
        InvalidOption: the method cannot work at that size.
    """
    path = locate(source)
    state, metadata = read_tensors(path)
    if _KEY not in metadata:
        raise InvalidCheckpoint(f"{path} is not a fewseg checkpoint; an authors' release is read by load_official")
    try:
        about = json.loads(metadata[_KEY])
        name, config = upgraded(about["method"], about["config"])
        config = config if image_size is None else {**config, "image_size": image_size}
        method = build_method(name, BackboneSpec.from_json(about["backbone"]), config)
        state = upgraded_state(name, state)
        if wrong := [key for key, value in state.items() if not torch.isfinite(value).all()]:
            raise ValueError(f"{wrong[0]} has values that are no numbers")
        method.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        method.extra = dict(about.get("extra", {}))
        PresenceScale.of(method.extra)
        float(method.extra.get("presence_threshold", 0))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]
        raise InvalidCheckpoint(
            f"{path} does not fit this version of fewseg ({reason}): train it again, or use the version that made it"
        ) from error
    return method.to(device) if device is not None else method


def lasting_name(model: str | os.PathLike[str]) -> str:
    """The model's name, or for a path the absolute one, which still holds when the working directory has changed."""
    return str(Path(model).resolve()) if Path(model).exists() else os.fspath(model)


def locate(source: str | os.PathLike[str]) -> Path:
    """The file behind a name, folder, file or hub id."""
    name = os.fspath(source)
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name)
    if path.is_dir():
        names = (FILE_NAME, BEST)
        path = next((path / file for file in names if (path / file).is_file()), path / FILE_NAME)
    if path.is_file():
        return path
    parts = name.split("/")
    # What lies in a folder that is here was meant to be here: asking the hub takes half a minute without a network.
    here = len(parts) == 2 and path.parent.is_dir()
    if here or len(parts) != 2 or path.suffix in (".safetensors", ".pt", ".pth", ".bin") or not all(parts):
        raise InvalidCheckpoint(
            f"no checkpoint {name}{_like(path)}: give a file, a folder with {FILE_NAME} or {BEST}, a hub id, or a name "
            "that fewseg models lists, as 'default'"
        )
    try:
        return Path(hf_hub_download(name, FILE_NAME))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidCheckpoint(f"no file or folder {name}, and no such model on the hub: {reason}") from error


def _like(path: Path) -> str:
    """What has nearly that name, beside it or in the zoo, in brackets; nothing where nothing has."""
    try:
        beside = [p.name for p in path.parent.iterdir()]
        near = did_you_mean(path.name, [*ZOO, *beside] if path.name == os.fspath(path) else beside)
    except OSError:
        return ""
    return f" ({near})" if near else ""


def fingerprint(method: FewShotMethod) -> str:
    """A short hash of config and weights: equal where the same support gives the same result, whatever was renamed."""
    name, config = first_identity(method.name, dataclasses.asdict(method.config))
    built = [name, config, method.backbone.spec.to_json()]
    digest = hashlib.sha256(json.dumps(built, sort_keys=True).encode())
    named = ((first_key(method.name, key), value) for key, value in method.state_dict().items())
    for key, value in sorted(named, key=lambda item: item[0]):
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
