"""Which of a pyramid's maps stand for the middle levels of a network, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence

from fewseg.models.backbones.base import BlockInfo


def middle_levels(blocks: Sequence[BlockInfo]) -> tuple[int, int]:
    """Indices of the maps that take the places of a ResNet's stages 2 and 3, fine before coarse.

    A level is a run of blocks of one scale and width, its map the last of them; the deepest level is left out. Of the
    others the last at (or nearest to) 1/16 is the coarse one, and before it the last at (or nearest to) 1/8 the fine
    one. Networks of one level, as plain transformers, are cut into quarters instead.

    >>> middle_levels([BlockInfo(256, 4), BlockInfo(512, 8), BlockInfo(1024, 16), BlockInfo(2048, 32)])
    (1, 2)
    >>> middle_levels([BlockInfo(192, 16)] * 12)
    (5, 8)
    """
    kinds = [(block.scale, block.channels) for block in blocks]
    ends = [i for i in range(len(kinds) - 1) if kinds[i] != kinds[i + 1]]
    if len(ends) < 2:
        half, three_quarters = len(blocks) // 2, 3 * len(blocks) // 4
        return max(half - 1, 0), max(three_quarters - 1, 0)
    coarse = _nearest(blocks, ends[1:], 16)
    return _nearest(blocks, [end for end in ends if end < coarse], 8), coarse


def _nearest(blocks: Sequence[BlockInfo], candidates: Sequence[int], scale: int) -> int:
    """The last of the candidates whose scale is nearest."""
    ratios = {i: max(blocks[i].scale / scale, scale / blocks[i].scale) for i in candidates}
    return max(i for i in candidates if ratios[i] == min(ratios.values()))
