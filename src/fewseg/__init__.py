"""fewseg: teach a class with a few labelled pictures, get its mask in any other picture."""

from fewseg.checkpoints import load_method, load_official, save_method
from fewseg.errors import FewsegError
from fewseg.methods import FewShotMethod, create_method
from fewseg.segmenter import Segmenter
from fewseg.types import IGNORE, Episode, Prediction, QueryFeatures, SupportSet

__version__ = "0.1.0"

__all__ = [
    "IGNORE",
    "Episode",
    "FewShotMethod",
    "FewsegError",
    "Prediction",
    "QueryFeatures",
    "Segmenter",
    "SupportSet",
    "__version__",
    "create_method",
    "load_method",
    "load_official",
    "save_method",
]
