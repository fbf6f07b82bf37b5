"""An object in an image, found by the few-shot model from a rough mask of it in the same image.

A rough mask is an example like any other, of the very image that is to be segmented (self-support matching: Fan et al.,
"Self-Support Few-Shot Semantic Segmentation", ECCV 2022). The model finds what is like most of it: what the mask covers
by mistake falls out, and the rest of the object comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.images import OpenedImage
from fewseg.images.transforms import resize_by_centres, square_image
from fewseg.inference.predict import EncodedImages, predict_probabilities
from fewseg.inference.superpixels import WHOLE, Window
from fewseg.inference.supports import LabelSupport
from fewseg.models.backbones.capture import maps_seen
from fewseg.models.methods import FewShotMethod

_LARGE: Final = 0.6
"""Share of the image's width or height from which a window is cut out of what was computed for the whole image."""


_STRIDE: Final = 16
"""The coarsest map that helps to tell regions apart."""


def region_features(maps: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Unit vectors (B, c, h, w) that tell neighbouring regions apart, from a backbone's maps for inputs (B, 3, s, s).

    Of each resolution up to a stride of 16 the last map, at the size of 1/8; colours where there are no maps.
    """
    square = [m for m in maps if m.ndim == 4]
    side = inputs.shape[-1]
    last = {m.shape[-1]: m for m in square if side / _STRIDE <= m.shape[-1] <= side / 6}
    if not last:
        last = {m.shape[-1]: m for m in square[-1:]}
    if not last:
        return F.interpolate(inputs, (max(1, side // 8),) * 2, mode="area").half()
    size = (max(last),) * 2
    same = [resize_by_centres(F.normalize(m.float(), dim=1), size) for m in last.values()]
    return F.normalize(torch.cat(same, 1), dim=1).half().cpu()


@dataclass(frozen=True)
class _Encoded:
    """A window of the image as query and as support."""

    inputs: Tensor
    """(1, 3, s, s)"""
    maps: list[Tensor]
    """Of the backbone; none where it gives none."""
    query: QueryFeatures

    def support(self, method: FewShotMethod, mask: Tensor) -> SupportSet:
        """The window with a mask (s, s) of it as an example."""
        if not self.maps:
            return method.encode_support(self.inputs[None], mask[None, None])
        return method.support_from_maps(self.maps, mask[None, None])

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.inputs, *self.maps, *self.query.tensors.values()))


class SelfSupport:
    """One image, whose windows are encoded once each; the whole image is from the start."""

    def __init__(self, method: FewShotMethod, image: OpenedImage) -> None:
        self._method, self._image = method, image
        whole = self._encode(WHOLE)
        self._known = {WHOLE: whole}
        self.features = region_features(whole.maps, whole.inputs)[0]
        """(c, h, w): features for superpixels, see `region_features`."""

    @property
    def nbytes(self) -> int:
        """Memory of the features, in bytes."""
        return sum(encoded.nbytes for encoded in self._known.values()) + self.features.nbytes

    @torch.no_grad()
    def like(self, mask: NDArray[np.bool_], window: Window = WHOLE) -> NDArray[np.float32] | None:
        """Probabilities (h, w), in a window, of what the mask (h, w) of that window shows; None for an empty mask."""
        if max(window[2] - window[0], window[3] - window[1]) < _LARGE:
            return self._predicted(mask, window)
        shape, part = _placed(mask.shape, window)
        whole = np.zeros(shape, bool)
        whole[part] = mask
        values = self._predicted(whole, WHOLE)
        return None if values is None else values[part]

    def _predicted(self, mask: NDArray[np.bool_], window: Window) -> NDArray[np.float32] | None:
        """`like`, for a window that is encoded by itself."""
        if window not in self._known:
            self._known = {WHOLE: self._known[WHOLE], window: self._encode(window)}  # the latest one is asked for again
        encoded = self._known[window]
        small = torch.from_numpy(at_size(mask.astype(np.float32), encoded.inputs.shape[-2:]) >= 0.5).float()
        if not small.any():
            return None
        support = LabelSupport((encoded.support(self._method, small),), ("",))
        values = predict_probabilities(self._method, EncodedImages(((encoded.query,),)), [support])[0, 0]
        return at_size(values.numpy(), mask.shape)

    @torch.no_grad()
    def _encode(self, window: Window) -> _Encoded:
        image = self._image.image
        if window != WHOLE:
            left, top, right, bottom = (round(v * image.size[i % 2]) for i, v in enumerate(window))
            image = image.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
        inputs = square_image(image, self._method.config.image_size)[None].to(self._method.device)
        with maps_seen(self._method.backbone) as maps:
            query = self._method.encode_query(inputs)
        return _Encoded(inputs, maps, query)


def at_size(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The values (h, w), resized bilinearly to `shape` (height, width)."""
    if values.shape == tuple(shape):
        return values
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _placed(shape: tuple[int, ...], window: Window) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """Height and width of the image whose window has `shape` (h, w), and the window's rows and columns in it."""
    height, width = (max(n, round(n / (window[i + 2] - window[i]))) for n, i in zip(shape, (1, 0), strict=True))
    top = min(round(window[1] * height), height - shape[0])
    left = min(round(window[0] * width), width - shape[1])
    return (height, width), (slice(top, top + shape[0]), slice(left, left + shape[1]))
