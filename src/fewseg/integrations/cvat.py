"""An auto-annotation function for CVAT: masks of the taught labels in every frame of a task.

CVAT's command line loads this module by name and calls `create`:

    cvat-cli task auto-annotate 137 --function-module fewseg.integrations.cvat -p taught=str:pets.fewseg

Labels are matched by name: the task needs labels of type `mask` (or `polygon`, with --conv-mask-to-poly) of the same
names. Needs `pip install 'fewseg[cvat]'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.formats.polygons import one_ring, regions
from fewseg.formats.read import read_supports
from fewseg.images.orientation import as_stored
from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES
from fewseg.inference.segmenter import Segmenter

if TYPE_CHECKING:
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk import models

_TOLERANCE = 1.0
"""Greatest distance between a polygon and the mask's edge, in pixels."""
_MIN_AREA = 4
"""Least area of a region that becomes a shape of its own, in pixels."""


def create(
    taught: str | None = None,
    support: str | None = None,
    checkpoint: str = "default",
    device: str = "auto",
    split: bool = False,
    adapt: bool = True,
) -> FewsegFunction:
    """The function, from the options `-p NAME=TYPE:VALUE` of CVAT's command line.

    Args:
        taught: a file that `Segmenter.save`, or the API's export, wrote; or give
        support: a folder with one folder of images and masks a label, as `fewseg segment` has it, and
        checkpoint: the model for it.
        device: auto, cpu, cuda, cuda:1, mps ...
        split: make a shape of every single object (connected regions, and those that touch told apart), and of every
            connected region of labels of stuff; one of each label otherwise.
        adapt: fit labels of `support` with five examples or more to them, in about half a minute each, where that
            predicts examples better that it has not seen; what was fitted to those of `taught` is in that file.

    Raises:
        InvalidOption: neither or both of `taught` and `support` are given, or cvat-sdk is missing.
        InvalidCheckpoint, InvalidSupport: they cannot be read.
    """
    if (taught is None) == (support is None):
        raise InvalidOption("give what was taught: -p taught=str:FILE.fewseg, or -p support=str:FOLDER")
    if taught is not None:
        return FewsegFunction(Segmenter.load(taught, device=device), split=split)
    segmenter = Segmenter.from_pretrained(checkpoint, device=device)
    read_supports(str(support)).teach(segmenter)
    for label in segmenter.labels:
        if adapt and segmenter.shots(label) >= ENOUGH_EXAMPLES:
            segmenter.adapt(label)
    return FewsegFunction(segmenter, split=split)


class FewsegFunction:
    """A detection function of CVAT's auto-annotation protocol."""

    def __init__(self, segmenter: Segmenter, *, split: bool = False) -> None:
        """Uses the labels of `segmenter`; raises `InvalidSupport` where it has none."""
        if not segmenter.labels:
            raise InvalidSupport("the segmenter was taught nothing: teach it labels called like those of the CVAT task")
        self._sdk = _sdk()
        self._segmenter, self._split = segmenter, split
        self._labels = {label: number for number, label in enumerate(segmenter.labels)}

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The labels of the function."""
        labels = [self._sdk.label_spec(label, number, type="mask") for label, number in self._labels.items()]
        return self._sdk.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> Sequence[models.LabeledShapeRequest]:
        """Shapes of the labels whose score reaches CVAT's threshold or, where CVAT gives none, the model's.

        The EXIF orientation of `image` is ignored: CVAT turns frames upright itself.
        """
        # Masks must match the frame as CVAT stores it.
        prediction = self._segmenter.segment(as_stored(image), probabilities=False)
        shapes: list[models.LabeledShapeRequest] = []
        for label, mask in prediction.masks.items():
            threshold = context.conf_threshold
            score = prediction.scores[label]
            if prediction.present[label] if threshold is None else score >= threshold:
                objects = prediction.objects.get(label) if self._split else None
                parts = [mask] if objects is None else [one.mask for one in objects if one.area >= _MIN_AREA]
                for part in parts:
                    shapes += self._shapes(
                        self._labels[label],
                        part,
                        polygons=context.conv_mask_to_poly,
                        pieces=self._split and objects is None,
                    )
        return shapes

    def _shapes(
        self, number: int, mask: NDArray[np.bool_], *, polygons: bool, pieces: bool
    ) -> Iterator[models.LabeledShapeRequest]:
        if polygons:
            for region in regions(mask, tolerance=_TOLERANCE, min_area=_MIN_AREA):
                yield self._sdk.polygon(number, [float(v) for v in one_ring(region).ravel()])
        else:
            for part in _parts(mask) if pieces else [mask]:
                if part.any():
                    yield self._sdk.mask(number, encode_mask(part))


def _parts(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected regions of at least `_MIN_AREA` pixels."""
    numbered, count = ndimage.label(mask)
    sizes = np.bincount(numbered.reshape(-1), minlength=count + 1)
    for number in range(1, count + 1):
        if sizes[number] >= _MIN_AREA:
            yield numbered == number


def encode_mask(mask: NDArray[np.bool_]) -> list[float]:
    """A non-empty mask (H, W) in CVAT's format.

    Run lengths within the bounding box, row by row, zeros first (0 where it begins with ones), then the box: left, top,
    right, bottom, the last two inclusive.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    flat = mask[top : bottom + 1, left : right + 1].reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0).tolist()
    return [float(v) for v in [*([0] if flat[0] else []), *lengths, left, top, right, bottom]]


def _sdk() -> Any:
    try:
        import cvat_sdk.auto_annotation as sdk
    except ImportError as error:
        raise InvalidOption("CVAT's auto-annotation needs cvat-sdk: pip install 'fewseg[cvat]'") from error
    return sdk
