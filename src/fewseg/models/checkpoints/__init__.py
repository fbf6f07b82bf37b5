"""Checkpoints: our own format and the authors' releases."""

from fewseg.models.checkpoints.native import fingerprint, load_method, save_method
from fewseg.models.checkpoints.official import load_official

__all__ = ["fingerprint", "load_method", "load_official", "save_method"]
