"""Names of variants in results files, which keep their spelling: earlier files are read and added to."""

from __future__ import annotations

from typing import Final

BASELINE: Final = "reference"
"""The baseline implementation, as results files call it: the support encoded for every query, scores materialised."""

OPTIMISED: Final = "ours"
"""fewseg's implementation, as results files call it."""

BASELINE_AGGREGATION: Final = "straightforward"
"""The baseline implementation of mask aggregation, as results files call it; the others are compared with it."""
