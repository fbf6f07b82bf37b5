"""A machine learning back end for Label Studio: every annotation teaches, tasks come back with masks.

Every Label Studio project has its own examples, kept in memory and, where a folder is given, in one file per project.
`routes` has what Label Studio calls.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from fewseg.core.errors import FewsegError, InvalidImage, InvalidOption, OutputError
from fewseg.core.locks import FolderLock
from fewseg.core.lru import LRUCache
from fewseg.core.types import Prediction
from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES
from fewseg.inference.supports import LabelSupport
from fewseg.server.api_errors import ApiError
from fewseg.server.fitting import Fit, Fitter
from fewseg.server.label_studio.config import MaskTag, mask_tags
from fewseg.server.label_studio.schemas import TaskPrediction
from fewseg.server.label_studio.task_images import ImageSources
from fewseg.server.model import supports_bytes
from fewseg.server.services import Services

log = logging.getLogger(__name__)

ExamplesByAnnotation = dict[str, dict[str, LabelSupport]]
"""Annotation id to label to encoded example."""

_KEPT: Final = 256 << 20
"""Bytes of predictions that are kept."""
_GIVE_WAY_SECONDS: Final = 30.0
"""Longest time that a fit waits for each of its steps."""
_PROJECT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class StudioProject:
    """The labelling configuration and examples of one Label Studio project."""

    def __init__(self) -> None:
        self.config = ""
        self.key: str | None = None
        self.examples: ExamplesByAnnotation = {}
        self.fits: dict[str, Fit] = {}
        """Label to the latest fit."""
        self.fitted: dict[str, frozenset[str]] = {}
        """Label to the examples that it was fitted to last, or that this failed with."""

    def supports(self) -> dict[str, LabelSupport]:
        """Label to all its examples, with what was fitted to them or most of them."""
        by_label: dict[str, list[LabelSupport]] = {}
        for labels in self.examples.values():
            for label, example in labels.items():
                by_label.setdefault(label, []).append(example)
        supports = {label: LabelSupport.concatenate(examples) for label, examples in by_label.items()}
        used = {
            label: f for label, f in self.fits.items() if label in supports and f.serves({*supports[label].digests})
        }
        return {label: used[label].applied(s) if label in used else s for label, s in supports.items()}

    def due(self) -> tuple[str, LabelSupport] | None:
        """A label to fit, as its examples changed; those that were read from a file have no images to fit to."""
        for label, support in self.supports().items():
            enough = support.shots >= ENOUGH_EXAMPLES and all(support.examples) and support.examples
            if enough and self.fitted.get(label) != frozenset(support.digests):
                return label, support
        return None

    def tags(self) -> list[MaskTag]:
        """The configuration's tags for masks; raises `InvalidOption`."""
        if not self.config:
            raise InvalidOption("this project's labelling configuration is not known yet: connect the model again")
        return mask_tags(self.config)


