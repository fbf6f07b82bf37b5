"""The ways that `domains.py` compares: each is fitted to labelled images and then predicts masks.

They are peers, tuned on the same sets: the numbers of pixels, trees and rounds were chosen as the best of a few.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import fewseg
from fewseg.inference.adaptation.examples import Example
from fewseg.inference.adaptation.features import fit_basis, image_maps
from fewseg.inference.adaptation.sampling import sample_pixels
from fewseg.models.methods.prototype import Prototype

Predict = Callable[[Image.Image], NDArray[np.bool_]]

PIXELS = (1200, 1000, 800)
"""Of every example: from everywhere, from the foreground, from next to it."""


@dataclass(frozen=True)
class LabelledImage:
    """An example or a query."""

    image: Image.Image
    mask: NDArray[np.uint8]
    """(H, W): 1 foreground, 0 background, 255 ignored."""


def set_threads(count: int) -> None:
    """Threads of every library; 0 leaves them."""
    if count:
        torch.set_num_threads(count)


@functools.cache
def _pretrained() -> fewseg.Segmenter:
    return fewseg.Segmenter.from_pretrained(device="cpu")


def _taught(segmenter: fewseg.Segmenter, examples: Sequence[LabelledImage]) -> fewseg.Segmenter:
    own = segmenter.with_supports()
    own.teach("label", [e.image for e in examples], [e.mask for e in examples], value=1, check=False)
    return own


def frozen(examples: Sequence[LabelledImage], seed: int) -> tuple[Predict, dict[str, Any]]:
    """The default model as taught."""
    own = _taught(_pretrained(), examples)
    return lambda image: own.segment(image, probabilities=False).masks["label"], {}


def adapted(examples: Sequence[LabelledImage], seed: int) -> tuple[Predict, dict[str, Any]]:
    """The default model adapted."""
    own = _taught(_pretrained(), examples)
    report = own.adapt("label")["label"]
    fitted = own.supports["label"].adaptation
    about = {
        "adapted": report.adapted,
        "expected_before": report.iou_before,
        "expected": report.iou_after,
        "spread": report.spread,
        "networks": list(fitted.networks) if fitted else [],
    }
    return lambda image: own.segment(image, probabilities=False).masks["label"], about


def prototypes(examples: Sequence[LabelledImage], seed: int) -> tuple[Predict, dict[str, Any]]:
    """Cosine to the mean foreground and background over the same backbone."""
    own = _taught(_prototype(), examples)
    return lambda image: own.segment(image, probabilities=False).masks["label"], {}


@functools.cache
def _prototype() -> fewseg.Segmenter:
    return fewseg.Segmenter(Prototype(_pretrained().method.backbone), device="cpu")


# ---------------------------------------------------------------------------------------------- pixel classifiers


def filter_features(image: Image.Image) -> NDArray[np.float32]:
    """(H, W, F): scikit-image's intensities, edges and textures at several scales."""
    from skimage.feature import multiscale_basic_features

    features = multiscale_basic_features(np.asarray(image), channel_axis=2, sigma_min=0.5, sigma_max=16, workers=1)
    return np.asarray(features, np.float32)


def map_features(image: Image.Image, side: int = 96) -> NDArray[np.float32]:
    """(side, side, F): the last map of every scale of the default's backbone, at its input size."""
    segmenter = _pretrained()
    blocks = segmenter.method.backbone.blocks
    last = [max(i for i, b in enumerate(blocks) if b.scale == scale) for scale in sorted({b.scale for b in blocks})]
    with torch.inference_mode():
        maps = segmenter.method.backbone(segmenter.preprocess(image).inputs[0][None])
        whole = [F.interpolate(maps[i].float(), (side, side), mode="bilinear")[0] for i in last]
    features: NDArray[np.float32] = torch.cat(whole).permute(1, 2, 0).numpy()
    return features


def _pixels(
    examples: Sequence[LabelledImage], describe: Callable[[Image.Image], NDArray[np.float32]], seed: int
) -> Any:
    """Descriptions, truth and the examples' numbers of sampled pixels."""
    parts = []
    for number, example in enumerate(examples):
        sample = sample_pixels(example.mask, PIXELS, np.random.default_rng([seed, number]))
        features = describe(example.image)
        rows, columns = (
            axis * small // whole
            for axis, small, whole in zip(
                (sample.rows, sample.columns), features.shape, example.mask.shape, strict=False
            )
        )
        parts.append((features[rows, columns], sample.truth, sample.weight, np.full(len(rows), number)))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _classifier(
    describe: Callable[[Image.Image], NDArray[np.float32]], make: Callable[[int], Any]
) -> Callable[[Sequence[LabelledImage], int], tuple[Predict, dict[str, Any]]]:
    """A way that fits the classifier that `make` gives."""

    def way(examples: Sequence[LabelledImage], seed: int) -> tuple[Predict, dict[str, Any]]:
        x, y, weight, _ = _pixels(examples, describe, seed)
        model = make(seed).fit(x, y, **_weights(weight))

        def predict(image: Image.Image) -> NDArray[np.bool_]:
            features = describe(image)
            probable = model.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1].reshape(features.shape[:2])
            whole = Image.fromarray(probable.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
            return np.asarray(whole) > 0.5

        return predict, {}

    def _weights(weight: NDArray[np.float32]) -> dict[str, Any]:
        name = "logisticregression__sample_weight" if "Pipeline" in type(make(0)).__name__ else "sample_weight"
        return {name: weight / weight.mean()}

    return way


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, min_samples_leaf=3, max_depth=20, n_jobs=-1, random_state=seed)


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))


