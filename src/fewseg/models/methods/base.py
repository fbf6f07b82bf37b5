"""The contract that every few-shot segmentation method keeps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from fewseg.core.errors import InvalidImage, InvalidOption, InvalidSupport
from fewseg.core.types import EpisodeTensors, QueryFeatures, SupportSet
from fewseg.models.backbones import ALL_MAPS, FeaturePyramid, MapChoice
from fewseg.models.methods.saved_names import first_identity
from fewseg.models.ops.resize import map_size

IMAGE_SIZES: Final = (32, 4096)
"""The smallest and the largest side of an input; beyond it the maps alone are many gigabytes."""


class FewShotMethod(nn.Module):
    """A method encodes supports once and segments any number of queries with them.

    Images are RGB, ImageNet-normalised, (B, 3, H, W); support images (B, n, 3, H, W); masks (B, n, H, W) with 1 for
    foreground (anything else, ignored pixels included, is background). Logits are (B, 2, H, W): background, foreground.
    A batch gives what its items give one by one. Inputs are cast to the device and dtype of the parameters.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    """The frozen dataclass of the method's choices; has at least `image_size`."""
    backbone_aliases: ClassVar[Mapping[str, str]] = {}
    """Backbone names that mean another variant in this method's paper, to that variant's name."""
    backbone_maps: ClassVar[MapChoice] = ALL_MAPS
    """The backbone's maps that the method works with."""
    transformer_maps: ClassVar[MapChoice | None] = None
    """The same for plain transformers, whose maps are all of one stride; None: no others."""
    pretrained_backbones: ClassVar[Mapping[str, str]] = {}
    """Backbone names to timm's names of the weights that this method's paper trains over, where not the usual ones."""
    adamw_parameters: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names of parameters that the paper trains with AdamW, apart from the others."""
    bfloat16_devices: ClassVar[tuple[str, ...]] = ("cuda",)
    """Device types with native bfloat16 on which `precision="auto"` chooses it: those where this method was measured
    to be faster with it, its mIoU within 0.1 of float32's."""
    benchmark_protocol: ClassVar[str] = "hsnet"
    """Name of the evaluation protocol under which the method's paper reports its benchmarks."""
    compiled_parts: ClassVar[tuple[str, ...]] = ()
    """Names of modules, beside the backbone, that `compile_parts` compiles."""
    discrete: ClassVar[bool] = False
    """Whether masks follow from discrete choices (nearest neighbours, clusters), which rounding may turn over: half
    precision then gives masks that are as good, but need not be near float32's."""
    unexportable: ClassVar[str] = ""
    """Why no graph can hold this method, to end a sentence with; empty for those that `fewseg export` writes."""
    config: Any
    """An instance of it; with `backbone.spec` it builds this method again."""
    backbone: FeaturePyramid

    def __init__(self) -> None:
        super().__init__()
        self.extra: dict[str, Any] = {}
        """JSON values stored beside the weights, e.g. `presence_threshold`."""

    def encode_support(self, images: Tensor, masks: Tensor) -> SupportSet:
        """Everything that depends on the support alone.

        Args:
            images: (B, n, 3, H, W), ImageNet-normalised.  masks: (B, n, H, W), 1 where the class is.

        Raises:
            InvalidSupport: other shapes.
        """
        check_support(images, masks)
        return self.support_from_maps(self.backbone(self._cast(images).flatten(0, 1)), masks)

    def encode_query(self, images: Tensor) -> QueryFeatures:
        """Everything that depends on the query alone; share it between labels.

        `images` is (B, 3, H, W), ImageNet-normalised. Raises `InvalidImage` for other shapes.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InvalidImage(f"query images are {tuple(images.shape)}: expected (B, 3, H, W)")
        return self.query_from_maps(self.backbone(self._cast(images)), map_size(images))

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """`encode_support` for maps (B * n, C, h, w) that the backbone has already given; masks (B, n, H, W)."""
        raise NotImplementedError

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """`encode_query` for maps (B, C, h, w) that the backbone has already given."""
        raise NotImplementedError

    def segment(self, query: Tensor | QueryFeatures, support: SupportSet) -> Tensor:
        """Logits (B, 2, H, W) for query images, or for what `encode_query` made of them.

        A support set of batch 1 serves a query batch of any size. Raises `InvalidSupport` where the two do not fit.
        """
        if isinstance(query, Tensor):
            query = self.encode_query(query)
        return self._segment(query, self._fitting(query, support))

    def segment_labels(self, query: Tensor | QueryFeatures, supports: Sequence[SupportSet]) -> Tensor:
        """Logits (B, L, 2, H, W) of several labels, each taught by a support set of its own.

        What `segment` gives for each of them, to rounding; methods share among the labels what they can.
        """
        if not supports:
            raise InvalidSupport("no support sets to segment with: give one for every label")
        if isinstance(query, Tensor):
            query = self.encode_query(query)
        return self._segment_labels(query, [self._fitting(query, support) for support in supports])

    def _fitting(self, query: QueryFeatures, support: SupportSet) -> SupportSet:
        """The support set on this method's device, in its dtype; raises `InvalidSupport` where it does not fit."""
        if support.encoder and support.encoder != self.support_key:
            raise InvalidSupport(
                f"the support was encoded by {support.encoder}, this is {self.support_key}: encode it again"
            )
        if any(t.device != self.device or t.dtype != self.dtype for t in support.tensors.values()):
            support = support.to(self.device, self.dtype)
        if support.batch not in (1, query.batch):
            raise InvalidSupport(f"{support.batch} support episodes for {query.batch} queries: give one, or one each")
        return support

    def prepare_support(self, support: SupportSet) -> None:
        """Compute now, and keep with the support set, what the first query would otherwise have computed."""

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        """`segment` for a support set that fits."""
        raise NotImplementedError

    def _segment_labels(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> Tensor:
        """`segment_labels` for support sets that fit; for methods that share work among labels to override."""
        return torch.stack([self._segment(query, support) for support in supports], 1)

    def regulariser(self, query: QueryFeatures, support: SupportSet, logits: Tensor) -> Tensor | None:
        """A term that training adds to the loss of the logits; None for none."""
        return None

    def forward(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Support and query at once: what training calls."""
        return self.segment(self.encode_query(query), self.encode_support(images, masks))

    @property
    def support_key(self) -> str:
        """Identifies method, backbone and config: encoded supports fit no other. Not changed by renamings."""
        name, config = first_identity(self.name, dataclasses.asdict(self.config))
        if self.backbone.spec.maps != ALL_MAPS:
            config = {**config, "backbone_maps": dataclasses.asdict(self.backbone.spec.maps)}
        choices = json.dumps(config, sort_keys=True)
        return f"{name} over {self.backbone.name} ({hashlib.sha256(choices.encode()).hexdigest()[:8]})"

    def compile_parts(self) -> None:
        """Have `torch.compile` translate the backbone and `compiled_parts`, each when it first runs.

        That takes from half a minute to minutes, again for every new shape; the results stay the same to rounding. It
        needs a C++ compiler on a CPU.
        """
        self.backbone.compiled = True
        for name in self.compiled_parts:
            self.get_submodule(name).compile(dynamic=False)

    @property
    def last_layer(self) -> nn.Conv2d | None:
        """The convolution that gives the logits, whose input `fewseg.tools.explain` shows; none where no one layer
        does."""
        heads = [m for m in self.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 2]
        return heads[-1] if heads else None

    def prepare_training(self, classes: Iterable[tuple[float, Sequence[EpisodeTensors]]]) -> None:
        """Called before the first step of a training from scratch: fit here what the weights then rely on.

        `classes` gives every base class's weight and some of its images, each the only support of a batch of one. It
        reads images while it is iterated over.
        """

    def calibrate(
        self, episodes: Iterable[EpisodeTensors], pairs: Iterable[tuple[EpisodeTensors, EpisodeTensors]]
    ) -> None:
        """Called after training: fit here what depends on the final weights, on validation classes.

        The presence scale is no part of it: it is fitted afterwards, alike for every method, to the probabilities that
        the calibrated method gives, and stands in `extra`, because it changes no logits.

        Args:
            episodes: validation episodes, batches of one, to fit masks to; none for a model that was trained with
                negative episodes and must keep predicting empty masks.
            pairs: validation episodes, each with one of the same support whose query does not show the class.
        """

    def reset_calibration(self) -> None:
        """Clear what `calibrate` fitted: it does not hold for weights that are trained on."""

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser may change: everything but a frozen backbone."""
        return (p for p in self.parameters() if p.requires_grad)

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are brought there."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' own, in which all is computed; inputs are cast."""
        return next(self.parameters()).dtype

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)


def check_image_size(size: Any) -> None:
    """Raise `InvalidOption` unless the input's side is a whole number of pixels that a method can work at."""
    least, most = IMAGE_SIZES
    if type(size) is not int or not least <= size <= most:
        raise InvalidOption(f"image_size {size!r}: give a whole number of pixels from {least} to {most}")


def check_support(images: Tensor, masks: Tensor) -> None:
    """Raise `InvalidSupport` unless the shapes are (B, n, 3, H, W) and (B, n, H, W)."""
    if images.ndim != 5 or images.shape[2] != 3 or images.shape[1] == 0:
        raise InvalidSupport(f"support images are {tuple(images.shape)}: expected (B, n, 3, H, W) with n of at least 1")
    if masks.shape != (*images.shape[:2], *images.shape[3:]):
        raise InvalidSupport(
            f"support masks are {tuple(masks.shape)}, images {tuple(images.shape)}: expected (B, n, H, W)"
        )
