"""Where and how precisely to compute, by what the processor says it can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fewseg import Segmenter, create_method
from fewseg.core.devices import choose_dtype, has_bfloat16, has_bfloat16_tiles
from helpers.colour_method import ColourMethod

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    has_bfloat16_tiles.cache_clear()
    yield
    has_bfloat16_tiles.cache_clear()


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("avx512", [True, False])
def test_bfloat16_is_native_where_the_cpu_has_instructions(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert has_bfloat16_tiles() is amx
    assert has_bfloat16(CPU) is (amx or avx512)


@pytest.mark.parametrize("amx", [True, False])
def test_older_torch_is_asked_for_tiles_in_its_own_way(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert has_bfloat16_tiles() is amx


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_is_native_on_gpus_from_compute_capability_8(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(GPU) is native
    assert choose_dtype("auto", GPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("tiles", [True, False])
def test_automatic_precision_asks_processor_and_method(monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    monkeypatch.setattr("fewseg.core.devices.has_bfloat16_tiles", lambda: tiles)
    fast = torch.bfloat16 if tiles else torch.float32
    assert choose_dtype("auto", CPU, ("cuda", "cpu")) == fast
    assert choose_dtype("auto", CPU, ("cuda",)) == choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert Segmenter(create_method("dcama", backbone="tiny", image_size=64), device="cpu").method.dtype == fast
    assert Segmenter(ColourMethod(), device="cpu").method.dtype == torch.float32