def boosted_all(examples: Sequence[LabelledImage], seed: int) -> tuple[Predict, dict[str, Any]]:
    """Gradient-boosted trees on filters, principal components of the maps and the frozen model's logit.

    The logit of an example is that of the model taught with the others; with one example there is none.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    own = _taught(_pretrained(), examples)
    method, support = own.method, own.supports["label"]
    basis = [
        dataclasses.replace(b, weight=b.weight[:8], bias=b.bias[:8])
        for b in fit_basis(method, [Example.of(e.image, e.mask).image for e in examples])
    ]

    def describe(image: Image.Image, left_out: int | None = None) -> NDArray[np.float32]:
        known = support if left_out is None or len(examples) == 1 else support.drop(left_out)
        frozen_map = own.predict(own.encode([own.preprocess(image)]), {"label": known})[0]
        pixels = Example.of(image, np.zeros(image.size[::-1], np.uint8)).image
        deep = image_maps(method, pixels).project(basis).maps[6:]
        size = image.size[::-1]
        whole = [F.interpolate(m[None], size, mode="bilinear")[0] for m in (*deep, frozen_map)]
        return np.concatenate([filter_features(image), torch.cat(whole).permute(1, 2, 0).numpy()], 2)

    parts = []
    for number, example in enumerate(examples):
        sample = sample_pixels(example.mask, PIXELS, np.random.default_rng([seed, number]))
        parts.append((describe(example.image, number)[sample.rows, sample.columns], sample.truth, sample.weight))
    x, y, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    model = HistGradientBoostingClassifier(max_iter=120, early_stopping=False, l2_regularization=1.0, random_state=seed)
    model.fit(x, y, sample_weight=weight / weight.mean())

    def predict(image: Image.Image) -> NDArray[np.bool_]:
        features = describe(image)
        found = model.decision_function(features.reshape(-1, features.shape[-1])) > 0
        return np.asarray(found).reshape(features.shape[:2])

    return predict, {}


# ---------------------------------------------------------------------------------------------------------- U-Net


class UNet(nn.Module):
    """A small U-Net: four levels, 16 to 128 channels."""

    def __init__(self, width: int = 16, levels: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(_double(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:], mode="bilinear"), skip], 1))
        return self.head(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def unet(examples: Sequence[LabelledImage], seed: int, seconds: float = 60.0) -> tuple[Predict, dict[str, Any]]:
    """A small U-Net from scratch: crops of 256 pixels, flips and brightness, cross-entropy and Dice, one minute."""
    import time

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = UNet().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    images = [_input(example.image) for example in examples]
    masks = [
        torch.from_numpy(np.array(_to_size(example.mask, image)))
        for example, image in zip(examples, images, strict=True)
    ]
    began, steps = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - spent / seconds)
        x, y = zip(*(_crop(images[i], masks[i], rng) for i in rng.integers(len(images), size=4)), strict=True)
        logits, truth = net(torch.stack(x)), torch.stack(y)[:, None]
        counted, target = (truth != 255).float(), (truth == 1).float()
        entropy = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * counted).mean()
        probable = logits.sigmoid() * counted
        dice = 1 - (2 * (probable * target).sum() + 1) / ((probable + target).sum() + 1)
        optimiser.zero_grad()
        (entropy + dice).backward()
        optimiser.step()
        steps += 1
    net.eval()

    def predict(image: Image.Image) -> NDArray[np.bool_]:
        x = _input(image)
        height, width = (side // 8 * 8 for side in x.shape[1:])
        with torch.inference_mode():
            logits = net(F.interpolate(x[None], (height, width), mode="bilinear"))
            return (F.interpolate(logits, image.size[::-1], mode="bilinear")[0, 0] > 0).numpy()

    return predict, {"steps": steps}


def _input(image: Image.Image, longest: int = 640) -> Tensor:
    """(3, H, W) in [-1, 1], no larger than `longest`, no smaller than a crop."""
    factor = min(longest / max(image.size), 1.0)
    size = tuple(max(64, round(side * factor)) for side in image.size)
    return torch.from_numpy(np.array(image.resize((size[0], size[1])))).permute(2, 0, 1).float() / 127.5 - 1


def _to_size(mask: NDArray[np.uint8], image: Tensor) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask).resize((image.shape[2], image.shape[1]), Image.Resampling.NEAREST))


def _crop(image: Tensor, mask: Tensor, rng: np.random.Generator, side: int = 256) -> tuple[Tensor, Tensor]:
    """A crop, padded where the image is smaller, mirrored and in another light at random."""
    pad = [max(0, side - length) for length in image.shape[1:]]
    image, mask = F.pad(image, (0, pad[1], 0, pad[0])), F.pad(mask, (0, pad[1], 0, pad[0]), value=255)
    top, left = (int(rng.integers(length - side + 1)) for length in mask.shape)
    image, mask = image[:, top : top + side, left : left + side], mask[top : top + side, left : left + side]
    flips = [axis for axis in (1, 2) if rng.random() < 0.5]
    mask = mask.flip([axis - 1 for axis in flips]) if flips else mask
    return (image.flip(flips) if flips else image) * float(rng.uniform(0.8, 1.2)), mask


WAYS: dict[str, Callable[[Sequence[LabelledImage], int], tuple[Predict, dict[str, Any]]]] = {
    "frozen": frozen,
    "adapted": adapted,
    "prototypes": prototypes,
    "forest-filters": _classifier(filter_features, _forest),
    "logistic-maps": _classifier(map_features, _logistic),
    "forest-maps": _classifier(map_features, _forest),
    "boosted-all": boosted_all,
    "unet": unet,
}
"""By name."""
