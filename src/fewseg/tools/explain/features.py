"""Penultimate features beside the backbone's, and both as points in the plane by t-SNE (DCAMA, Fig. S6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.images.transforms import square_mask
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import map_size, resize
from fewseg.tools.explain.case import Explained

GRID = 96
"""Features are sampled on a grid of at most this many cells a side."""


@dataclass(frozen=True)
class FeatureCloud:
    """Pixels of one or more queries, in two feature spaces."""

    backbone: NDArray[np.float32]
    """(N, C): the last maps of the scales from 1/8 on, each of unit length, side by side."""
    penultimate: NDArray[np.float32]
    """(N, D): what `FewShotMethod.last_layer`, which gives the logits, sees."""
    labels: tuple[str, ...]
    """N names: a case's label, or `background`."""
    from_truth: bool
    """Whether labels are the true ones of every case; else the prediction's where a query came without its mask."""


def require_last_layer(method: FewShotMethod) -> nn.Conv2d:
    """`FewShotMethod.last_layer`; raises `InvalidOption` where a method has none."""
    if method.last_layer is None:
        raise InvalidOption(f"{method.name} ends in no layer that gives logits, so it has no penultimate features")
    return method.last_layer


@torch.no_grad()
def penultimate_features(explained: Explained) -> Tensor:
    """(D, h, w): the input of the method's last layer; raises `InvalidOption` where there is none."""
    method, seen = explained.method, []
    handle = require_last_layer(method).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        method.segment(explained.query, explained.support)
    finally:
        handle.remove()
    # A method that takes its shots one by one passes here once a shot.
    return torch.stack([x[0].float().cpu() for x in seen]).mean(0)


@torch.no_grad()
def backbone_features(explained: Explained, size: tuple[int, int]) -> Tensor:
    """(C, *size): see `FeatureCloud.backbone`."""
    blocks = explained.method.backbone.blocks
    last = {block.scale: index for index, block in enumerate(blocks)}
    chosen = [index for scale, index in sorted(last.items()) if scale >= 8] or [len(blocks) - 1]
    maps = [resize(explained.maps[index].float().cpu(), size)[0] for index in chosen]
    return torch.cat([F.normalize(m, dim=0) for m in maps])


def feature_cloud(cases: Sequence[Explained], per_side: int = 300, seed: int = 0) -> FeatureCloud:
    """Up to `per_side` foreground and as many background pixels of every query, drawn by the seed.

    Foreground is the truth where a query has it, else the prediction; ignored pixels are left out.
    """
    rng = np.random.default_rng(seed)
    backbone, penultimate, labels = [], [], []
    for explained in cases:
        deep = penultimate_features(explained)
        size = min(GRID, deep.shape[1]), min(GRID, deep.shape[2])
        both = backbone_features(explained, size), resize(deep[None], size)[0]
        names = _labels(explained, size).flatten()
        for wanted, word in ((1, explained.case.label or "foreground"), (0, "background")):
            places = np.flatnonzero(names == wanted)
            places = rng.permutation(places)[:per_side]
            backbone.append(both[0].flatten(1).T.numpy()[places])
            penultimate.append(both[1].flatten(1).T.numpy()[places])
            labels += [word] * len(places)
    known = all(e.case.truth is not None for e in cases)
    return FeatureCloud(np.concatenate(backbone), np.concatenate(penultimate), tuple(labels), known)


def _labels(explained: Explained, size: tuple[int, int]) -> NDArray[np.int64]:
    truth = explained.case.truth
    if truth is None:
        mask = (explained.probability >= 0.5).float()
    else:
        mask = square_mask(truth, max(map_size(explained.probability)))
    near = F.interpolate(mask[None, None], size, mode="nearest")[0, 0]
    return np.asarray(near.numpy(), np.int64)


def embed(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """(N, C) features to (N, 2) by t-SNE, the same for the same seed.

    Raises `InvalidOption` where scikit-learn is missing, or there are too few pixels.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise InvalidOption('t-SNE comes with scikit-learn: pip install "fewseg[explain]"') from None
    if len(features) < 8:
        raise InvalidOption(f"{len(features)} pixels are too few for t-SNE: give larger images or more episodes")
    perplexity = min(30.0, (len(features) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return np.asarray(plane, np.float32)
