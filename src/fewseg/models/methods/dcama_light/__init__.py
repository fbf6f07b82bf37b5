"""DCAMA's attention with a light decoder and a calibration (ours)."""

from fewseg.models.methods.dcama_light.config import DCAMALightConfig
from fewseg.models.methods.dcama_light.method import DCAMALight

__all__ = ["DCAMALight", "DCAMALightConfig"]
