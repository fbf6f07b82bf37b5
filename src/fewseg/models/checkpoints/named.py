"""One way to name a model, for `--model`, `Segmenter.from_pretrained` and saved files.

`default` and the other names of `fewseg.models.zoo`; a fewseg checkpoint: a file, a folder or a hub id `user/name`;
`METHOD:BACKBONE:FILE`, a file that a paper's authors released; `METHOD:BACKBONE`, a method without training over the
backbone's published weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.backbones.create import load_published_weights
from fewseg.models.checkpoints.native import EMBEDDED, lasting_name, load_method
from fewseg.models.checkpoints.official import load_official
from fewseg.models.methods import METHODS, FewShotMethod, create_method
from fewseg.models.zoo import ZOO, ZooModel


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name."""

    text: str
    method: str | None = None
    """Named in it, or by the zoo; a checkpoint says it itself."""
    backbone: str | None = None
    file: str | None = None
    """The authors' released file."""
    zoo: ZooModel | None = None

    @classmethod
    def parse(cls, name: str | os.PathLike[str]) -> Self:
        """Raises `InvalidOption` for a name of parts that lacks one, or names an unknown method."""
        text = os.fspath(name)
        if text in EMBEDDED:
            return cls(text)
        if text in ZOO:
            model = ZOO[text]
            return cls(text, model.method, model.backbone, None, model)
        method, _, rest = text.partition(":")
        if method not in METHODS or not rest:
            if rest and method.isidentifier() and len(method) > 1 and not Path(text).exists():  # no drive of Windows
                raise unknown("method", method, METHODS)
            return cls(text)
        backbone, colon, file = rest.partition(":")
        if not backbone or (colon and not file):
            raise InvalidOption(
                f"model {text}: give {method}:BACKBONE, or {method}:BACKBONE:FILE for the authors' released file"
            )
        return cls(text, method, backbone, file or None)

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a fewseg checkpoint, which brings its method's config."""
        return self.method is None

    @property
    def source(self) -> dict[str, str]:
        """What a saved file keeps to find the model again; paths are absolute."""
        if self.file is not None and self.method is not None and self.backbone is not None:
            return {"name": lasting_name(self.file), "official": self.backbone, "method": self.method}
        return {"name": self.text if self.text in EMBEDDED or self.method else lasting_name(self.text)}


def open_model(
    name: str | os.PathLike[str] = "default",
    device: torch.device | str | None = None,
    *,
    image_size: int | None = None,
    backbone_weights: str | os.PathLike[str] | None = None,
    **config: Any,
) -> FewShotMethod:
    """The method behind a name, in eval mode, float32.

    Args:
        name: see the module's docstring.
        device: where to put it.
        image_size: side of the square input, pixels; the model's own if not given.
        backbone_weights: a local file in place of the backbone's published weights, where those are needed.
        config: fields of the method's config; a checkpoint brings its own.

    Raises:
        InvalidCheckpoint: it cannot be found, downloaded or read. InvalidOption: a method that has to be trained, or
            options that do not go together.
    """
    named = ModelName.parse(name)
    size: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    if named.file is None and named.method is not None:
        method = _without_training(named, backbone_weights, {**size, **config})
    elif backbone_weights is not None:
        raise InvalidOption("a checkpoint brings its backbone: leave out backbone weights, or name METHOD:BACKBONE")
    elif named.file is not None:
        assert named.method is not None
        assert named.backbone is not None
        method = load_official(named.file, named.method, named.backbone, **size, **config)
    elif config:
        raise InvalidOption(f"{named.text} brings its method's config: leave out {', '.join(config)}")
    else:
        method = load_method(named.text, image_size=image_size)
    return method if device is None else method.to(device)


def _without_training(
    named: ModelName, weights: str | os.PathLike[str] | None, config: dict[str, Any]
) -> FewShotMethod:
    """A method that needs no training over its backbone; raises `InvalidOption` for one that does."""
    assert named.method is not None
    assert named.backbone is not None
    if named.zoo is not None:
        config = {"image_size": named.zoo.image_size, **named.zoo.config, **config}
    method = create_method(named.method, backbone=named.backbone, backbone_weights=weights, **config)
    if any(True for _ in method.trainable_parameters()):
        raise InvalidOption(
            f"{named.method} has to be trained: give what `fewseg train` made with --model FILE, or the authors' "
            f"release with --model {named.method}:{named.backbone}:FILE"
        )
    if weights is None:  # only now: nothing is downloaded for a model that cannot be
        load_published_weights(method.backbone, method.pretrained_backbones.get(named.backbone))
    return method
