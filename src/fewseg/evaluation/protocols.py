"""Named evaluation protocols as data; every result is printed with its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from fewseg.core.bounds import MOST, check_number
from fewseg.core.errors import InvalidOption, unknown
from fewseg.data.datasets.benchmark import Selection
from fewseg.data.episodes.sources import BENCHMARKS
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.scoring import EvaluationSettings, Scoring
from fewseg.images.transforms import Resize
from fewseg.models.methods import FewShotMethod

Draw = Literal["class-by-class", "hsnet", "walk"]
"""`class-by-class`: as many episodes of every class, queries in turn. `hsnet`: as HSNet's and DCAMA's code draws them.
`walk`: the query walks the images, as SCCAN does."""

ANY: Final = "*"


@dataclass(frozen=True)
class Protocol:
    """Everything that must agree for two numbers to be comparable."""

    name: str
    draw: Draw
    """How episodes are drawn."""
    episodes: Mapping[str, int | None]
    """Episodes of a fold (`class-by-class`: of a class) by benchmark, `*` for any other; None: every test image."""
    seeds: tuple[int, ...] = (0,)
    """Each draws a list of its own; scores are their mean."""
    resize: Resize = "square"
    """How images come to the model's input size."""
    scoring: Scoring = "model"
    """At which size prediction and truth are compared."""
    selection: Selection = "hsnet"
    """Whose rule which images of a benchmark show a class: `sccan` wants 2048 pixels."""
    small_queries: bool = False
    """Whether `walk` draws a query's class among all novel ones that it shows, on however few pixels, as SCCAN does."""
    changed: tuple[str, ...] = ()
    """What was set otherwise than the name says."""

    def count(self, benchmark: str | None) -> int | None:
        """Episodes of a fold or class, see `episodes`."""
        return self.episodes.get(benchmark or ANY, self.episodes[ANY])

    def settings(self, fusion: Fusion = "one-pass", batch: int = 1) -> EvaluationSettings:
        """How `evaluate` scores under this protocol."""
        return EvaluationSettings(self.scoring, self.resize, fusion, batch)

    def to_json(self) -> dict[str, Any]:
        """For `results.json`."""
        return {**asdict(self), "episodes": dict(self.episodes)}

    def describe(self) -> str:
        """One line for a person."""
        counts = sorted({"every image once" if n is None else str(n) for n in self.episodes.values()})
        of = "class" if self.draw == "class-by-class" else "fold"
        changed = f" (changed: {', '.join(self.changed)})" if self.changed else ""
        return (
            f"protocol {self.name}{changed}: drawn {self.draw}, {' or '.join(counts)} episodes a {of}, "
            f"seed{'s' * (len(self.seeds) > 1)} {' '.join(map(str, self.seeds))}, {self.resize} resize, "
            f"compared at the size of the {'query' if self.scoring == 'original' else 'input'}"
        )


_WALK: Final = {"pascal5i": 1000, "coco20i": 4000, "coco20i-panet": 4000, ANY: 1000}

PROTOCOLS: Final[dict[str, Protocol]] = {
    protocol.name: protocol
    for protocol in (
        Protocol("hsnet", "hsnet", {"fss1000": None, ANY: 1000}),
        Protocol("sccan", "walk", _WALK, (321,), "padded", "original", "sccan", small_queries=True),
        Protocol("sccan-square", "walk", _WALK, (321,), "square", "original", "sccan", small_queries=True),
        Protocol("pfenet", "walk", {ANY: 1000}, (0,), "padded", "original", "sccan", small_queries=True),
        Protocol("folder", "class-by-class", {ANY: 15}, scoring="original"),
    )
}
"""`hsnet`: DCAMA's and HSNet's. `sccan`: SCCAN's, with the one seed of its test script, where the paper's numbers are
means over five; `sccan-square` its second published row. `pfenet`: SCCAN's with 1000 episodes. `folder`: this project's
own, for datasets of one's own."""


def default_protocol(data: Sequence[str], method: type[FewShotMethod] = FewShotMethod) -> str:
    """Name of the protocol for datasets as written on the command line: the method's `benchmark_protocol` where all
    are benchmarks, else `folder`."""
    if not all(text.partition(":")[0] in BENCHMARKS for text in data):
        return "folder"
    return method.benchmark_protocol


def choose_protocol(
    name: str,
    *,
    count: int | None = None,
    seeds: tuple[int, ...] = (),
    resize: Resize | None = None,
    scoring: Scoring | None = None,
    small_queries: bool | None = None,
) -> Protocol:
    """A protocol by name, with what is given set otherwise.

    Raises:
        InvalidOption: no such protocol, or a count or seed that means nothing.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    if (count is not None and count < 1) or any(seed < 0 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise InvalidOption(f"{count} episodes, seeds {list(seeds)}: give 1 or more, and different seeds of 0 or more")
    for name_of, number, most in (("episodes", count or 0, MOST), *(("seed", seed, 2**63 - 1) for seed in seeds)):
        check_number(name_of, number, most)
    given: dict[str, Any] = {"seeds": seeds or None, "resize": resize, "scoring": scoring}
    given["small_queries"] = small_queries
    if count is not None:
        given["episodes"] = {ANY: count}
    named = PROTOCOLS[name]
    changes = {key: value for key, value in given.items() if value is not None and value != getattr(named, key)}
    return replace(named, **changes, changed=tuple(changes))
