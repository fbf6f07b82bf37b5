"""Few-shot segmentation methods: one paper, one file, one contract (`base.py`)."""

from fewseg.models.methods.base import FewShotMethod
from fewseg.models.methods.create import METHODS, build_method, create_method, register_method

__all__ = ["METHODS", "FewShotMethod", "build_method", "create_method", "register_method"]
