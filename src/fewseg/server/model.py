"""One model in memory, shared by all sessions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidCheckpoint
from fewseg.core.progress import ProgressCallback
from fewseg.images import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Prompt
from fewseg.inference.adaptation.report import Adaptation
from fewseg.inference.persistence import check_fits, read_supports
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport, check_label
from fewseg.server.fitting import lower_priority

SupportsByLabel = Mapping[str, LabelSupport]
"""Label to encoded examples; an immutable value."""


class ServedModel:
    """A model that serves any number of sessions; safe to use from several threads."""

    def __init__(self, base: Segmenter) -> None:
        self._base = base

    def segmenter(self, supports: SupportsByLabel | None = None) -> Segmenter:
        """A segmenter with the labels of `supports`, sharing the weights."""
        return self._base.with_supports(supports)

    @property
    def name(self) -> str:
        """Name of the model; without the folders where it is a file."""
        source = self._base.source
        name = Path(source["name"]).name if source else self._base.method.name
        return f"{name} ({self._base.method.support_key})"

    @property
    def version(self) -> str:
        """Identifier that changes with the weights."""
        return f"{self._base.method.name}-{self._base.model_fingerprint}"

    @property
    def image_size(self) -> int:
        """Side of the square that images are resized to, in pixels."""
        return int(self._base.method.config.image_size)

    def encode(self, label: str, image: ImageLike, mask: ImageLike, value: MaskValue | None = None) -> LabelSupport:
        """One example of a label; raises as `Segmenter.teach` does."""
        check_label(label)
        return self._base.encode_example(image, mask, value)

    def mask_from_prompts(
        self, image: ImageLike, prompts: Sequence[Prompt], supports: SupportsByLabel, label: str | None
    ) -> NDArray[np.bool_]:
        """The mask (H, W) of all objects that prompts stand for; raises as `Segmenter.mask_from_prompts` does.

        A `label` of `supports` helps to find them by its examples.
        """
        return self.segmenter(supports).mask_from_prompts(image, prompts, label if label in supports else None)

    def adapt(
        self, label: str, support: LabelSupport, seconds: float, force: bool, progress: ProgressCallback
    ) -> tuple[LabelSupport, Adaptation]:
        """A label's examples with what was fitted to them, and what that brought; raises as `Segmenter.adapt` does.

        It is for a thread that does nothing else: other threads come first.
        """
        lower_priority()
        segmenter = self.segmenter({label: support})
        report = segmenter.adapt(label, seconds=seconds, force=force, progress=progress)[label]
        return segmenter.supports[label], report

    def save(self, supports: SupportsByLabel, path: str | os.PathLike[str]) -> None:
        """Write a file for `Segmenter.load`."""
        self.segmenter(supports).save(path)

    def load(self, path: str | os.PathLike[str]) -> dict[str, LabelSupport]:
        """The supports in an untrusted file that was saved with this model.

        No path in the file is opened, and every tensor is checked against an example of this model. Raises
        `InvalidCheckpoint` for files that are damaged or of another model.
        """
        try:
            supports, about = read_supports(path)
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(str(error).replace(os.fspath(path), "the file")) from None
        base = self._base
        if about["fingerprint"] != base.model_fingerprint or tuple(about["scales"]) != base.tta_scales:
            theirs = f"{about['method']}, fingerprint {about['fingerprint'][:32]}"
            ours = f"{base.method.name}, fingerprint {base.model_fingerprint}"
            raise InvalidCheckpoint(
                f"the file was taught with another model ({theirs}) than the one served ({ours}): serve that one"
            )
        if any(len(support.sets) != len(base.input_sizes) for support in supports.values()):
            raise InvalidCheckpoint("the file has examples for other input sizes than its scales: export it again")
        check_fits(base, supports, "the file")
        return {label: s.to(base.method.device, base.method.dtype) for label, s in supports.items()}


def supports_bytes(supports: SupportsByLabel) -> int:
    """Memory of encoded examples, with their images and masks, in bytes."""
    encoded = sum(t.nbytes for s in supports.values() for encoded in s.sets for t in encoded.tensors.values())
    shown = (example for s in supports.values() for example in s.examples if example is not None)
    return encoded + sum(example.image.nbytes + example.mask.nbytes for example in shown)
