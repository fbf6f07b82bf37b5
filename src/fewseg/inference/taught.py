"""The part of a `Segmenter` that is taught labels, and keeps what it knows of each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.core.objects import Kind, check_kind
from fewseg.images import ImageLike
from fewseg.images.doubts import MEANT, label_doubt
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import require_foreground
from fewseg.inference.model import InferenceModel
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.postprocess import PresenceRule
from fewseg.inference.supports import LabelSupport, check_label, unknown_label

log = logging.getLogger(__name__)

_TEACHING = threading.Lock()
"""Held while examples that are encoded join others; of the module, so that segmenters can be copied and pickled."""


class TaughtModel(InferenceModel):
    """A model that is taught labels."""

    _supports: Mapping[str, LabelSupport] = MappingProxyType({})
    """Replaced, never changed: whoever took it goes on with what was taught then."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that have been taught, in order of teaching."""
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
        check: bool = True,
    ) -> None:
        """Add one example, or a list of images and a list of masks; again for more shots or other labels.

        Args:
            label: any name of printable characters.
            image: anything `fewseg.images.read_image` reads.
            mask: the label's mask at the image's size: 0/255, 0/1, bool, or with `value`.
            value: which index, or RGB colour, of the mask is the label; "instances" for an instance map, in which
                every value but 0 is one object: size and shape of single objects are learnt from it.
            box: instead of a mask, for one image, as in `mask_from_prompt`; so are `points` and `scribble`.
            points: likewise.
            scribble: likewise.
            check: warn of masks that cover the whole image or look inverted, and of labels that are hardly different
                or name the parts of a data set.

        Raises:
            InvalidImage, InvalidMask, InvalidSupport, InvalidOption: what is wrong with which file; nothing has been
                added then.
        """
        check_label(label)
        prompt = {"box": box, "points": points, "scribble": scribble}
        if mask is None:
            mask = self._mask_to_teach(label, image, value, prompt)
        elif any(v is not None for v in prompt.values()):
            raise InvalidSupport(f"a mask and more for {label!r}: give exactly one of mask, box, points and scribble")
        images, masks = _listed(image), _listed(mask)
        if len(images) != len(masks) or not images:
            raise InvalidSupport(f"{len(images)} images and {len(masks)} masks for {label!r}: give one mask an image")
        if check and label not in self._supports and (doubt := label_doubt(label, self.labels)):
            log.warning("%s; %s", doubt, MEANT)
        shots = [self.encode_example(i, m, value, check=check) for i, m in zip(images, masks, strict=True)]
        self._add(label, shots)
        log.info("%s: %d shots", label, self.shots(label))
        if self.kind(label) == "stuff" and self._supports[label].kind is None:
            log.info("%s looks like stuff: it has no single objects, unless set_kind(%r, 'thing')", label, label)

    def _add(self, label: str, shots: Sequence[LabelSupport]) -> None:
        """Add encoded examples behind those that the label has."""
        with _TEACHING:
            before = [self._supports[label]] if label in self._supports else []
            self._supports = {**self._supports, label: LabelSupport.concatenate([*before, *shots])}
        _say_dropped(label, before)

    def _mask_to_teach(self, label: str, image: Any, value: MaskValue | None, prompt: dict[str, Any]) -> Any:
        """The mask for `teach` without one."""
        if sum(v is not None for v in prompt.values()) != 1:
            raise InvalidSupport(f"for {label!r} give exactly one of mask, box, points and scribble")
        if isinstance(image, (list, tuple)):
            raise InvalidSupport(f"a prompt for {len(image)} images of {label!r}: teach them one by one")
        if value is not None:
            raise InvalidOption(f"value {value!r} chooses in a mask, and {label!r} has none: leave it out")
        mask = self.mask_from_prompt(image, **prompt, label=label if label in self._supports else None)
        require_foreground(mask, repr(label))
        return mask

    def forget(self, label: str, shot: int | None = None) -> None:
        """Drop a label, or one of its shots (its only one drops the label).

        Raises `InvalidSupport` for a label that was not taught, or a shot it does not have.
        """
        with _TEACHING:
            support = self._require(label)
            if shot is not None and not -support.shots <= shot < support.shots:
                raise InvalidSupport(f"{label!r} has no shot {shot}: choose from 0 to {support.shots - 1}")
            if shot is None or support.shots == 1:
                self._supports = {k: s for k, s in self._supports.items() if k != label}
            else:
                self._supports = {**self._supports, label: support.drop(shot)}
        _say_dropped(label, [support])

    def kind(self, label: str) -> Kind:
        """Whether the label is one of things, which are counted, or of stuff, as was set or as its examples look."""
        return self._require(label).shape.kind

    def set_kind(self, label: str, kind: Kind | None) -> None:
        """Say that a label is one of things or of stuff; None: as its examples look. `save` keeps it.

        Raises `InvalidSupport` for an unknown label, `InvalidOption` for an unknown kind.
        """
        if kind is not None:
            check_kind(kind)
        with _TEACHING:
            self._supports = {**self._supports, label: replace(self._require(label), kind=kind)}

    @property
    def object_shapes(self) -> dict[str, ObjectShape]:
        """The typical object of every label, which tells single objects apart, and the label's kind."""
        return {label: support.shape for label, support in self._supports.items()}

    def _exchange(self, label: str, before: LabelSupport, after: LabelSupport, repeat: str) -> None:
        """Put what was made of `before` in its place; raises `InvalidSupport` where the label has changed meanwhile."""
        with _TEACHING:
            if self._supports.get(label) is not before:
                raise InvalidSupport(f"{label!r} was taught or forgotten meanwhile: {repeat} again")
            self._supports = {**self._supports, label: after}

    def _require(self, label: str) -> LabelSupport:
        """What is known of a label; raises `InvalidSupport` for an unknown one."""
        if label not in self._supports:
            raise unknown_label(label, self.labels)
        return self._supports[label]

    def require_labels(self) -> None:
        """Raise `InvalidSupport` if nothing has been taught yet."""
        if not self._supports:
            raise InvalidSupport("nothing has been taught yet: call teach(label, image, mask) first")

    @property
    def needs_pixels(self) -> bool:
        return any(support.adaptation for support in self._supports.values())

    @property
    def presence_rule(self) -> PresenceRule:
        """When a label counts as present."""
        own = {label: s.presence_threshold for label, s in self._supports.items() if s.presence_threshold is not None}
        return replace(super().presence_rule, by_label=own)


def _listed(value: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    return list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]


def _say_dropped(label: str, before: Sequence[LabelSupport]) -> None:
    """Log that what was fitted to other examples of the label than it has now is gone."""
    if any(support.adaptation for support in before):
        log.info("%s: what was fitted to its examples is dropped; call adapt again", label)
