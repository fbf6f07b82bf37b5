"""Names of the tensors of DCAMA's released files in the order in which its code makes them.

Its test script assigns tensors by their place, whatever they are called; these names let a file of that order be read
by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint

_RESNET_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_SWIN_DEPTHS = (2, 2, 18, 2)
_PAIR = ("weight", "bias")
_BATCH_NORM = (*_PAIR, "running_mean", "running_var", "num_batches_tracked")
_SWIN_BLOCK = (
    *(f"norm1.{p}" for p in _PAIR),
    *("attn.relative_position_bias_table", "attn.relative_position_index"),
    *(f"{layer}.{p}" for layer in ("attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for p in _PAIR),
)
_SWIN_DOWNSAMPLE = ("reduction.weight", "norm.weight", "norm.bias")


def renamed_by_order(state: Mapping[str, Tensor], names: Sequence[str], what: str) -> dict[str, Tensor]:
    """The tensors of a file by the released names, whatever they are called there.

    Raises `InvalidCheckpoint` where there are not as many. Shapes are not compared here.
    """
    if len(names) != len(state):
        raise InvalidCheckpoint(
            f"{what} does not fit: it has {len(state)} tensors, the release {len(names)}; "
            "is it the release of this method and backbone?"
        )
    return dict(zip(names, state.values(), strict=True))


def dcama_names(backbone: str) -> list[str]:
    """Every name of a released file, buffers and classifier included."""
    own = _swin() if backbone == "swin_b" else _resnet(_RESNET_DEPTHS[backbone])
    return [*(f"feature_extractor.{name}" for name in own), *(f"model.{name}" for name in _head())]


def _resnet(depths: tuple[int, ...]) -> Iterator[str]:
    yield from ("conv1.weight", *(f"bn1.{p}" for p in _BATCH_NORM))
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            for number in (1, 2, 3):
                yield f"layer{stage}.{block}.conv{number}.weight"
                yield from (f"layer{stage}.{block}.bn{number}.{p}" for p in _BATCH_NORM)
            if block == 0:
                yield f"layer{stage}.{block}.downsample.0.weight"
                yield from (f"layer{stage}.{block}.downsample.1.{p}" for p in _BATCH_NORM)
    yield from (f"fc.{p}" for p in _PAIR)


def _swin() -> Iterator[str]:
    yield from (f"patch_embed.{layer}.{p}" for layer in ("proj", "norm") for p in _PAIR)
    for stage, depth in enumerate(_SWIN_DEPTHS):
        last = stage == len(_SWIN_DEPTHS) - 1
        for block in range(depth):
            if block % 2 and not last:  # shifted windows; a map of the last stage is one window
                yield f"layers.{stage}.blocks.{block}.attn_mask"
            yield from (f"layers.{stage}.blocks.{block}.{name}" for name in _SWIN_BLOCK)
        if not last:
            yield from (f"layers.{stage}.downsample.{name}" for name in _SWIN_DOWNSAMPLE)
    yield from (f"{layer}.{p}" for layer in ("norm", "head") for p in _PAIR)


def _head() -> Iterator[str]:
    yield from (f"DCAMA_blocks.{scale}.linears.{i}.{p}" for scale in range(3) for i in (0, 1) for p in _PAIR)
    yield from (f"pe.{scale}.pe" for scale in range(3))
    yield from (f"conv{n}.{layer}.{p}" for n in range(1, 6) for layer in (0, 1, 3, 4, 6, 7) for p in _PAIR)
    yield from (f"mixer{n}.{layer}.{p}" for n in (1, 2, 3) for layer in (0, 2) for p in _PAIR)
