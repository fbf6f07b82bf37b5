"""The fits of a project's labels: which are in use, due or under way; they outlast a restart."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from fewseg.core.errors import InvalidCheckpoint, OutputError, one_line
from fewseg.core.tensor_files import read_tensors, write_tensors
from fewseg.core.version import __version__
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES
from fewseg.inference.adaptation.report import Adaptation
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine.cache import ResultCache
from fewseg.server.engine.model import EngineModel
from fewseg.server.engine.plan import Plan
from fewseg.server.fitting import Fit, Fitter

log = logging.getLogger(__name__)

REST_SECONDS: Final = 4.0
"""Time without a change of the project after which a label may be fitted."""

_KEY: Final = "fewseg.fit"


class Adapter:
    """The latest fit of every label; may be read from any thread."""

    def __init__(
        self,
        model: EngineModel,
        cache: ResultCache,
        rest: float,
        *,
        give_way: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`rest`: seconds, see `REST_SECONDS`, infinity for no fits; `changed` is called when a fit is done."""
        self._cache, self._changed, self._rest = cache, changed, rest
        self._last_change = time.monotonic()
        self._fitter = Fitter(model.segmenter, give_way)
        self.fits: dict[int, Fit] = {}
        """By label id; whether one is used is for the plan to say."""
        self.working: int | None = None
        """The label that is being fitted."""
        self._made: dict[int, str] = {}
        """By label id: the examples that the latest fit was made of, or failed with, as in `Plan.examples`."""

    def close(self) -> None:
        """Break off the fit that is under way."""
        self._fitter.close()

    def restore(self, plan: Plan) -> bool:
        """Take fits of exactly the plan's examples from the cache; whether there were any."""
        found = False
        for label in self._enough(plan):
            key = plan.examples[label]
            if self._made.get(label) != key and (fit := self._read(key, plan.shot_keys(label))) is not None:
                self.fits, self._made[label] = {**self.fits, label: fit}, key
                found = True
        return found

    def touch(self) -> None:
        """The project was changed just now."""
        self._last_change = time.monotonic()

    def due(self, plan: Plan) -> int | None:
        """A label whose examples changed since it was fitted, None while a fit is under way."""
        if self.working is not None:
            return None
        return next((label for label in self._enough(plan) if self._made.get(label) != plan.examples[label]), None)

    def seconds_to_fit(self, plan: Plan) -> float:
        """Time until a label is to be fitted: 0 for now, infinity where none is due."""
        if self.due(plan) is None:
            return math.inf
        return max(0.0, self._last_change + self._rest - time.monotonic())

    def state(self, label: int, plan: Plan) -> Literal["waiting", "working", "done"] | None:
        """How far a label's fit is; None where the label has too few examples."""
        if label not in self._enough(plan):
            return None
        if label == self.working:
            return "working"
        return "done" if self._made.get(label) == plan.examples[label] else "waiting"

    def start(self, plan: Plan, support_of: Callable[[int, Plan], LabelSupport | None]) -> bool:
        """Start to fit the label that is due to its encoded examples; False where they are None, or none is due."""
        label = self.due(plan)
        support = None if label is None else support_of(label, plan)
        if label is None or support is None:
            return False
        name = next((own.name for own in plan.state.labels if own.id == label), str(label))
        key = plan.examples[label]

        def done(fit: Fit | None) -> None:
            self._made[label] = key
            if fit is not None:
                self.fits = {**self.fits, label: fit}
                self._write(key, fit)
            self.working = None
            self._changed()

        self.working = label
        if not self._fitter.start(name, support, plan.shot_keys(label), done):
            self.working = None
        return self.working is not None

    def _enough(self, plan: Plan) -> list[int]:
        if self._rest == math.inf:
            return []
        return [label for label, shots in plan.shots.items() if len(shots) >= ENOUGH_EXAMPLES]

    def _write(self, key: str, fit: Fit) -> None:
        about = fit.adaptation.about if fit.adaptation else {"report": dataclasses.asdict(fit.report)}
        values = {"version": __version__, "presence_threshold": fit.presence_threshold, **about}
        tensors = fit.adaptation.tensors() if fit.adaptation else {}
        try:
            write_tensors(self._cache.new_path(f"{key}.fit"), tensors, {_KEY: json.dumps(values)})
        except OutputError as error:  # fitted again after a restart
            log.warning("what was fitted is not kept: %s", error)

    def _read(self, key: str, examples: frozenset[str]) -> Fit | None:
        """What `_write` wrote; None where there is nothing, or what this version of fewseg cannot use."""
        path = self._cache.path(f"{key}.fit")
        if not path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            about: dict[str, Any] = json.loads(metadata[_KEY])
            if about["version"] != __version__:
                return None
            adaptation = AdaptedLabel.from_tensors(tensors, about) if tensors else None
            report = Adaptation.from_json(about["report"])
            return Fit(examples, report, adaptation, about["presence_threshold"])
        except (InvalidCheckpoint, LookupError, TypeError, ValueError) as error:
            log.warning("%s is not used (%s): the label is fitted again", path, one_line(error))
            return None
