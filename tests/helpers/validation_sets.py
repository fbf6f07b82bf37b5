"""A small validation set."""

from __future__ import annotations

from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.training.data import ValidationSet

DATA = SyntheticDataset(per_class=6, size=64)


SETS = (ValidationSet(DATA, tuple(draw_test_episodes(DATA, (1, 2, 3), 1, 4, 0))),)
