"""Which browser the page is tested in: Chromium, or with FEWSEG_BROWSER=firefox Firefox; needs no package."""

from __future__ import annotations

import os

FIREFOX = os.environ.get("FEWSEG_BROWSER") == "firefox"
PROGRAMS = ("firefox", "geckodriver") if FIREFOX else ("chromium", "chromedriver")
"""The browser and what steers it."""
