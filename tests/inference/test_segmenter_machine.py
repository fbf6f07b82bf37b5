"""A segmenter that threads teach, forget, segment, save and load, beside a plain model of what it should know."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fewseg.core.errors import InvalidSupport
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob

LABELS = ("red", "green", "blue")
PLACES = (0.35, 0.45, 0.5, 0.55, 0.65)
EXAMPLES = {(label, place): blob(label, place=place) for label in LABELS for place in PLACES}
QUERY = blob("red", "blue")[0]
METHOD = ColourMethod()
DIGESTS = {
    key: Segmenter(METHOD, device="cpu").encode_example(*example).digests[0] for key, example in EXAMPLES.items()
}

labels, places = st.sampled_from(LABELS), st.sampled_from(PLACES)


class Taught(RuleBasedStateMachine):
    """Label to its examples, in order of teaching; what several threads do at once may come in any order."""

    @initialize()
    def begin(self) -> None:
        self.segmenter = Segmenter(METHOD, device="cpu")
        self.model: dict[str, list[str]] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name, "a.fewseg")

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(label=labels, place=places)
    def teach(self, label: str, place: float) -> None:
        self.segmenter.teach(label, *EXAMPLES[label, place])
        self.model.setdefault(label, []).append(DIGESTS[label, place])

    @rule(label=labels)
    def forget(self, label: str) -> None:
        if label not in self.model:
            with pytest.raises(InvalidSupport):
                self.segmenter.forget(label)
            return
        self.segmenter.forget(label)
        del self.model[label]

    @rule(label=labels, shot=st.integers(0, 3))
    def forget_shot(self, label: str, shot: int) -> None:
        shots = self.model.get(label, [])
        if shot >= len(shots):
            with pytest.raises(InvalidSupport):
                self.segmenter.forget(label, shot)
            return
        self.segmenter.forget(label, shot)
        del shots[shot]
        if not shots:
            del self.model[label]

    @rule()
    def save_and_load(self) -> None:
        before = self.segmenter.fingerprint
        self.segmenter.save(self.file)
        self.segmenter = Segmenter.load(self.file, METHOD, device="cpu")
        assert self.segmenter.fingerprint == before

    @rule()
    def segment(self) -> None:
        if not self.model:
            with pytest.raises(InvalidSupport):
                self.segmenter.segment(QUERY)
            return
        found = self.segmenter.segment(QUERY)
        alone = self.segmenter.with_supports(self.segmenter.supports).segment(QUERY)
        assert found.labels == tuple(self.model)
        np.testing.assert_array_equal(found.label_map, alone.label_map)

    @rule(steps=st.lists(st.tuples(labels, places, st.sampled_from(["teach", "forget"])), min_size=2, max_size=6))
    def together(self, steps: list[tuple[str, float, str]]) -> None:
        """Threads teach and forget while others segment and save: no example is lost, none is there twice."""
        first = {label: list(shots) for label, shots in self.model.items()}
        self.segmenter.teach("red", *EXAMPLES["red", 0.5])
        first.setdefault("red", []).append(DIGESTS["red", 0.5])
        with ThreadPoolExecutor(len(steps) + 2) as pool:
            watching = [pool.submit(self._watch), pool.submit(self._save)]
            forgotten = [pool.submit(self._step, *step) for step in steps]
            counts = [future.result() for future in forgotten]
            for future in watching:
                future.result()
        now = {label: list(support.digests) for label, support in self.segmenter.supports.items()}
        for label in LABELS:
            taught = sum(step == (label, step[1], "teach") for step in steps)
            lost = sum(count for step, count in zip(steps, counts, strict=True) if step[0] == label)
            assert len(now.get(label, [])) == len(first.get(label, [])) + taught - lost
        self.model = now

    def _step(self, label: str, place: float, what: str) -> int:
        """Teach, or forget a label's first example; gives how many were forgotten."""
        if what == "teach":
            self.segmenter.teach(label, *EXAMPLES[label, place])
            return 0
        try:
            self.segmenter.forget(label, 0)
        except InvalidSupport:
            return 0
        return 1

    def _watch(self) -> None:
        try:
            found = self.segmenter.segment_batch([QUERY, QUERY], batch_size=1)
        except InvalidSupport:  # all was forgotten
            return
        assert found[0].labels == found[1].labels
        np.testing.assert_array_equal(found[0].label_map, found[1].label_map)

    def _save(self) -> None:
        self.segmenter.save(self.file)
        loaded = Segmenter.load(self.file, METHOD, device="cpu")
        assert all(support.shots == len(support.digests) > 0 for support in loaded.supports.values())

    @invariant()
    def knows_what_was_taught(self) -> None:
        if not hasattr(self, "segmenter"):
            return
        known = {label: list(support.digests) for label, support in self.segmenter.supports.items()}
        assert known == self.model
        assert list(known) == list(self.model)
        for label, support in self.segmenter.supports.items():
            assert support.shots == self.segmenter.shots(label) == support.sets[0].shots


Taught.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestTaught: Callable[..., object] = Taught.TestCase
