"""FoRIS (Hu et al., 2026)."""

from fewseg.models.methods.foris.config import FoRISConfig
from fewseg.models.methods.foris.method import FoRIS

__all__ = ["FoRIS", "FoRISConfig"]
