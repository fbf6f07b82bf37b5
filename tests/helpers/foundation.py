"""Foundation backbones, small: the families' own classes with few and narrow blocks, random weights."""

from __future__ import annotations

from typing import Any, Final

SMALL_FOUNDATION: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "dinov2": ("dinov2-small", {"embed_dim": 24, "depth": 4, "num_heads": 3}),
    "dinov2, registers": ("dinov2-small-reg", {"embed_dim": 24, "depth": 4, "num_heads": 3}),
    "dinov3": ("dinov3-small", {"embed_dim": 24, "depth": 4, "num_heads": 3}),
    "dinov3, convnext": ("dinov3-convnext-tiny", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "sam": ("sam-base", {"embed_dim": 24, "depth": 2, "num_heads": 3, "global_attn_indexes": (1,)}),
    "sam2": ("sam2-tiny", {"embed_dim": 16, "stages": (1, 2, 2, 1), "global_att_blocks": (2,)}),
}
"""Family to the name of a backbone and the options that make it small."""
