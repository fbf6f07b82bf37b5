"""A small DCAMA with the light decoder, random weights everywhere."""

from __future__ import annotations

import torch

from fewseg import create_method
from fewseg.models.methods.dcama.light_decoder import LightDecoder
from fewseg.models.methods.dcama.method import DCAMA

SMALL = {"stem": 8, "thin": 4, "widths": (8, 8, 12, 16), "depths": (1, 2, 2, 1), "strides": (2,) * 4}


OPTIONS = {"attention": "cosine", "heads": 1, "identity_start": True, "position_weight": 0.0, "dropout": 0.0}


def light(seed: int = 0, **config: object) -> DCAMA:
    """Random weights everywhere, norms and biases too."""
    torch.manual_seed(seed)
    options = {**SMALL, "expansions": (2,) * 4}
    choices = {**OPTIONS, "balance": True, "decoder": "light", "skip_scales": (4, 8, 16), **config}
    method = create_method("dcama", backbone="tiny", backbone_options=options, image_size=64, **choices)
    for parameter in method.trainable_parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for parameter in method.backbone.parameters():  # as they begin, maps get ten times smaller with every block
        parameter.data *= 2.2
    assert isinstance(method, DCAMA)
    if isinstance(method.decoder, LightDecoder):
        method.decoder.sureness.copy_(0.3 * torch.randn(2, 2))
        method.decoder.leniency.copy_(torch.tensor([2.0, 0.4]))
        method.decoder.usual.copy_(0.2 * torch.randn(len(method.decoder.usual)))
    return method
