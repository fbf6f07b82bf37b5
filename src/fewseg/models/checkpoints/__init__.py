"""Checkpoints: our own format and the authors' releases."""

from fewseg.models.checkpoints.named import ModelName, open_model
from fewseg.models.checkpoints.native import fingerprint, lasting_name, load_method, save_method
from fewseg.models.checkpoints.official import load_official

__all__ = [
    "ModelName",
    "fingerprint",
    "lasting_name",
    "load_method",
    "load_official",
    "open_model",
    "save_method",
]
