"""SCCAN (Xu et al., ICCV 2023)."""

from fewseg.models.methods.sccan.config import SCCANConfig
from fewseg.models.methods.sccan.method import SCCAN

__all__ = ["SCCAN", "SCCANConfig"]
