"""What a user holds: teach labels with a few images, segment others, keep what was taught in one file."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.devices import choose_device
from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.core.progress import ProgressCallback, silent
from fewseg.core.types import Prediction
from fewseg.images import ImageLike
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.report import Adaptation
from fewseg.inference.adaptation.support import adapt_support
from fewseg.inference.model import InferenceModel
from fewseg.inference.persistence import load_segmenter, save_segmenter
from fewseg.inference.postprocess import full_size_prediction
from fewseg.inference.predict import EncodedImages, predict_labels
from fewseg.inference.presence_fit import ENOUGH, fitted_threshold
from fewseg.inference.supports import LabelSupport
from fewseg.inference.taught import TaughtModel
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import task_threshold

log = logging.getLogger(__name__)


class Segmenter(TaughtModel):
    """Learns labels from examples and finds them in images.

    Examples:
        >>> segmenter = Segmenter.from_pretrained()            # doctest: +SKIP
        >>> segmenter.teach("cat", "cat.jpg", "cat_mask.png")  # doctest: +SKIP
        >>> segmenter.segment("street.jpg").masks["cat"]       # doctest: +SKIP

    `segment` is `preprocess`, `encode`, `predict` and `postprocess`, which can also be called one by one: features of
    an image, once encoded, serve any supports. The constructor's options are those of `InferenceModel`.
    """

    def fit_presence(
        self, label: str, images: Sequence[ImageLike] = (), refused: Sequence[ImageLike] = ()
    ) -> float | None:
        """Set the label's presence threshold by three or more examples, and by images that do not show it.

        It becomes the one nearest the model's with the fewest wrong answers: each example's image is to be found with
        the help of the others, and no refused image. Teaching or forgetting an example of the label drops it, `save`
        keeps it; without any images the model's counts again.

        Args:
            label: one that was taught.
            images: those of its examples, in order of teaching, or none.
            refused: images that do not show the label.

        Returns the threshold, None where the model's counts. Raises `InvalidSupport` for an unknown label, or not an
        image for every example, and `InvalidImage`.
        """
        support = self._require(label)
        if len(images) not in (0, support.shots):
            raise InvalidSupport(f"{len(images)} images for {support.shots} examples of {label!r}: give all, in order")
        threshold = fitted_threshold(self, support, images, refused)
        self._exchange(label, support, replace(support, presence_threshold=threshold), "fit its presence")
        return threshold

    def adapt(
        self,
        label: str | None = None,
        *,
        seconds: float = 60.0,
        seed: int = 0,
        force: bool = False,
        curve: bool = False,
        progress: ProgressCallback | None = None,
    ) -> dict[str, Adaptation]:
        """Fit labels to their own examples where that helps: the more there are, the better their masks become.

        Networks are fitted that classify pixels by the backbone's maps, by filters and by the model's prediction, and
        tried on examples they have not seen; they are used where they predict those better than the model as taught.
        Results are the same for the same examples on the same machine. A label with one example stays as it is;
        teaching or forgetting an example of an adapted label drops what was fitted. `save` keeps it.

        Args:
            label: the one to adapt; all that were taught if not given.
            seconds: time to plan for, for each label, on two CPU cores; fits have fewer steps where it is below 60.
            seed: of the fits.
            force: use what was fitted wherever there are two examples or more, whatever left-out examples say.
            curve: measure a learning curve besides (`Adaptation.curve`), which says whether more examples would help.
            progress: called with work done, total and the label.

        The label's presence threshold is fitted as well, to the examples' scores, in place of an earlier one.

        Returns what it brought, by label. Raises `InvalidSupport` for an unknown label, or one whose examples came
        from a file, which holds no images: teach them again.
        """
        self.require_labels()
        chosen = self._supports if label is None else {label: self._require(label)}
        reports = {}
        for place, (name, support) in enumerate(chosen.items()):
            own = _one_of(progress or silent, place, len(chosen))
            adapted = adapt_support(
                self, name, support, seconds=seconds, seed=seed, force=force, curve=curve, progress=own
            )
            own(1, 1, name)  # labels with one example have told nothing
            reports[name] = adapted.report
            self._exchange(name, support, _with_adaptation(self, support, adapted), "adapt it")
            log.info("%s", adapted.report)
        return reports

    # --------------------------------------------------------------------------------------------- segmenting

    def segment(self, image: ImageLike, *, probabilities: bool = True) -> Prediction:
        """Every label's mask in an image, at the image's own size.

        Masks are where the foreground probability (bilinearly resized) is at least 0.5. Scores are calibrated
        probabilities that the label is in the image (at a prior of one half): Platt scaling, by `presence_scale`, of
        the mean probability of the most confident 1 % of the pixels at the model's size (that mean itself for models
        without a scale). The label is `present` where the score reaches `presence_threshold`; that never empties its
        mask. `probabilities=False` leaves that field out: huge images then need half the memory.

        Raises:
            InvalidImage: it cannot be read. InvalidSupport: nothing has been taught yet.
        """
        return self.segment_batch([image], probabilities=probabilities)[0]

    def segment_batch(
        self, images: Iterable[ImageLike], *, batch_size: int = 8, probabilities: bool = True
    ) -> list[Prediction]:
        """`segment` for several images, `batch_size` going through the model together.

        What other threads teach or forget meanwhile is for later calls. Raises what `segment` does, and
        `InvalidOption` for a batch size below 1 or one image that is in no list; nothing is returned then.
        """
        if batch_size < 1:
            raise InvalidOption(f"batch size {batch_size}: choose at least 1")
        if isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 4) < 4:
            raise InvalidOption("one image in place of several: give a list, [image], or call segment")
        now = self.with_supports(self._supports)
        now.require_labels()
        results: list[Prediction] = []
        waiting = iter(images)
        while some := list(itertools.islice(waiting, batch_size)):
            prepared = [now.preprocess(image) for image in some]
            for coarse, image in zip(now.predict(now.encode(prepared)), prepared, strict=True):
                results.append(now.postprocess(coarse, image.size, probabilities=probabilities))
        return results

    def predict(self, features: EncodedImages, supports: Mapping[str, LabelSupport] | None = None) -> Sequence[Tensor]:
        """Foreground probabilities (labels, h, w) of every image, on the CPU in float32.

        They are at the model's size, or where a label is adapted at the image's, no larger than 1,024 pixels.
        `supports`: in place of those taught. Raises `InvalidSupport` where nothing has been taught.
        """
        if supports is None:
            self.require_labels()
            supports = self._supports
        return predict_labels(self.method, features, list(supports.values()))

    @torch.no_grad()
    def label_probabilities(self, image: ImageLike, label: str) -> NDArray[np.float32]:
        own = self.with_supports({label: self._require(label)})
        return own.predict(own.encode([own.preprocess(image)]))[0][0].numpy()

    def postprocess(self, coarse: Tensor, size: tuple[int, int], *, probabilities: bool = True) -> Prediction:
        """The result at the image's size (width, height) from its probabilities (labels, s, s) at the model's."""
        return full_size_prediction(
            coarse, self.labels, size, self.presence_rule, self.object_shapes, probabilities=probabilities
        )

    # ------------------------------------------------------------------------------------------------- keeping

    def with_supports(self, supports: Mapping[str, LabelSupport] | None = None) -> Segmenter:
        """A segmenter over the same weights, in no more memory, that knows only `supports`.

        Those are `supports` of a segmenter with the same model and input sizes; None for an untaught one.
        """
        other = copy.copy(self)
        other._supports = dict(supports or {})
        return other

    def to(self, device: str | torch.device) -> Segmenter:
        """A copy on another device, with all that was taught: the same results up to rounding, the same fingerprint.

        Raises `InvalidOption` for a device that is not there.
        """
        where = choose_device(device)
        other = self.with_supports({k: s.to(where, self.method.dtype) for k, s in self._supports.items()})
        other.method = copy.deepcopy(self.method).to(where)
        return other

    @property
    def fingerprint(self) -> str:
        """A short hash of all that decides the result: model, examples, options. Not the device."""
        parts = [
            self.model_fingerprint,
            str(self.method.dtype),
            self.input_sizes,
            self.tta_flip,
            self.presence_threshold,
            self.presence_scale,
            [_identity(label, support) for label, support in self._supports.items()],
        ]
        if own := self.presence_rule.by_label:
            parts.append(own)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was taught to one file, atomically: encoded examples, no images, no model weights.

        Raises `OutputError` when it cannot be written; an older file stays as it was.
        """
        save_segmenter(self, self._supports, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        method: FewShotMethod | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        tta_flip: bool | None = None,
        presence_threshold: float | None = None,
        compile: bool = False,
    ) -> Segmenter:
        """Read what `save` wrote, over the model it was taught with, which is found again by its name or path.

        Args:
            path: the file.
            method: the model, where it cannot be found again or was passed to `Segmenter` directly.
            device: as in `Segmenter`.
            precision: as in `Segmenter`.
            tta_flip: as saved if not given.
            presence_threshold: as saved if not given; the model's own where its scores have another scale by now.
            compile: as in `Segmenter`.

        Raises:
            InvalidCheckpoint: no such file, not a saved segmenter, or the model is missing or another one.
        """
        options: dict[str, Any] = {"device": device, "precision": precision, "tta_flip": tta_flip, "compile": compile}
        options["presence_threshold"] = presence_threshold
        segmenter, supports = load_segmenter(cls, path, method, options)
        return segmenter.with_supports(supports)


def _with_adaptation(model: InferenceModel, support: LabelSupport, adapted: AdaptedLabel) -> LabelSupport:
    """The support with what was fitted, if that is to be used, and a presence threshold for its scores.

    Where it is not used the label stays as it was taught, without an earlier adaptation and the threshold for that.
    """
    if not adapted.report.adapted:
        return replace(support, adaptation=None, presence_threshold=None) if support.adaptation else support
    scores = [model.presence_scale(peak) for peak in adapted.peaks] if support.shots >= ENOUGH else []
    threshold = task_threshold(scores, [], model.presence_threshold) if scores else None
    return replace(support, adaptation=adapted, presence_threshold=threshold)


def _identity(label: str, support: LabelSupport) -> tuple[Any, ...]:
    """What a label's results depend on, beside the model."""
    fitted = support.adaptation
    return (label, support.digests, fitted.digest) if fitted else (label, support.digests)


def _one_of(progress: ProgressCallback, place: int, count: int) -> ProgressCallback:
    """The callback of one of `count` labels that take about equally long, in hundredths of a label."""
    return lambda done, total, last: progress(place * 100 + 100 * done // total, count * 100, last)
