"""Devices without float64, as Apple's GPUs: such numbers are computed on the CPU, of what is fetched there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import create_method
from fewseg.models.ops.mask_aggregation import _trusted
from fewseg.models.ops.otsu import otsu_threshold


class NoFloat64(TorchFunctionMode):
    """Takes every tensor that was not fetched to the CPU for one of a device that has no float64."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
            exact = any(value.dtype == torch.float64 for value in given)  # so it is on the CPU already
            home = func.__name__ == "cpu" or exact or any(id(value) in self.fetched for value in given)
            if home:
                self.fetched[id(result)] = result
            if result.dtype == torch.float64 and given and not home:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_the_imitation_refuses_what_the_device_would() -> None:
    values = torch.rand(3)
    with NoFloat64():
        for make in (values.double, lambda: values.to(torch.float64), lambda: values.type(torch.float64)):
            with pytest.raises(TypeError, match="float64"):
                make()
        assert values.cpu().double().dtype == torch.float64


@pytest.mark.parametrize("method", ["prototype", "dcama", "hsnet"])
def test_teaching_and_segmenting(method: str) -> None:
    """Over a backbone with batch norms, which are folded in float64."""
    torch.manual_seed(0)
    made = Segmenter(create_method(method, backbone="resnet18", image_size=64), device="cpu", precision="float32")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    _trusted("native", "cpu", torch.float32)  # of CPUs only, and kept
    with NoFloat64():
        made.teach("x", image, mask)
        assert made.segment(image).masks["x"].shape == (64, 64)


def test_otsu() -> None:
    values = torch.tensor([0.0, 0.1, 0.8, 0.9])
    with NoFloat64():
        assert otsu_threshold(values) == pytest.approx(0.45)
