"""DCAMA (Shi et al., ECCV 2022)."""

from fewseg.models.methods.dcama.config import DCAMAConfig
from fewseg.models.methods.dcama.method import DCAMA

__all__ = ["DCAMA", "DCAMAConfig"]
