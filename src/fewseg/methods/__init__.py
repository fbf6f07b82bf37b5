"""Few-shot segmentation methods: one paper, one file, one contract (`base.py`)."""

from fewseg.methods.base import FewShotMethod
from fewseg.methods.create import METHODS, build_method, create_method, register

__all__ = ["METHODS", "FewShotMethod", "build_method", "create_method", "register"]
