"""How files are segmented: what is written, and how a machine or a cluster is used. Light: imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.errors import InvalidOption, unknown

if TYPE_CHECKING:
    from fewseg.inference.tiling import TileOptions

Engine = Literal["threads", "ray"]
"""`threads` on this machine, or `ray` on one machine or many."""


_OF_RAY: Final = {"ray_address": None, "ray_workers": 0, "ray_cpus": 0, "ray_gpus": -1.0}
"""Options of the Ray engine, and what they are when nobody chose."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How files are segmented."""

    overlays: bool = True
    """Also draw the masks on the images."""
    objects: bool = True
    """Also tell single objects apart, but for labels of stuff (sky, road): objects.csv, counts.csv, instance maps in
    objects/, and an annotation for each object in other formats."""
    pixel_size: float | None = None
    """Side of a pixel, in units of your own (0.25 for a quarter of a micrometre): objects.csv has areas in square units
    too."""
    overwrite: bool = False
    """Do images again that are finished already."""
    tile: Literal["auto"] | int | None = None
    """Segment in tiles of this side in pixels, or auto (the model's input size): for images far larger than that."""
    overlap: float | None = None
    """Share of a tile's side that neighbours have in common; 0.25 if not given."""
    pages: bool = False
    """Segment every page of TIFFs and every frame of animations; the first only, if not given."""
    frame_stride: int = 1
    """Segment every N-th frame of a video."""
    save_frames: bool = False
    """Also save the frames of videos, as JPEG: formats with images beside their annotations need them."""
    batch_size: int = 0
    """Images, tiles or frames that go through the model together; 0 chooses: 8 on a GPU, 1 else."""
    workers: int = 0
    """Threads that read, and threads that write; 0 chooses: one a core, at most 4, with a GPU at most 16."""
    model_threads: int = 0
    """Threads of one run of the model on a CPU; with fewer than there are cores, several images run at a time.
    0 chooses: one, an image on every core, to the bit what `Segmenter.segment` computes with one thread of torch;
    with fewer than two images a core, all of torch's, one image at a time."""
    engine: Engine = "threads"
    """`threads` on this machine, or `ray` on one machine or many."""
    ray_address: str | None = None
    """A running Ray cluster: auto, host:port; starts Ray on this machine if not given."""
    ray_workers: int = 0
    """Worker processes of Ray, each with a model; 0: as many as the cluster holds."""
    ray_cpus: int = 0
    """Cores of each Ray worker; 0 chooses: all that torch uses here, or 4 beside a GPU."""
    ray_gpus: float = -1.0
    """GPUs of each Ray worker, e.g. 1, or 0.5 for two workers a GPU; -1 chooses: 1 if the device is a GPU, else 0."""

    @property
    def tiles(self) -> TileOptions | None:
        """How images are cut, None where they are not; raises `InvalidOption` for impossible tiles."""
        from fewseg.inference.tiling import TileOptions

        if self.tile is None:
            return None
        return TileOptions(self.tile) if self.overlap is None else TileOptions(self.tile, self.overlap)

    def check(self) -> None:
        """Raise `InvalidOption` for an impossible value, or one that would do nothing beside the others."""
        if self.batch_size < 0 or self.workers < 0 or self.model_threads < 0:
            raise InvalidOption(
                f"batch size {self.batch_size}, workers {self.workers}, model threads {self.model_threads}: "
                "0 chooses, or give 1 or more"
            )
        if self.pixel_size is not None and not 0 < self.pixel_size < math.inf:
            raise InvalidOption(f"--pixel-size {self.pixel_size:g}: give the side of a pixel, above 0")
        if self.pixel_size is not None and not self.objects:
            raise InvalidOption("--pixel-size is for the areas of objects, which --no-objects leaves out: drop one")
        check_number("batch_size", self.batch_size)  # no larger than there are images
        for name in ("workers", "model_threads", "ray_workers", "ray_cpus"):
            check_number(name, getattr(self, name), MOST_AT_ONCE)
        if self.frame_stride < 1 or self.frame_stride != int(self.frame_stride):
            raise InvalidOption(f"--frame-stride {self.frame_stride}: give a whole number from 1")
        if self.tiles is None and self.overlap is not None:
            raise InvalidOption("--overlap is what tiles have in common: give --tile too, or leave it out")
        if self.tile is not None:
            self._refuse_threads("tiles")
        self._check_ray()

    def _check_ray(self) -> None:
        if self.engine not in get_args(Engine):
            raise unknown("engine", self.engine, get_args(Engine))
        if self.ray_workers < 0 or self.ray_cpus < 0:
            raise InvalidOption(
                f"{self.ray_workers} Ray workers with {self.ray_cpus} cores each: 0 chooses, or give 1 or more"
            )
        whole = self.ray_gpus == int(self.ray_gpus) if abs(self.ray_gpus) < 1e6 else False
        if self.ray_gpus != -1 and not (0 <= self.ray_gpus < 1 or (whole and self.ray_gpus >= 1)):
            raise InvalidOption(f"{self.ray_gpus:g} GPUs for each Ray worker: give a part of one, or a whole number")
        if self.engine == "ray":
            if self.tile is not None:
                raise InvalidOption("--engine ray does not take --tile: leave one of them out")
            return
        for name, nothing in _OF_RAY.items():
            if getattr(self, name) != nothing:
                raise InvalidOption(f"--{name.replace('_', '-')} is for --engine ray: give that too, or leave it out")

    def check_for(self, queries: Sequence[str | os.PathLike[str]]) -> None:
        """Raise `InvalidOption` for options that do not fit the queries, files as their endings say."""
        from fewseg.images.video import is_video

        if isinstance(queries, (str, os.PathLike)):  # its letters would be taken for paths
            raise InvalidOption(f"{queries} in place of several: give a list, [path]")
        clips = [query for query in queries if is_video(query)]
        if not clips:
            if self.frame_stride > 1 or self.save_frames:
                name = f"--frame-stride {self.frame_stride}" if self.frame_stride > 1 else "--save-frames"
                raise InvalidOption(f"{name} is for videos, and there is none: leave it out")
            return
        if self.tile is not None:
            raise InvalidOption("--tile is for images: extract the frames of a video first (fewseg frame)")
        if self.engine != "threads":
            raise InvalidOption(f"--engine {self.engine} does not take videos: leave it out")
        if len(clips) == len(queries):
            self._refuse_threads("videos")

    def _refuse_threads(self, what: str) -> None:
        for name in ("workers", "model_threads"):
            if getattr(self, name):
                raise InvalidOption(f"--{name.replace('_', '-')} is for whole images, not for {what}: leave it out")
