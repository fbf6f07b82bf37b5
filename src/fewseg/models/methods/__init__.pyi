from .base import FewShotMethod as FewShotMethod
from .create import METHODS as METHODS
from .create import build_method as build_method
from .create import create_method as create_method
from .create import register_method as register_method

__all__ = ["METHODS", "FewShotMethod", "build_method", "create_method", "register_method"]
