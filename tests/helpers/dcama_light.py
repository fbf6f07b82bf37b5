"""A small DCAMA with the light decoder, random weights everywhere."""

from __future__ import annotations

import torch

from fewseg import create_method
from fewseg.models.methods.dcama_light import DCAMALight

SMALL = {"stem": 8, "thin": 4, "widths": (8, 8, 12, 16), "depths": (1, 2, 2, 1), "strides": (2,) * 4}

DEFAULTS = {
    "attention_scales": (8, 16, 32),
    "skip_scales": (4, 8, 16),
    "refinement_steps": 0,
    "boundary_refinement": False,
}


def light(seed: int = 0, **config: object) -> DCAMALight:
    """Random weights everywhere, norms and biases too."""
    torch.manual_seed(seed)
    options = {**SMALL, "expansions": (2,) * 4}
    method = create_method(
        "dcama_light", backbone="tiny", backbone_options=options, image_size=64, **{**DEFAULTS, **config}
    )
    for parameter in method.trainable_parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for parameter in method.backbone.parameters():  # as they begin, maps get ten times smaller with every block
        parameter.data *= 2.2
    assert isinstance(method, DCAMALight)
    method.calibration.temperature.copy_(0.3 * torch.randn(2, 2))
    method.calibration.logit_offset.copy_(torch.tensor([2.0, 0.4]))
    method.calibration.base_prototype.copy_(0.2 * torch.randn(len(method.calibration.base_prototype)))
    return method
