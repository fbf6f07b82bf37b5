"""What a user holds: teach labels with a few images, segment others, keep what was taught in one file."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.devices import choose_device, choose_dtype
from fewseg.core.errors import InvalidCheckpoint, InvalidMask, InvalidOption, InvalidSupport
from fewseg.core.types import Prediction
from fewseg.images import ImageLike, read_mask
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Mark, require_outlined
from fewseg.images.transforms import square_image, square_mask
from fewseg.inference import supports as taught
from fewseg.inference.interactive import outline, region_features
from fewseg.inference.postprocess import full_size_prediction
from fewseg.inference.preprocess import PreparedImage, input_sizes, open_for, prepare
from fewseg.inference.supports import LabelSupport
from fewseg.models.backbones.capture import maps_seen
from fewseg.models.checkpoints import fingerprint, load_method, load_official
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import resize
from fewseg.models.presence import DEFAULT_THRESHOLD, PresenceScale

log = logging.getLogger(__name__)

_AT_ONCE = 32
"""Labels, times images, whose logits are held at the same time."""

_TEACHING = threading.Lock()
"""Held while examples that are encoded join others; of the module, so that segmenters can be copied and pickled."""


class Segmenter:
    """Learns labels from examples and finds them in images.

    >>> segmenter = Segmenter.from_pretrained()            # doctest: +SKIP
    >>> segmenter.teach("cat", "cat.jpg", "cat_mask.png")  # doctest: +SKIP
    >>> segmenter.segment("street.jpg").masks["cat"]       # doctest: +SKIP
    """

    def __init__(
        self,
        method: FewShotMethod,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        flips: bool = False,
        scales: Sequence[float] = (1.0,),
        presence_threshold: float | None = None,
        compile: bool = False,
    ) -> None:
        """Wrap a method, which moves to the chosen device in evaluation mode.

        Where the precision is another than the method's, a rounded copy of it is wrapped and the one given keeps its
        weights, so that it can serve again: with another precision, or for `load`.

        Args:
            method: a trained few-shot method.
            device: `auto` (CUDA, else Apple's GPU, else CPU) or a torch device.
            precision: `auto` (bfloat16 on CUDA devices that have it, on CPUs with a matrix unit for it if the method
                was measured to lose nothing by it; else float32), `float32`, `bfloat16`, `float16`.
            flips: average with the prediction for the mirrored image.
            scales: input sizes to average over, as factors of `method.config.image_size`, rounded to multiples of 32.
                Supports are encoded at every size, so this cannot change later.
            presence_threshold: score from which a label counts as present; the model's own if not given, else 0.5.
            compile: have `torch.compile` translate backbone and decoder when they first run: minutes, for a few percent
                on CPUs (docs/performance.md). The same results, to rounding.

        Raises:
            InvalidOption: an unknown device or precision, or an impossible scale or threshold.
        """
        if not isinstance(method, FewShotMethod):
            raise InvalidOption(
                f"a {type(method).__name__} is no method: give one of create_method, or call Segmenter.from_pretrained"
            )
        self._device = choose_device(device)
        dtype = choose_dtype(precision, self._device, method.bfloat16_on)
        if isinstance(scales, (int, float, str)):
            raise InvalidOption(f"scales {scales!r}: give a list of factors, e.g. ({scales},)")
        self.scales = tuple(float(s) for s in scales)
        self.input_sizes = input_sizes(method.config.image_size, self.scales)
        self.flips = flips
        if presence_threshold is None:
            presence_threshold = float(method.extra.get("presence_threshold", DEFAULT_THRESHOLD))
        if not isinstance(presence_threshold, (int, float, np.floating)) or not 0 <= presence_threshold <= 1:
            raise InvalidOption(f"presence threshold {presence_threshold}: choose a number from 0 to 1")
        self.presence_threshold = presence_threshold
        self.presence_scale = PresenceScale.of(method.extra)
        self.model_fingerprint = fingerprint(method)  # of the weights as they come, before rounding
        self.source: dict[str, str] | None = None
        """Where the model came from, for `load`; None for a method that was passed in."""
        if compile or any(v.is_floating_point() and v.dtype != dtype for v in method.state_dict().values()):
            method = copy.deepcopy(method)
        self.method = method.to(self._device, dtype).eval()
        if compile:
            self.method.compile_parts()
        self._supports: dict[str, LabelSupport] = {}

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str] = "default", **options: Any) -> Segmenter:
        """A segmenter over the embedded model (`default`), a file, a folder or a hub id; options as in `Segmenter`.

        Raises `InvalidCheckpoint` where it cannot be had or read, `InvalidOption` for impossible options.
        """
        segmenter = cls(load_method(name_or_path), **options)
        segmenter.source = {"name": taught.lasting_name(name_or_path)}
        return segmenter

    @classmethod
    def from_official(
        cls, path: str | os.PathLike[str], backbone: str, method: str = "dcama", **options: Any
    ) -> Segmenter:
        """A segmenter over the authors' released file; `method`, `backbone` and errors as in `load_official`."""
        segmenter = cls(load_official(path, method, backbone), **options)
        segmenter.source = {"name": taught.lasting_name(path), "official": backbone, "method": method}
        return segmenter

    # ------------------------------------------------------------------------------------------------ teaching

    @property
    def labels(self) -> tuple[str, ...]:
        """What has been taught, in order of teaching."""
        return tuple(self._supports)

    @property
    def supports(self) -> Mapping[str, LabelSupport]:
        """The encoded examples of every label, in order of teaching; they are values, this is for reading."""
        return MappingProxyType(self._supports)

    def shots(self, label: str) -> int:
        """How many examples `label` has; 0 if it was never taught."""
        return self._supports[label].shots if label in self._supports else 0

    def teach(
        self,
        label: str,
        image: ImageLike | Sequence[ImageLike],
        mask: ImageLike | Sequence[ImageLike] | None = None,
        *,
        value: MaskValue | None = None,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
    ) -> None:
        """Add one example, or a list of images and a list of masks; again for more shots or other labels.

        Args:
            label: any name of printable characters.
            image: anything `fewseg.images.read_image` reads.
            mask: the label's mask at the image's size: 0/255, 0/1, bool, or with `value`.
            value: which index, or RGB colour, of the mask is the label.
            box: instead of a mask, for one image, as in `outline`.
            points: likewise.
            scribble: likewise.

        Raises:
            InvalidImage, InvalidMask, InvalidSupport, InvalidOption: what is wrong with which file; nothing has been
                added then.
        """
        if not isinstance(label, str) or not label.strip():
            what = "is empty" if isinstance(label, str) else f"is of type {type(label).__name__}"
            raise InvalidSupport(f"label {label!r} {what}: give the class a name")
        if not label.isprintable():  # line breaks and the like would break lists, file names and pages of labels
            raise InvalidSupport(f"label {label!r} has characters that cannot be shown: leave them out")
        if mask is None:
            mask = self._outline_alone(label, image, value, {"box": box, "points": points, "scribble": scribble})
        elif any(v is not None for v in (box, points, scribble)):
            raise InvalidSupport(f"a mask and more for {label!r}: give exactly one of mask, box, points and scribble")
        images, masks = _listed(image), _listed(mask)
        if len(images) != len(masks) or not images:
            raise InvalidSupport(f"{len(images)} images and {len(masks)} masks for {label!r}: give one mask an image")
        shots = [self._encode(i, m, value) for i, m in zip(images, masks, strict=True)]
        with _TEACHING:
            before = [self._supports[label]] if label in self._supports else []
            self._supports[label] = LabelSupport.concatenate([*before, *shots])
        log.info("%s: %d shots", label, self.shots(label))

    def outline(
        self,
        image: ImageLike,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) of the object that one of these stands for, by `fewseg.inference.interactive`: what `teach`
        makes of it.

        Args:
            image: anything `fewseg.images.read_image` reads.
            box: x0, y0, x1, y1 around the object, in pixels of the upright image.
            points: each x, y, and 1 where it is inside or 0 where it is outside.
            scribble: a line inside, as places x, y; or several lines.

        Raises:
            InvalidImage, InvalidSupport, InvalidOption: it cannot be read, or such marks cannot be meant.
        """
        return self.outline_marks(image, [Mark.of(box=box, points=points, scribble=scribble)])

    @torch.no_grad()
    def outline_marks(self, image: ImageLike, marks: Sequence[Mark]) -> NDArray[np.bool_]:
        """The mask (H, W) of all that several marks stand for, each one object; raises as `outline`."""
        inputs = self.prepare(image).inputs[0][None]
        with maps_seen(self.method.backbone) as maps:
            self.method.encode_query(inputs.to(self._device))
        return outline(image, marks, region_features(maps, inputs)[0])

    def _outline_alone(self, label: str, image: Any, value: MaskValue | None, given: dict[str, Any]) -> Any:
        """The mask for `teach` without one."""
        if sum(v is not None for v in given.values()) != 1:
            raise InvalidSupport(f"for {label!r} give exactly one of mask, box, points and scribble")
        if isinstance(image, (list, tuple)):
            raise InvalidSupport(f"marks for {len(image)} images of {label!r}: teach them one by one")
        if value is not None:
            raise InvalidOption(f"value {value!r} chooses in a mask, and {label!r} has none: leave it out")
        mask = self.outline(image, **given)
        require_outlined(mask, repr(label))
        return mask

    @torch.no_grad()
    def _encode(self, image: ImageLike, mask: ImageLike, value: MaskValue | None) -> LabelSupport:
        picture = open_for(image, self.input_sizes)
        foreground = read_mask(mask, value=value, size=picture.size, orientation=picture.orientation)
        digest = hashlib.sha256()
        sets = []
        for size in self.input_sizes:
            pixels, truth = square_image(picture.image, size), square_mask(foreground, size)
            if not (truth == 1).any():
                raise InvalidMask(
                    f"the foreground in the mask of {picture.name} vanishes at the model's input size of {size}: "
                    "crop image and mask around the object"
                )
            digest.update(pixels.numpy().tobytes() + truth.numpy().tobytes())
            sets.append(self.method.encode_support(pixels[None, None], truth[None, None]))
        return LabelSupport(tuple(sets), (digest.hexdigest()[:16],))

    def forget(self, label: str, shot: int | None = None) -> None:
        """Drop a label, or one of its shots (its only one drops the label).

        Raises `InvalidSupport` for a label that was not taught, or a shot it does not have.
        """
        if label not in self._supports:
            raise taught.unknown_label(label, self.labels)
        support = self._supports[label]
        if shot is not None and not -support.shots <= shot < support.shots:
            raise InvalidSupport(f"{label!r} has no shot {shot}: choose from 0 to {support.shots - 1}")
        if shot is None or support.shots == 1:
            del self._supports[label]
        else:
            self._supports[label] = support.drop(shot)

    # --------------------------------------------------------------------------------------------- segmenting

    def segment(self, image: ImageLike, *, probabilities: bool = True) -> Prediction:
        """Every label's mask in an image, at the image's own size.

        Masks are where the foreground probability (bilinearly resized) is at least 0.5. A label's score is how probable
        it is that the label is in the image at all, if half of all images held it: what `presence_scale` makes of
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
        now = self.view(self._supports)
        now.require_labels()
        found: list[Prediction] = []
        waiting = iter(images)
        while some := list(itertools.islice(waiting, batch_size)):
            prepared = [now.prepare(image) for image in some]
            coarse = now.coarse_probabilities(prepared)
            found += [now.finish(c, p.size, probabilities=probabilities) for c, p in zip(coarse, prepared, strict=True)]
        return found

    def prepare(self, image: ImageLike) -> PreparedImage:
        """Read an image and resize it to the model's inputs: the part of `segment` that worker threads can do."""
        return prepare(open_for(image, self.input_sizes), self.input_sizes)

    @torch.no_grad()
    def coarse_probabilities(self, images: Sequence[PreparedImage]) -> Tensor:
        """Foreground probabilities (images, labels, s, s) at the model's size, on the CPU in float32.

        Query features are computed once for all labels, and what else the method can share among them.
        """
        self.require_labels()
        every = [support.sets for support in self._supports.values()]
        labels = max(1, _AT_ONCE // len(images))
        side = self.method.config.image_size
        total = torch.zeros(len(images), len(self._supports), side, side)
        for index in range(len(self.input_sizes)):
            batch = torch.stack([p.inputs[index] for p in images]).to(self._device)
            for mirrored in (False, True) if self.flips else (False,):
                query = self.method.encode_query(batch.flip(-1) if mirrored else batch)
                for start in range(0, len(self._supports), labels):
                    some = slice(start, start + labels)
                    logits = self.method.segment_labels(query, [sets[index] for sets in every[some]]).float()
                    foreground = resize(F.softmax(logits, 2)[:, :, 1], (side, side))
                    total[:, some] += (foreground.flip(-1) if mirrored else foreground).cpu()
        return total / (len(self.input_sizes) * (1 + self.flips))

    def finish(self, coarse: Tensor, size: tuple[int, int], *, probabilities: bool = True) -> Prediction:
        """The result at the image's size (width, height) from its coarse probabilities (labels, s, s)."""
        return full_size_prediction(
            coarse, self.labels, size, self.presence_threshold, scale=self.presence_scale, probabilities=probabilities
        )

    def require_labels(self) -> None:
        """Raise `InvalidSupport` if nothing has been taught yet."""
        if not self._supports:
            raise InvalidSupport("nothing has been taught yet: call teach(label, image, mask) first")

    # ------------------------------------------------------------------------------------------------- keeping

    def view(self, supports: Mapping[str, LabelSupport] | None = None) -> Segmenter:
        """Another segmenter over the same weights, in no more memory, that knows only `supports`.

        Those are `supports` of a segmenter with the same model and input sizes; None for an untaught one.
        """
        other = copy.copy(self)
        other._supports = dict(supports or {})
        return other

    def on(self, device: str | torch.device) -> Segmenter:
        """A copy on another device, with all that was taught: the same results up to rounding, the same fingerprint.

        Raises `InvalidOption` for a device that is not there.
        """
        where = choose_device(device)
        other = self.view({k: s.to(where, self.method.dtype) for k, s in self._supports.items()})
        other._device, other.method = where, copy.deepcopy(self.method).to(where)
        return other

    @property
    def fingerprint(self) -> str:
        """A short hash of all that decides the result: model, examples, options. Not the device."""
        parts = [
            self.model_fingerprint,
            str(self.method.dtype),
            self.input_sizes,
            self.flips,
            self.presence_threshold,
            self.presence_scale,
            [(label, support.digests) for label, support in self._supports.items()],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that was taught to one file, atomically: encoded examples, no images, no model weights.

        Raises `OutputError` when it cannot be written; an older file stays as it was.
        """
        about = {
            "method": self.method.name,
            "model": self.source,
            "fingerprint": self.model_fingerprint,
            "scales": self.scales,
            "flips": self.flips,
            "presence_threshold": self.presence_threshold,
            "presence_scale": self.presence_scale,
        }
        taught.save(path, self._supports, about)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        method: FewShotMethod | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        flips: bool | None = None,
        presence_threshold: float | None = None,
        compile: bool = False,
    ) -> Segmenter:
        """Read what `save` wrote, over the model it was taught with, which is found again by its name or path.

        Args:
            path: the file.
            method: the model, where it cannot be found again or was passed to `Segmenter` directly.
            device: as in `Segmenter`.
            precision: as in `Segmenter`.
            flips: as saved if not given.
            presence_threshold: as saved if not given; the model's own where its scores have another scale by now.
            compile: as in `Segmenter`.

        Raises:
            InvalidCheckpoint: no such file, not a saved segmenter, or the model is missing or another one.
        """
        supports, about = taught.load(path)
        source = None
        if method is None:
            source = about["model"]
            method = taught.find_model(source, os.fspath(path))
        segmenter = cls(
            method,
            device=device,
            precision=precision,
            flips=about["flips"] if flips is None else flips,
            scales=about["scales"],
            presence_threshold=presence_threshold,
            compile=compile,
        )
        # On another scale the same number would mean something else.
        if presence_threshold is None and segmenter.presence_scale == PresenceScale(*about["presence_scale"]):
            segmenter.presence_threshold = about["presence_threshold"]
        segmenter.source = source
        if segmenter.model_fingerprint != about["fingerprint"]:
            raise InvalidCheckpoint(
                f"{os.fspath(path)} was taught with another model than {source['name'] if source else 'the given one'} "
                f"({about['method']}, fingerprint {about['fingerprint']}, not {segmenter.model_fingerprint}): "
                "load it with that model, or teach again"
            )
        if any(len(support.sets) != len(segmenter.input_sizes) for support in supports.values()):  # sizes may coincide
            raise InvalidCheckpoint(
                f"{os.fspath(path)} has examples for other input sizes than its scales: teach again"
            )
        segmenter._supports = {k: s.to(segmenter._device, segmenter.method.dtype) for k, s in supports.items()}
        return segmenter


def _listed(value: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    return list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]
