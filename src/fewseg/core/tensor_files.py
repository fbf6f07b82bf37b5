"""safetensors files with a checksum over everything in them: a flipped bit is an error, never another result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fewseg.core.errors import InvalidCheckpoint, one_line
from fewseg.core.files import write_bytes

CHECKSUM: Final = "fewseg.sha256"
"""Key of the metadata that holds the checksum; files of earlier versions have none."""


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors and texts about them with their checksum, atomically; raises `OutputError`."""
    ready = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # Not `save_file`: it makes files that only their owner can read.
    write_bytes(path, _in_order(save(ready, {**metadata, CHECKSUM: _checksum(ready, metadata)})))


def read_tensors(
    path: str | os.PathLike[str], what: str = "readable safetensors file"
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, on the CPU, and texts of a safetensors file, which are what was written where it has a checksum.

    Raises `InvalidCheckpoint`, which says `what` it is not, for any other file and one that changed since.
    """
    name = os.fspath(path)
    try:
        with safe_open(name, "pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies, since tensors of a file lie at any address: kernels round by alignment, and a label read back
            # must give the bits that it gave when it was saved.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InvalidCheckpoint(
            f"{name} is not a {what}, or is cut off ({one_line(error)}): copy or download it again"
        ) from error
    stated = metadata.pop(CHECKSUM, None)
    if stated is not None and stated != _checksum(tensors, metadata):
        raise InvalidCheckpoint(f"{name} is damaged, its checksum does not fit: copy, download or make it again")
    return tensors, metadata


def _in_order(content: bytes) -> bytes:
    """The same file with its texts sorted by key: safetensors writes them in another order every time."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and values, whatever their order in the file."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
