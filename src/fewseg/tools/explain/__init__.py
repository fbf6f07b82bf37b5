"""Looking into a method: what it attends to, its masks before the decoder, its features. Numbers, and figures of them.

Numbers come from `attention`, `intermediate` and `features`, figures from `figures`; `fewseg explain` draws them.
"""

from fewseg.tools.explain.attention import BlockAttention, default_points, mean_attention, point_attention
from fewseg.tools.explain.case import Case, Explained, explain_case
from fewseg.tools.explain.features import FeatureCloud, embed, feature_cloud
from fewseg.tools.explain.intermediate import binarised, scale_masks

__all__ = [
    "BlockAttention",
    "Case",
    "Explained",
    "FeatureCloud",
    "binarised",
    "default_points",
    "embed",
    "explain_case",
    "feature_cloud",
    "mean_attention",
    "point_attention",
    "scale_masks",
]
