"""Exporting a project's masks: into a new folder beside the images, or as a download."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask

from fewseg.core.errors import InvalidOption, OutputError
from fewseg.core.files import cut_name, free_name, make_folder, write_text
from fewseg.formats import FORMATS, ExportReport, MaskRecord, export_masks
from fewseg.server.page.schemas import ExportBody, ExportRequest
from fewseg.server.page.view import ProjectView
from fewseg.server.project.images import EXPORT_MARK, ImageEntry
from fewseg.server.project.state import InvalidProject

log = logging.getLogger(__name__)

FOLDER: Final = "fewseg-export"

_ONE = threading.Lock()
"""One export at a time: they read and write a lot."""


@dataclass(frozen=True)
class _Chosen:
    """The images of an export, and the numbers of those whose masks are not there yet and of those that failed."""

    images: tuple[ImageEntry, ...]
    left_out: int
    failed: int


def add_routes(routes: APIRouter, view: ProjectView) -> None:
    """`POST /export` and `GET /export.zip`."""

    @routes.post("/export", response_model=ExportBody)
    def export(body: ExportRequest) -> JSONResponse:
        """Write the masks into a new folder beside the images."""
        with _ONE:
            made, chosen, out = _into_folder(view, body.formats, body.which)
        return JSONResponse(
            {
                "folder": out.name,
                "path": str(out),
                "files": made.files,
                "pictures": made.images,
                "left_out": chosen.left_out,
                "failed": chosen.failed,
            }
        )

    @routes.get("/export.zip", response_class=FileResponse, responses={200: {"content": {"application/zip": {}}}})
    def export_zip(
        formats: Annotated[str, Query(max_length=400, description="Names, with commas between them.")] = "png",
        which: Literal["all", "checked"] = "all",
    ) -> FileResponse:
        """The masks as a download."""
        names = [name.strip() for name in formats.split(",") if name.strip()]
        with _ONE, tempfile.TemporaryDirectory(prefix="fewseg-", dir=view.project.store.root) as scratch:
            out = Path(scratch, FOLDER)
            _write(view, _chosen(view, which), out, names)
            handle, archive = tempfile.mkstemp(".zip", "export-", view.project.store.root)
            os.close(handle)
            try:
                _pack(out, Path(archive))
            except BaseException:
                _remove(archive)
                raise
        name = f"{_plain(view.project.name)}-masks.zip"
        return FileResponse(
            archive, media_type="application/zip", filename=name, background=BackgroundTask(_remove, archive)
        )


def _into_folder(view: ProjectView, formats: Sequence[str], which: str) -> tuple[ExportReport, _Chosen, Path]:
    chosen = _chosen(view, which)
    # Written beside its final place, and moved there when it is complete.
    with tempfile.TemporaryDirectory(prefix="fewseg-", dir=view.project.store.root) as scratch:
        made = Path(scratch, FOLDER)
        report = _write(view, chosen, made, formats)
        out = _free(view.project.folder / FOLDER)
        try:
            os.replace(made, out)
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror or error}; make the folder writable") from error
    return report, chosen, out


def _chosen(view: ProjectView, which: str) -> _Chosen:
    """The images with a mask of every label; raises `InvalidProject` for none."""
    plan = view.engine.plan
    bodies = [(p, view.image(p, plan)) for p in plan.images.values()]
    by_hand = {image for image, _ in plan.state.annotations}
    wanted = [(p, body) for p, body in bodies if which == "all" or p.id in by_hand or body["checked"]]
    ready = tuple(p for p, body in wanted if body["state"] == "done")
    if not ready:
        why = "no image has a hand-made or confirmed mask" if which == "checked" else "no image has masks yet"
        raise InvalidProject(f"nothing to export: {why}; paint an example, and export when the masks are there")
    failed = sum(body["state"] == "failed" for _, body in wanted)
    return _Chosen(ready, len(wanted) - len(ready) - failed, failed)


def _write(view: ProjectView, chosen: _Chosen, out: Path, formats: Sequence[str]) -> ExportReport:
    wanted = list(dict.fromkeys(formats))
    if not wanted or not set(wanted) <= set(FORMATS):
        raise InvalidOption(f"formats {', '.join(wanted)[:200] or 'none'}: choose from {', '.join(FORMATS)}")
    make_folder(out)
    write_text(out / EXPORT_MARK, "masks that fewseg serve exported; not shown as images\n")
    labels = view.engine.plan.state.labels
    colours = {label.name: (*bytes.fromhex(label.colour[1:]),) for label in labels}
    return export_masks(
        _records(view, chosen), out, wanted, labels=list(colours), colours=colours, total=len(chosen.images)
    )


def _records(view: ProjectView, chosen: _Chosen) -> Iterator[MaskRecord]:
    plan, taken = view.engine.plan, set[str]()
    names = {label.id: label.name for label in plan.state.labels}
    for image in chosen.images:
        body = view.image(image, plan)
        masks = {names[int(label)]: view.masks.mask(image.id, int(label)) for label in body["masks"]}
        yield MaskRecord(
            name=_unique(image, taken),
            size=image.size,
            masks=masks,
            scores={names[int(label)]: score for label, score in body["scores"].items()},
            present={names[int(label)]: value for label, value in body["present"].items()},
            image=image.path,
            file_name=image.shown_name,
        )


def _unique(image: ImageEntry, taken: set[str]) -> str:
    """A name for the image's files that no other one has."""
    plain = _plain(os.path.splitext(image.shown_name)[0].replace("/", "_"))
    name = free_name(plain, lambda name: name.casefold() in taken)
    taken.add(name.casefold())
    return name


def _plain(name: str) -> str:
    return cut_name(re.sub(r"[^\w\- .]", "_", name).strip(" .")[:100]) or "_"


def _free(folder: Path) -> Path:
    """The folder, with a number where it exists."""
    return folder.with_name(free_name(folder.name, lambda name: folder.with_name(name).exists(), numbered="{}-{}"))


def _pack(folder: Path, archive: Path) -> None:
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name != EXPORT_MARK:
                    packed.write(file, file.relative_to(folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write {archive}: {error.strerror or error}; free space") from error


def _remove(file: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)
