"""A few-shot method made ready to segment: device and precision, input sizes, and the steps that need no labels."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.core.devices import choose_device, choose_dtype
from fewseg.core.errors import InvalidOption
from fewseg.images import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Prompt
from fewseg.inference.adaptation.examples import Example
from fewseg.inference.interactive import prompter
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.postprocess import PresenceRule
from fewseg.inference.predict import EncodedImages, encode_images
from fewseg.inference.preprocess import PreparedImage, example_mask, input_sizes, open_for, prepare, prepare_mask
from fewseg.inference.prompted import Guidance
from fewseg.inference.self_support import SelfSupport
from fewseg.inference.supports import LabelSupport, unknown_label
from fewseg.models.checkpoints import ModelName, fingerprint, open_model
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import DEFAULT_THRESHOLD, PresenceScale

log = logging.getLogger(__name__)


class InferenceModel:
    """The part of a `Segmenter` that knows no labels."""

    def __init__(
        self,
        method: FewShotMethod,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        tta_flip: bool = False,
        tta_scales: Sequence[float] = (1.0,),
        presence_threshold: float | None = None,
        compile: bool = False,
    ) -> None:
        """Wrap a method, which moves to the chosen device in evaluation mode.

        Where the precision is another than the method's, a rounded copy is wrapped; the one given keeps its weights.

        Args:
            method: a trained few-shot method.
            device: `auto` (CUDA, else Apple's GPU, else CPU) or a torch device.
            precision: `auto` (bfloat16 where the device has units for it and the method was measured to lose nothing,
                see `FewShotMethod.bfloat16_devices`; else float32), `float32`, `bfloat16`, `float16`.
            tta_flip: average with the prediction for the mirrored image.
            tta_scales: factors of the input size to average over, in multiples of 32 pixels; supports depend on them.
            presence_threshold: score from which a label counts as present; the model's own if not given, else 0.5.
            compile: use `torch.compile`, see `FewShotMethod.compile_parts` and docs/performance.md.

        Raises:
            InvalidOption: an unknown device or precision, or an impossible scale or threshold.
        """
        if not isinstance(method, FewShotMethod):
            raise InvalidOption(
                f"a {type(method).__name__} is no method: give one of create_method, or call Segmenter.from_pretrained"
            )
        device = choose_device(device)
        dtype = choose_dtype(precision, device, method.bfloat16_devices)
        self.input_sizes = input_sizes(method.config.image_size, tta_scales)
        self.tta_flip, self.tta_scales = tta_flip, tuple(float(s) for s in tta_scales)
        self.presence_threshold = _threshold(method, presence_threshold)
        self.presence_scale = PresenceScale.of(method.extra)
        self.model_fingerprint = fingerprint(method)  # of the weights as they come, before rounding
        self.source: dict[str, str] | None = None  # where it came from, for `load`; None for a method passed in
        if compile or any(v.is_floating_point() and v.dtype != dtype for v in method.state_dict().values()):
            method = copy.deepcopy(method)
        self.method = method.to(device, dtype).eval()
        if compile:
            self.method.compile_parts()

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str] = "default", **options: Any) -> Self:
        """A segmenter over a named model; options as in `Segmenter`.

        `name_or_path`: `default` (embedded), `foris-small` or another name that `fewseg models` lists, a file, a folder
        or a hub id, `METHOD:BACKBONE:FILE` for an authors' release: see `fewseg.models.checkpoints.named`.

        Raises `InvalidCheckpoint` where it cannot be had or read, `InvalidOption` for impossible options.
        """
        segmenter = cls(open_model(name_or_path), **options)
        segmenter.source = ModelName.parse(name_or_path).source
        return segmenter

    @classmethod
    def from_official(cls, path: str | os.PathLike[str], backbone: str, method: str = "dcama", **options: Any) -> Self:
        """A segmenter over the authors' released file; `method`, `backbone` and errors as in `load_official`."""
        return cls.from_pretrained(f"{method}:{backbone}:{os.fspath(path)}", **options)

    def preprocess(self, image: ImageLike) -> PreparedImage:
        """Read an image and resize it to the model's inputs: the part of `segment` that worker threads can do."""
        return prepare(open_for(image, self.input_sizes), self.input_sizes, pixels=self.needs_pixels)

    @property
    def needs_pixels(self) -> bool:
        """Whether prepared images are to carry their pixels, for adapted labels."""
        return False

    def encode(self, images: Sequence[PreparedImage]) -> EncodedImages:
        """The query features of a batch of images (at least one), which serve any supports."""
        return encode_images(self.method, images, self.tta_flip)

    @torch.no_grad()
    def encode_example(
        self, image: ImageLike, mask: ImageLike, value: MaskValue | None = None, *, check: bool = False
    ) -> LabelSupport:
        """One example as `teach` keeps it, for `with_supports`; arguments and errors as there."""
        opened = open_for(image, self.input_sizes)
        foreground, instances = example_mask(opened, mask, value, check=check)
        truths = prepare_mask(foreground, self.input_sizes, f"the mask of {opened.name}")
        digest = hashlib.sha256()
        sets = []
        for pixels, truth in zip(prepare(opened, self.input_sizes).inputs, truths, strict=True):
            digest.update(pixels.numpy().tobytes() + truth.numpy().tobytes())
            sets.append(self.method.encode_support(pixels[None, None], truth[None, None]))
        example = Example.of(opened.image, foreground)
        objects = ExampleObjects.of(foreground, instances)
        return LabelSupport(tuple(sets), (digest.hexdigest()[:16],), examples=(example,), objects=(objects,))

    def mask_from_prompt(
        self,
        image: ImageLike,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
        label: str | None = None,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) of the object that one prompt stands for: what `teach` learns from.

        Args:
            image: anything `fewseg.images.read_image` reads.
            box: x0, y0, x1, y1 around the object, in pixels of the upright image.
            points: each x, y, and 1 where it is inside or 0 where it is outside.
            scribble: a line inside, as places x, y; or several lines.
            label: what the object is, where that has been taught: its examples help to find it.

        Raises:
            InvalidImage, InvalidSupport, InvalidOption: it cannot be read, such a prompt cannot be meant, or the label
                was not taught.
        """
        return self.mask_from_prompts(image, [Prompt.of(box=box, points=points, scribble=scribble)], label)

    def mask_from_prompts(
        self, image: ImageLike, prompts: Sequence[Prompt], label: str | None = None
    ) -> NDArray[np.bool_]:
        """The mask (H, W) of all objects that prompts stand for, one each; raises as `mask_from_prompt`."""
        mask_of = self.prompter(image, label)
        return np.logical_or.reduce([mask_of(prompt) for prompt in prompts])

    @torch.no_grad()
    def prompter(self, image: ImageLike, label: str | None = None) -> Callable[[Prompt], NDArray[np.bool_]]:
        """A function that gives the mask (H, W) of one prompt after another in an image, which is encoded once.

        It raises as `mask_from_prompt` does, and this `InvalidImage` and for a label that was not taught.
        """
        taught = None if label is None else self.label_probabilities(image, label)
        known = SelfSupport(self.method, open_for(image, self.input_sizes))
        return prompter(image, known.features, Guidance(known.like, taught))

    def label_probabilities(self, image: ImageLike, label: str) -> NDArray[np.float32]:
        """Probabilities (h, w) of a label by its examples; raises `InvalidSupport` where it was not taught."""
        raise unknown_label(label, ())

    @property
    def presence_rule(self) -> PresenceRule:
        """When a label counts as present, unless it has a threshold of its own."""
        return PresenceRule(self.presence_threshold, self.presence_scale)

    @property
    def default_batch_size(self) -> int:
        """Images that best go through the model together: 1 on a CPU, 8 on a GPU."""
        return 1 if self.method.device.type == "cpu" else 8


def _threshold(method: FewShotMethod, chosen: float | None) -> float:
    """The chosen presence threshold, or the model's; raises `InvalidOption` for an impossible one."""
    if chosen is None:
        chosen = float(method.extra.get("presence_threshold", DEFAULT_THRESHOLD))
    if not isinstance(chosen, (int, float, np.floating)) or not 0 <= chosen <= 1:
        raise InvalidOption(f"presence threshold {chosen}: choose a number from 0 to 1")
    return chosen