class LabelStudio:
    """All projects; every method may be called from any thread."""

    def __init__(
        self, services: Services, sources: ImageSources, folder: Path | None = None, *, adapt: bool = True
    ) -> None:
        """`adapt`: fit labels with enough examples to them, in the background.

        Raises `OutputError` for a folder that cannot be written, `FolderInUse` where another server writes it.
        """
        self.services, self.sources = services, sources
        self.model, self.limits = services.model, services.limits
        self.folder = folder
        self._folder_lock = FolderLock(folder) if folder else None
        self.predictions = LRUCache[tuple[Any, ...], TaskPrediction](_KEPT)
        """Made lately, so that a request that was broken off can be repeated."""
        self._projects: dict[str, StudioProject] = {}
        self._fitter = Fitter(services.model.segmenter(), self._give_way) if adapt else None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Break off the fit that is under way, and let another server use the folder."""
        if self._fitter is not None:
            self._fitter.close()
        if self._folder_lock is not None:
            self._folder_lock.release()

    def project(self, name: Any, config: str | None = None, key: str | None = None) -> StudioProject:
        """A project by its id: `12.1700000000` in requests, 12 in events; raises `ApiError`."""
        plain = _plain(name)
        if not _PROJECT.fullmatch(plain):
            raise ApiError(422, f"project {plain[:64]!r}: send Label Studio's number of it")
        if config:
            mask_tags(config)
        with self._lock:
            if plain not in self._projects:
                if len(self._projects) >= self.limits.sessions:
                    raise ApiError(429, f"{len(self._projects)} projects are served already: start another server")
                self._projects[plain] = self._read(plain)
            project = self._projects[plain]
            project.config, project.key = config or project.config, key or project.key
            return project

    def version(self, project: StudioProject) -> str:
        """Identifier of the model, the project's examples and what was fitted to them."""
        with self._lock:
            digests = [(a, label, s.digests) for a, e in project.examples.items() for label, s in e.items()]
            adapted = ((label, s.adaptation) for label, s in project.supports().items())
            digests += [("", label, (fitted.digest,)) for label, fitted in adapted if fitted is not None]
        return f"{self.model.version}-{hashlib.sha256(repr(sorted(digests)).encode()).hexdigest()[:8]}"

    def shots(self, project: StudioProject) -> dict[str, int]:
        """Label to number of examples."""
        with self._lock:
            return {label: support.shots for label, support in project.supports().items()}

    def open(self, project: StudioProject, task: Mapping[str, Any], tags: Sequence[MaskTag]) -> IO[bytes]:
        """The bytes of a task's image; raises `InvalidImage`."""
        data = task.get("data")
        for tag in tags:
            address = data.get(tag.key) if isinstance(data, Mapping) else None
            if isinstance(address, str) and address:
                return self.sources.fetch(address, self.limits, project.key, task.get("id"))
        raise InvalidImage(f"task {str(task.get('id'))[:30]} has no image in {tags[0].key!r}: check its data")

    def segment(self, project: StudioProject, file: IO[bytes]) -> Prediction:
        """The prediction of the project's labels in an image."""
        with self._lock:
            supports = project.supports()
        with self.services.open_image(file) as image:
            return self.model.segmenter(supports).segment(image, probabilities=False)

    def encode(self, file: IO[bytes], masks: Mapping[str, Any]) -> dict[str, LabelSupport]:
        """An encoded example of each label from an annotation's masks."""
        with self.services.open_image(file) as image:
            return {label: self.model.encode(label, image, mask) for label, mask in masks.items()}

    def keep(
        self, name: Any, project: StudioProject, annotation: str, examples: dict[str, LabelSupport] | None
    ) -> None:
        """Replace the examples of an annotation, None removes them; raises `ApiError` 413."""
        with self._lock:
            changed = {a: e for a, e in project.examples.items() if a != annotation}
            if examples:
                changed[annotation] = examples
                self._check(project, changed)
            project.examples = changed
            if self.folder is not None:
                flat = {f"{a}:{label}": s for a, e in changed.items() for label, s in e.items()}
                self.model.save(flat, self._path(_plain(name)))
        self.adapt_next()

    def adapt_next(self) -> None:
        """Start to fit a label of any project that is due, unless a fit is under way."""
        if self._fitter is None or self._fitter.busy:
            return
        with self._lock:
            waiting = ((name, project, project.due()) for name, project in self._projects.items())
            chosen = next(((name, project, *due) for name, project, due in waiting if due is not None), None)
        if chosen is not None:
            name, project, label, support = chosen
            examples = frozenset(support.digests)
            if self._fitter.start(label, support, examples, lambda fit: self._fitted(name, project, label, fit)):
                project.fitted[label] = examples

    def _fitted(self, name: str, project: StudioProject, label: str, fit: Fit | None) -> None:
        """Keep what was fitted, and go on with the next label."""
        with self._lock:
            if fit is not None:
                project.fits[label] = fit
                self._save_fits(name, project)
        self.adapt_next()

    def _save_fits(self, name: str, project: StudioProject) -> None:
        """Write the examples of adapted labels with what was fitted to them."""
        adapted = {label: support for label, support in project.supports().items() if support.adaptation is not None}
        if self.folder is not None and adapted:
            try:
                self.model.save(adapted, self._path(name, "adapted-"))
            except OutputError as error:  # after a restart the labels go on as they were taught
                log.warning("what was fitted is not kept: %s", error)

    def _give_way(self) -> None:
        """Wait, in the thread of a fit, until no request computes."""
        end = time.monotonic() + _GIVE_WAY_SECONDS
        while self.services.queue.busy and time.monotonic() < end:
            time.sleep(0.05)

    def _check(self, project: StudioProject, changed: ExamplesByAnnotation) -> None:
        shots = sum(len(labels) for labels in changed.values())
        if shots > self.limits.shots:
            raise ApiError(
                413, f"a project has at most {self.limits.shots} examples: delete annotations, or raise --limits.shots"
            )
        others = [e for p in self._projects.values() if p is not project for e in p.examples.values()]
        if sum(supports_bytes(e) for e in [*others, *changed.values()]) > self.limits.taught_bytes:
            raise ApiError(413, f"all examples would take over {self.limits.taught_mb} MB: delete annotations")

    def _path(self, name: str, kind: str = "project-") -> Path:
        assert self.folder is not None
        return self.folder / f"{kind}{name}.fewseg"

    def _read(self, name: str) -> StudioProject:
        """A project with the examples that an earlier run of the server saved."""
        project = StudioProject()
        if self.folder is not None and self._path(name).exists():
            try:
                for key, support in self.model.load(self._path(name)).items():
                    annotation, _, label = key.partition(":")
                    project.examples.setdefault(annotation, {})[label] = support
            except FewsegError as error:
                kept = _moved_aside(self._path(name))
                log.warning("%s is not used: %s; it is kept as %s", self._path(name), error, kept)
            self._read_fits(name, project)
        return project

    def _read_fits(self, name: str, project: StudioProject) -> None:
        if self._fitter is None or not self._path(name, "adapted-").exists():
            return
        try:
            for label, support in self.model.load(self._path(name, "adapted-")).items():
                if (adapted := support.adaptation) is not None:
                    examples = project.fitted[label] = frozenset(support.digests)
                    project.fits[label] = Fit(examples, adapted.report, adapted, support.presence_threshold)
        except FewsegError as error:
            log.warning("%s is not used: %s", self._path(name, "adapted-"), error)


def _plain(name: Any) -> str:
    """A project's id as its files are called by."""
    return str(name if name is not None else "default").partition(".")[0]


def _moved_aside(file: Path) -> Path:
    """Rename a file that is about to be overwritten: it may belong to another model, and be needed again."""
    number = 1
    while (kept := file.with_name(f"{file.stem}.unused-{number}{file.suffix}")).exists():
        number += 1
    with contextlib.suppress(OSError):
        file.rename(kept)
    return kept
