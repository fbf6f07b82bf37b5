"""From names and options to a method."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.backbones import BackboneSpec, MapChoice, build_pyramid, create_backbone
from fewseg.models.methods.base import FewShotMethod
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.methods.dcama_light.method import DCAMALight
from fewseg.models.methods.foris.method import FoRIS
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.insid3.method import INSID3
from fewseg.models.methods.prototype import Prototype
from fewseg.models.methods.saved_names import refuse_old_options
from fewseg.models.methods.sccan.method import SCCAN

METHODS: dict[str, type[FewShotMethod]] = {
    kind.name: kind for kind in (DCAMA, DCAMALight, FoRIS, HSNet, INSID3, Prototype, SCCAN)
}
"""Every method by name; `register_method` adds yours."""

_Kind = TypeVar("_Kind", bound=type[FewShotMethod])


def register_method(kind: _Kind) -> _Kind:
    """Make a method of your own known by its name: to `create_method`, checkpoints, training and the command line.

    A class decorator. Defining the class again, as a notebook's cell that is run twice does, replaces it.

    Raises:
        InvalidOption: the class lacks a name or a config, or the name is another class's.
    """
    name, config = getattr(kind, "name", None), getattr(kind, "Config", None)
    if not isinstance(name, str) or not name:
        raise InvalidOption(f'{kind.__qualname__} has no name: write `name: ClassVar[str] = "..."` in it')
    if not dataclasses.is_dataclass(config) or "image_size" not in {f.name for f in dataclasses.fields(config)}:
        raise InvalidOption(f"{kind.__qualname__}.Config is {config!r}: give a dataclass with a field image_size")
    before = METHODS.get(name, kind)
    if (before.__module__, before.__qualname__) != (kind.__module__, kind.__qualname__):
        raise InvalidOption(
            f"method {name!r} is {before.__module__}.{before.__qualname__} already: name {kind.__qualname__} otherwise"
        )
    METHODS[name] = kind
    return kind


def create_method(
    name: str = "dcama",
    *,
    backbone: str = "resnet50",
    pretrained: bool = False,
    backbone_weights: str | os.PathLike[str] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    backbone_normalisation: str | None = None,
    backbone_maps: MapChoice | None = None,
    **config: Any,
) -> FewShotMethod:
    """A new, untrained method over a frozen backbone, in eval mode.

    Args:
        name: the method, e.g. `dcama`.
        backbone: `resnet50`, `dinov3-large`, ... (`fewseg.models.backbones.names` has all), `tiny` or any timm model
            name.
        pretrained: use the backbone's published weights, downloaded where they are not here yet.
        backbone_weights: read them from a local file instead.
        backbone_options: keyword arguments for the backbone's constructor.
        backbone_normalisation: pixel scaling of the weights: `imagenet`, `half` or `none`; known for timm's own.
        backbone_maps: which of the backbone's maps the method works with; its own choice if not given.
        config: fields of the method's config, e.g. `image_size=320`.

    Raises:
        InvalidOption: an unknown name or option. InvalidCheckpoint: weights that cannot be read or do not fit.
    """
    settings = _config(name, config)
    pyramid = create_backbone(
        METHODS[name].backbone_aliases.get(backbone, backbone),
        pretrained=pretrained,
        pretrained_name=METHODS[name].pretrained_backbones.get(backbone),
        weights=backbone_weights,
        options=backbone_options,
        normalisation=backbone_normalisation,
        maps=METHODS[name].backbone_maps if backbone_maps is None else backbone_maps,
        transformer_maps=METHODS[name].transformer_maps if backbone_maps is None else None,
    )
    return METHODS[name](pyramid, settings).eval()  # type: ignore[call-arg]


def build_method(name: str, backbone: BackboneSpec, config: Mapping[str, Any]) -> FewShotMethod:
    """The architecture that a checkpoint describes, weights random, in eval mode."""
    settings = _config(name, config)
    return METHODS[name](build_pyramid(backbone), settings).eval()  # type: ignore[call-arg]


def _config(name: str, values: Mapping[str, Any]) -> Any:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    refuse_old_options(name, values)
    kind = METHODS[name].Config
    fields = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise unknown(f"option of {name}", key, fields)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
