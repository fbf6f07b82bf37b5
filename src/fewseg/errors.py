"""The errors' public path, kept beside `fewseg.core.errors`; every error is in `fewseg`, too."""

from fewseg.core.errors import *  # noqa: F403
