"""What the sources of a run share, and what the runner asks of each of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fewseg.batch.options import BatchOptions
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.steps import Outcome
from fewseg.inference.segmenter import Segmenter


@dataclass(frozen=True)
class Run:
    """What all sources of a run share."""

    segmenter: Segmenter
    folder: OutputFolder
    options: BatchOptions


class Source(Protocol):
    """Images, or the frames of one video."""

    @property
    def keys(self) -> Sequence[Path]:
        """The paths under which results.json lists them, as far as they are known."""

    @property
    def skipped(self) -> int:
        """How many of them are known, before the run, to be finished."""

    @property
    def total(self) -> int:
        """How many there are; for videos, about."""

    def outcomes(self) -> Generator[Outcome, None, None]:
        """What became of each image that was not known to be finished. Raises what `segment_files` does."""
