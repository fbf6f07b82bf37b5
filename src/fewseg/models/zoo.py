"""Models by name: `Segmenter.from_pretrained("foris-small")`, `--model foris-small`, `fewseg models`.

This file is the registry. All but the default are methods without training over published backbones; their weights are
downloaded at the first use, and none come with fewseg.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fewseg.models.backbones.names import NAMED_BACKBONES
from fewseg.models.backbones.published import PublishedWeights, published_weights


@dataclass(frozen=True)
class ZooModel:
    """What a name stands for."""

    name: str
    method: str
    backbone: str
    image_size: int
    """Side of the square input, pixels."""
    about: str
    """When to choose it, in a few words."""
    measured: str
    """What was measured, where, and by whom."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the method's config, beside the size."""

    @property
    def embedded(self) -> bool:
        """Whether the package carries it."""
        return self.backbone == "tiny"

    @property
    def weights(self) -> PublishedWeights | None:
        """Where the backbone's weights come from; None for those that the package carries."""
        return None if self.embedded else published_weights(NAMED_BACKBONES[self.backbone][0])

    @property
    def licence(self) -> str:
        """Of the weights."""
        return "Apache-2.0" if self.weights is None else self.weights.licence

    @property
    def here(self) -> bool:
        """Whether its weights are on this machine."""
        return self.weights is None or self.weights.here() is not None


_NOT_MEASURED: Final = "not measured: no published number, and none of ours"
_INSID3: Final = "INSID3's paper, with a CRF that is left out here: COCO-20i 57.6 and 65.1 mIoU (1 and 5 shots)"
_FORIS: Final = (
    "FoRIS's paper: COCO-20i 59.5 mIoU (1 shot) at 512 px with a CRF; without, as here, a third party has 59.0 on 1200"
    " episodes"
)
_FORIS_1024: Final = (
    "FoRIS's paper: COCO-20i 60.9 mIoU (1 shot) at 1024 px with a CRF; without, as here, a third party has 60.5 on 1200"
    " episodes"
)


def _all() -> Iterator[ZooModel]:
    yield ZooModel(
        "default",
        "dcama_light",
        "tiny",
        384,
        "comes with fewseg, 6 MB, quick on any laptop",
        "COCO novel classes 37.0 and 44.0 mIoU (1 and 5 shots), ours: docs/default-model.md",
    )
    for size in ("small", "base", "large"):
        for family in ("dinov2", "dinov3"):
            yield ZooModel(
                f"prototype-{family}-{size}",
                "prototype",
                f"{family}-{size}",
                448,  # whole patches of 14 and of 16
                "the simplest comparison of strong features; the baseline to beat",
                _NOT_MEASURED,
            )
    for size in ("small", "base", "large"):
        measured = _FORIS if size == "large" else _NOT_MEASURED
        about = "no training, the best masks of objects; a GPU" if size == "large" else "no training, strong features"
        yield ZooModel(f"foris-{size}", "foris", f"dinov3-{size}", 512, about, measured)
    about = "foris-large at six times the time, for small things"
    yield ZooModel("foris-large-1024", "foris", "dinov3-large", 1024, about, _FORIS_1024)
    for size in ("small", "base", "large"):
        side, measured = (1024, _INSID3) if size == "large" else (512, _NOT_MEASURED)
        about = "no training; finds nothing where nothing fits"
        yield ZooModel(f"insid3-{size}", "insid3", f"dinov3-{size}", side, about, measured)


ZOO: Final[dict[str, ZooModel]] = {model.name: model for model in _all()}
"""Every named model."""
