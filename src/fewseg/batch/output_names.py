"""Names of images, clips and labels within an output folder: the same in every run, different from all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fewseg.core.files import cut_name, folder_name, free_name


class OutputNames:
    """Names of the files that images get, those of earlier runs among them."""

    def __init__(self, known: Mapping[str, str]) -> None:
        """`known` are the names of images that have one, by path; a frame's is CLIP#NUMBER."""
        self._names = dict(known)
        self._taken = {name.casefold() for name in known.values()}

    def of(self, source: Path) -> str:
        """The image's name."""
        key = str(source)
        if key not in self._names:
            name = _free_name(source, self._taken)
            self._names[key] = name
            self._taken.add(name.casefold())
        return self._names[key]

    def of_clip(self, clip: Path) -> str:
        """The beginning of the names of a clip's frames, which end in `-NUMBER`."""
        known = {image.rpartition("#")[0]: name.rpartition("-")[0] for image, name in self._names.items()}
        if str(clip) not in known:
            taken = {name.rpartition("-")[0].casefold() for name in self._names.values()}  # images' too: `a-000000.png`
            name = _free_name(clip, taken)
            self._names[f"{clip}#"] = f"{name}-"  # of all its frames
            return name
        return known[str(clip)]


def label_folders(labels: Iterable[str]) -> dict[str, str]:
    """Label to the name of its folders."""
    taken: set[str] = set()
    return {label: folder_name(label, taken) for label in labels}


def _free_name(source: Path, taken: set[str]) -> str:
    """The name of a file without its ending, with its folder's name or a number where others have the same."""
    parent, whole = source.parent.name, source.name.replace(".", "_")
    others = cut_name(f"{parent}_{source.stem}"), cut_name(f"{parent}_{whole}")
    return free_name(cut_name(source.stem), lambda name: name.casefold() in taken, *others)
