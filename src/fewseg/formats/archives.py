"""Zip archives as annotation tools give them, unpacked into a temporary folder.

Only files that readers open are unpacked, at names that stay within the folder, up to a limit of bytes and files.
"""

from __future__ import annotations

import logging
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from fewseg.core.errors import InvalidSupport, one_line
from fewseg.images.kinds import SUFFIXES

log = logging.getLogger(__name__)

MAX_BYTES: Final = 8 << 30
"""Most bytes that an archive may unpack to."""
MAX_FILES: Final = 200_000
_WANTED: Final = SUFFIXES | {".json", ".xml", ".txt", ".yaml", ".yml", ".csv"}
_CHUNK: Final = 1 << 20

_unpacked: dict[tuple[str, int, int], tempfile.TemporaryDirectory[str]] = {}
"""Folders by the archive's path, size and time of change; they are removed when the program ends."""


def unpacked(path: Path) -> Path:
    """The folder with the archive's files, unpacked once; raises `InvalidSupport` where that is not safe."""
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _unpacked:
        folder = tempfile.TemporaryDirectory(prefix="fewseg-", ignore_cleanup_errors=True)
        try:
            _unpack(path, Path(folder.name))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            folder.cleanup()
            raise InvalidSupport(
                f"{path} is damaged or no zip archive ({one_line(error):.200}): export it again"
            ) from error
        except BaseException:
            folder.cleanup()
            raise
        _unpacked[key] = folder
    root = Path(_unpacked[key].name)
    inner = list(root.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else root


def _unpack(path: Path, root: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if _is_wanted(member, path)]
        if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
            raise InvalidSupport(
                f"{path} unpacks to more than {MAX_BYTES >> 30} GB or {MAX_FILES} files: unpack it yourself"
            )
        left = MAX_BYTES
        for member in members:
            target = root.joinpath(*PurePosixPath(member.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as file:
                while chunk := source.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:  # its list of sizes was wrong
                        raise InvalidSupport(f"{path} unpacks to more than {MAX_BYTES >> 30} GB: unpack it yourself")
                    file.write(chunk)


def _is_wanted(member: zipfile.ZipInfo, path: Path) -> bool:
    """Whether a member is a file that readers open; raises `InvalidSupport` for names that lead out of the folder."""
    name = PurePosixPath(member.filename)
    if member.is_dir() or name.suffix.lower() not in _WANTED or "__MACOSX" in name.parts or name.name.startswith("."):
        return False
    if stat.S_ISLNK(member.external_attr >> 16):
        log.warning("%s: the link %s is left out", path, name)
        return False
    if name.is_absolute() or any(part == ".." or "\\" in part or ":" in part for part in name.parts):
        raise InvalidSupport(f"{path} holds the file {member.filename!r:.80}, outside its folder: do not trust it")
    return True
