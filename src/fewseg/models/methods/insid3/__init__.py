"""INSID3 (Cuttano et al., CVPR 2026)."""

from fewseg.models.methods.insid3.config import INSID3Config
from fewseg.models.methods.insid3.method import INSID3

__all__ = ["INSID3", "INSID3Config"]
