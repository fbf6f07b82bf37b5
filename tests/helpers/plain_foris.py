"""FoRIS written plainly in float64, step by step from its description: the reference of the tests.

No code is shared with the method: subspace by singular values, clusters by SciPy from the whole distance matrix, masks
of patches pixel by pixel. One episode of images whose sides are multiples of 16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Array = NDArray[np.float64]
PATCH = 16


def plain_foris(
    black: Array, shots: list[tuple[Array, Array]], query: Array, colours: Array, rank: int, gate: bool = False
) -> dict[str, Array]:
    """Every step of one episode.

    Args:
        black: (C, h, w), features of the black image.
        shots: features (C, h, w) and mask (16 h, 16 w) of every support.
        query: (C, h, w).
        colours: (3, h, w), of the query, in [0, 1].
        rank: of the positional subspace.
        gate: whether the first stage's gate multiplies the tokens that are clustered last.
    """
    height, width = query.shape[1:]
    shots = [(tokens, mask) for tokens, mask in shots if mask.any()]
    target = unit(rows(query))
    supports = [unit(rows(tokens)) for tokens, _ in shots]
    small = [patches(mask) for _, mask in shots]
    debias = alignment(supports, [mask[::PATCH, ::PATCH].ravel() > 0 for _, mask in shots], target) < 0.8
    if debias:
        basis = subspace(unit(rows(black)), rank)
        target, *supports = (unit(t - (t @ basis) @ basis.T) for t in (target, *supports))

    mean = unit(np.mean([t[m].mean(0) for t, m in zip(supports, small, strict=True)], 0))
    foreground = np.concatenate([t[m] for t, m in zip(supports, small, strict=True)])
    numbers = upgma(foreground)
    prototypes = [unit(foreground[numbers == k].mean(0)) for k in np.unique(numbers)]
    background = np.concatenate([t[~m] for t, m in zip(supports, small, strict=True)])
    contrast = np.zeros(len(mean))
    if len(background):
        hardest = np.argsort(-(background @ mean))[: max(1, int(0.2 * len(background)))]
        negative = unit(background[hardest].mean(0))
        contrast = negative - (negative @ mean) * mean
        contrast = contrast / max(np.sqrt(contrast @ contrast), 1e-8)
    e = 0.07 * np.log(sum(np.exp(target @ c / 0.07) for c in prototypes))
    g = target @ contrast
    f, r = stretch(e), stretch(g)
    first = e - 0.55 * g

    votes = np.zeros(len(target))
    for tokens, mask in zip(supports, small, strict=True):
        votes += mask[np.argmax(target @ tokens.T, 1)]
    share = votes / len(shots)
    candidates = votes >= np.ceil(len(shots) / 2)
    for row in range(0, height, 2):
        for column in range(0, width, 2):
            candidates[row * width + column] = True
    prior = cluster_prior(target, upgma(joint(target, colours)), candidates, mean)
    second = first + 0.20 * (share - 0.5) + 0.25 * (prior - 0.5)

    u = np.maximum(0, 1 - 2 * np.abs(f - 0.5)) ** 1.5
    penalty = (0.08 * (np.abs(f - share) + np.abs(f - prior)) + 0.05 * np.minimum(f, r)) * u
    penalty = np.minimum(penalty, 0.22)
    gates = np.ones(len(target))
    if gate:
        contrasts = e - target @ negative
        gates = 0.1 + 0.9 / (1 + np.exp(-12 * (contrasts - contrasts.mean())))
    plain = upgma(unit(target * gates[:, None]))
    change = np.zeros(len(target))
    for k in np.unique(plain):
        own = plain == k
        fk, rk = f[own].mean(), r[own].mean()
        change[own] = max(-0.12, 0.20 * max(fk - rk, 0) - 0.18 * min(fk, rk))
    final = stretch(second - penalty + change)
    steps = {"first": first, "f": f, "r": r, "votes": share, "prior": prior, "penalty": penalty, "change": change}
    return {**steps, "final": final, "prototypes": np.array(prototypes), "debias": np.array(debias)}


def rows(tokens: Array) -> Array:
    """(N, C) of (C, h, w)."""
    return tokens.reshape(len(tokens), -1).T.astype(np.float64)


def unit(values: Array) -> Array:
    return values / np.maximum(np.sqrt((values * values).sum(-1, keepdims=True)), 1e-12)


def stretch(values: Array) -> Array:
    return (values - values.min()) / max(values.max() - values.min(), 1e-6)


def patches(mask: Array) -> NDArray[np.bool_]:
    """(N,): patches of which three of the four central pixels are foreground; without any, those of the first pixel,
    and without these the one at the mean place."""
    height, width = (side // PATCH for side in mask.shape)
    near = PATCH // 2 - 1
    found = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            centre = mask[row * PATCH + near :, column * PATCH + near :][:2, :2]
            found[row, column] = centre.sum() > 2
    if not found.any():
        found = mask[::PATCH, ::PATCH] > 0
    if not found.any():
        row, column = np.argwhere(mask > 0).mean(0) // (mask.shape[1] // width)
        found[int(row), int(column)] = True
    return found.ravel()


def alignment(supports: list[Array], corners: list[NDArray[np.bool_]], target: Array) -> float:
    pooled = np.concatenate([tokens[corner] for tokens, corner in zip(supports, corners, strict=True)])
    if not len(pooled):
        return -1.0
    return float(unit(pooled.mean(0)) @ unit(target.mean(0)))


def subspace(tokens: Array, rank: int) -> Array:
    vectors, _, _ = np.linalg.svd((tokens - tokens.mean(0)).T, full_matrices=False)
    basis: Array = vectors[:, :rank]
    return basis


def upgma(tokens: Array) -> NDArray[np.int64]:
    """Average linkage on cosine distances, cut below 0.4."""
    if len(tokens) == 1:
        return np.zeros(1, np.int64)
    distances = 1 - np.clip(tokens @ tokens.T, -1, 1)
    np.fill_diagonal(distances, 0)
    merges = linkage(squareform((distances + distances.T) / 2, checks=False), "average")
    return fcluster(merges, np.nextafter(1 - 0.6, 0), "distance")


def joint(tokens: Array, colours: Array) -> Array:
    height, width = colours.shape[1:]
    places = np.array([(y, x) for y in np.linspace(-1, 1, height) for x in np.linspace(-1, 1, width)])
    return unit(np.concatenate([tokens, 0.35 * unit(rows(colours)), 0.20 * unit(places)], 1))


def cluster_prior(tokens: Array, numbers: NDArray[np.int64], candidates: NDArray[np.bool_], mean: Array) -> Array:
    kinds = np.unique(numbers)
    if len(kinds) == 1:
        return candidates.astype(float)
    cross = np.array([(tokens[numbers == k] @ mean).mean() for k in kinds])
    area = np.array([candidates[numbers == k].mean() for k in kinds])
    directions = np.array([unit(tokens[numbers == k].mean(0)) for k in kinds])
    seed = int(np.argmax(np.where(area > 0, cross * area, -np.inf)))
    fit = cross * np.maximum(directions @ directions[seed], 0) * area
    fit[seed] = max(fit.max(), 1e-6)
    prior = stretch(fit)
    found = np.zeros(len(tokens))
    for place, k in enumerate(kinds):
        found[numbers == k] = prior[place]
    return found
