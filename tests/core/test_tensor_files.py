"""Checkpoints, support sets and saved segmenters: what is read is what was written, or an error."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fewseg.core.errors import InvalidCheckpoint
from fewseg.core.tensor_files import CHECKSUM, read_tensors, write_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.c": torch.tensor(2.5, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 3, dtype=torch.int64),
}
ABOUT = {"fewseg.kind": json.dumps({"label": "Käfer", "n": 3})}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tensors") / "x.safetensors"
    write_tensors(path, TENSORS, ABOUT)
    return path.read_bytes()


def same(path: Path) -> bool:
    tensors, about = read_tensors(path)
    kept = tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[key], TENSORS[key]) for key in tensors)
    return kept and about == ABOUT


def test_what_is_written_is_read(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written)
    assert same(path)
    tensors, _ = read_tensors(path)
    assert [tensors[key].dtype for key in TENSORS] == [value.dtype for value in TENSORS.values()]


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path, written: bytes) -> None:
    for i in range(20):
        write_tensors(tmp_path / f"{i}.safetensors", TENSORS, ABOUT)
        assert (tmp_path / f"{i}.safetensors").read_bytes() == written


def test_files_of_before_have_no_checksum(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", ABOUT)
    assert same(tmp_path / "x.safetensors")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error(tmp_path: Path, written: bytes, place: float, bit: int) -> None:
    """Or it is harmless: in the name of the checksum, which is then not known, or in blanks."""
    damaged = bytearray(written)
    damaged[int(place * len(damaged))] ^= 1 << bit
    path = tmp_path / "x.safetensors"
    path.write_bytes(damaged)
    try:
        tensors, about = read_tensors(path)
    except InvalidCheckpoint:
        return
    assert {key: value for key, value in about.items() if key in ABOUT} == ABOUT
    assert all(torch.equal(tensors[key], value) for key, value in TENSORS.items())


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_cut_files(tmp_path: Path, written: bytes, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written[:keep])
    with pytest.raises(InvalidCheckpoint, match="cut off"):
        read_tensors(path)


def test_values_that_changed_are_told(tmp_path: Path, written: bytes) -> None:
    length = struct.unpack("<Q", written[:8])[0]
    assert CHECKSUM in json.loads(written[8 : 8 + length])["__metadata__"]
    path = tmp_path / "x.safetensors"
    path.write_bytes(written[:-1] + bytes(np.frombuffer(written[-1:], np.uint8) ^ 1))
    with pytest.raises(InvalidCheckpoint, match=r"x.safetensors is damaged, its checksum does not fit"):
        read_tensors(path)


def test_tensors_lie_where_new_ones_lie(tmp_path: Path) -> None:
    """Kernels round by alignment: what is read back must give the bits of what was written."""
    write_tensors(tmp_path / "odd", {"a": torch.ones(3), "b": torch.ones(5, 7), "c": torch.ones(1)}, {})
    tensors, _ = read_tensors(tmp_path / "odd")
    assert {tensor.data_ptr() % 64 for tensor in tensors.values()} == {torch.empty(8).data_ptr() % 64} == {0}
