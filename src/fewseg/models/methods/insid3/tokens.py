"""What INSID3 and methods built on it compute of every image: unit tokens, without what they hold of their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import EpisodeTensors, QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.base import FewShotMethod
from fewseg.models.methods.insid3.config import TokenConfig, check_config
from fewseg.models.methods.insid3.subspace import PositionalSubspaces
from fewseg.models.methods.insid3.temperature import fitted_factor


class TokenMethod(FewShotMethod):
    """Base of methods that compare tokens (C, h, w) of one block, unit vectors, and have nothing to train.

    From unit tokens on everything is float32 at least: nearest neighbours, merges and thresholds are discrete.
    """

    bfloat16_devices: ClassVar[tuple[str, ...]] = ()  # not measured
    discrete: ClassVar[bool] = True
    unexportable: ClassVar[str] = "for it finds clusters with SciPy"
    config: TokenConfig

    def __init__(self, backbone: FeaturePyramid, config: TokenConfig) -> None:
        super().__init__()
        self.rank = check_config(config, backbone)
        self.config, self.backbone = config, backbone
        self.subspaces = PositionalSubspaces()
        # Keeps device and dtype visible where a backbone is shared.
        self.temperature = nn.Parameter(torch.tensor(float(config.temperature)), requires_grad=False)

    @property
    def work_dtype(self) -> torch.dtype:
        """The dtype in which tokens are compared."""
        return torch.promote_types(self.dtype, torch.float32)

    def unit_tokens(self, maps: list[Tensor], backbone: FeaturePyramid | None = None) -> Tensor:
        """(B, C, h, w): the chosen block's tokens after the final norm, each of length 1."""
        tokens = (backbone or self.backbone).final_norm(maps[self.config.block].permute(0, 2, 3, 1))
        whole = torch.nan_to_num(tokens.to(self.work_dtype))  # half precision may overflow
        return F.normalize(whole, dim=-1, eps=1e-12).permute(0, 3, 1, 2).contiguous()

    def debiased(self, tokens: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Unit tokens (B, C, h, w) of images of `image_size` without their positional part, of length 1 again."""
        basis = self.subspaces.get(self, image_size)
        flat = tokens.flatten(2)
        return F.normalize(flat - basis @ (basis.T @ flat), dim=1, eps=1e-12).view_as(tokens)

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        found = [self._foreground(query, support, item) for item in range(query.batch)]
        foreground = self.temperature.float() * torch.stack(found).float()
        return torch.stack([-foreground, foreground], 1).to(self.dtype) / 2

    def _foreground(self, query: QueryFeatures, support: SupportSet, item: int) -> Tensor:
        """(H, W): foreground logits, temperature apart, of one query of the batch."""
        raise NotImplementedError

    def calibrate(
        self, episodes: Iterable[EpisodeTensors], pairs: Iterable[tuple[EpisodeTensors, EpisodeTensors]]
    ) -> None:
        """Fit the temperature to validation episodes that show the class, and to as many that do not."""
        self.eval()
        seen = (episode for pair in pairs for episode in pair)
        self.temperature.data.mul_(fitted_factor((self._logits(e), e.query_mask) for e in seen))

    @torch.no_grad()
    def _logits(self, episode: EpisodeTensors) -> Tensor:
        """(B, H, W): foreground logits of the episode's query."""
        logits = self(episode.query, episode.images, episode.masks)
        return cast("Tensor", logits[:, 1] - logits[:, 0])

    def reset_calibration(self) -> None:
        self.temperature.data.fill_(self.config.temperature)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.subspaces.drop()  # its memory is given back now
        return super()._apply(fn, recurse)
