"""The C code's surroundings: compiled once, switched off, absent compilers, threads, portable instructions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from fewseg.core.errors import InvalidOption
from fewseg.models.ops.mask_aggregation import aggregate_masks, native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"the C code does not run here: {native.why_not()}")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty cache folder, and no library loaded, before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._library.cache_clear()
    yield tmp_path / "fewseg"
    native._library.cache_clear()


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 2 * 72, generator=rng).to(dtype) for n in (200, 333))
    return q, k, torch.rand(2, 333, 3, generator=rng)


def test_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.available()
    (library,) = fresh.iterdir()
    assert library.suffix == ".so"
    native._library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.available()


def test_cache_that_others_can_write_is_not_used(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    assert native._cache() != fresh


def test_switched_off_or_without_a_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs()
    expected = aggregate_masks(q, k, v, heads=2, implementation="reference")
    for change, said in (
        ({native.SWITCH: "0"}, "switches it off"),
        ({"PATH": "", "CC": "no-such"}, "needs a C compiler"),
    ):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setenv(name, value)
            native._library.cache_clear()
            with pytest.raises(InvalidOption, match=said):
                aggregate_masks(q, k, v, heads=2, implementation="native")
            torch.testing.assert_close(aggregate_masks(q, k, v, heads=2, implementation="tiled"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(aggregate_masks(q, k, v, heads=2, implementation="native"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3"])
def test_other_instruction_sets(machine: str, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same source for processors without AVX-512, whose code is plain vector arithmetic."""
    monkeypatch.setattr(native, "_FLAGS", ("-O2", f"-march={machine}", "-fno-math-errno", "-shared", "-fPIC"))
    probe = subprocess.run(["cc", f"-march={machine}", "-E", "-x", "c", "/dev/null"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"the compiler knows no {machine}")
    q, k, v = inputs()
    q = q * torch.tensor([0.1, 9.0]).view(2, 1, 1)
    expected = aggregate_masks(q.double(), k.double(), v, heads=2, implementation="reference")
    out = aggregate_masks(q, k, v, heads=2, implementation="native")
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
    assert not native.has_tiles()
    half = [t.bfloat16() for t in (q, k)]
    expected = aggregate_masks(*(t.double() for t in half), v, heads=2, implementation="reference")
    out = aggregate_masks(*half, v, heads=2, implementation="native")
    torch.testing.assert_close(out.double(), expected, atol=4e-3, rtol=0)


def test_widths_and_counts_off_every_block() -> None:
    """Around the sizes of tiles, groups and blocks of keys."""
    rng = torch.Generator().manual_seed(1)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 4e-3)):
        for nq, nk, width in (
            (1, 1, 1),
            (47, 7, 31),
            (48, 8, 32),
            (49, 9, 33),
            (31, 65, 63),
            (97, 1500, 3),
            (33, 70, 257),
        ):
            q, k = (torch.randn(1, n, width, generator=rng).to(dtype) for n in (nq, nk))
            v = torch.rand(1, nk, generator=rng)
            out = aggregate_masks(q, k, v, heads=1, implementation="native")
            exact = aggregate_masks(q.double(), k.double(), v.double(), heads=1, implementation="reference")
            torch.testing.assert_close(out.double(), exact, atol=tolerance, rtol=0)
