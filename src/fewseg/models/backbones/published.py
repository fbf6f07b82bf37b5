"""Published weights of backbones: where they come from, under which licence, and where they lie once they are here.

A file is looked for in the folder of weights (`weights_folder`), where anybody can put one, then in the cache of
huggingface_hub; only then is it downloaded.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.models.backbones.timm_pyramid import pretrained_config

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "FEWSEG_WEIGHTS"
"""Environment variable that names the folder of weights."""
LICENCES = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "dinov3-license": "DINOv3 licence (ai.meta.com/resources/models-and-libraries/dinov3-license)",
    "cc-by-nc-4.0": "CC-BY-NC-4.0, not for commercial use",
}
"""Licences as timm spells them, to the words for a reader."""


@dataclass(frozen=True)
class PublishedWeights:
    """The weights that timm knows for a model."""

    name: str
    """timm's, with the tag of the weights."""
    repository: str
    """On the Hugging Face hub, `timm/NAME`."""
    file: str
    """Its name there."""
    licence: str

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"

    @property
    def place(self) -> Path:
        """Where to put the file by hand."""
        return weights_folder() / f"{self.name}.safetensors"

    def here(self) -> Path | None:
        """The file, where it is on this machine already."""
        if self.place.is_file():
            return self.place
        cached = try_to_load_from_cache(self.repository, self.file)
        return Path(cached) if isinstance(cached, str) else None

    def fetched(self) -> Path:
        """The file, downloaded if need be; raises `InvalidCheckpoint`, which says what to fetch and where to put it."""
        found = self.here()
        if found is not None:
            return found
        log.warning("downloading %s from huggingface.co/%s; licence: %s", self.name, self.repository, self.licence)
        try:
            return Path(hf_hub_download(self.repository, self.file))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidCheckpoint(
                f"cannot download weights of {self.name} ({reason}): fetch {self.url} and put it at {self.place}, "
                "or give backbone_weights=PATH"
            ) from error


def weights_folder() -> Path:
    """`FEWSEG_WEIGHTS`, or `fewseg/weights` in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "fewseg" / "weights"


def published_weights(timm_name: str) -> PublishedWeights:
    """The weights of a timm model; raises `InvalidOption` where nobody has published any."""
    config = pretrained_config(timm_name)
    if config is None or not config.hf_hub_id:
        raise InvalidOption(f"timm knows no weights of {timm_name}: give backbone_weights=PATH, or another backbone")
    base = timm_name.partition(".")[0]
    name = f"{base}.{config.tag}" if config.tag else base
    licence = LICENCES.get(config.license or "", config.license or "not stated by timm")
    return PublishedWeights(name, str(config.hf_hub_id), config.hf_hub_filename or "model.safetensors", licence)
