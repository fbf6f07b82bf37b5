"""The experiments as data: the variants that each compares, and the paper's numbers for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from fewseg.core.choices import Fusion
from fewseg.evaluation.published import paper_results

Measure = Literal["scores", "masks", "cost", "shots"]
"""`scores`: IoU and regions of the predictions. `masks`: IoU of each scale's intermediate mask. `cost`: operations and
time of one shot. `shots`: memory and time for each number of shots."""

Trains = Literal["each", "once", "never"]
"""Whether every variant is trained, one model serves all, or weights make no difference."""


@dataclass(frozen=True)
class Variant:
    """One row of a table."""

    title: str
    method: str = "dcama"
    options: tuple[str, ...] = ()
    """Fields of the method's config that differ from the published ones, as KEY=VALUE."""
    fusion: Fusion = "one-pass"
    row: str | None = None
    """Its name in `paper_results.json`; None where the paper's number is not carried."""


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper."""

    name: str
    source: str
    about: str
    """What is asked, and what the paper concludes."""
    variants: tuple[Variant, ...]
    columns: tuple[str, ...] = ("miou", "fb_iou")
    """What is printed, in this order; see `fewseg.tools.ablations.report.HEADS`."""
    measure: Measure = "scores"
    trains: Trains = "each"
    shots: tuple[int, ...] = (1,)
    key: str | None = None
    """Its name in `paper_results.json`."""
    setting: str = "PASCAL-5i, Swin-B, 1-shot"
    """Where the paper measured."""

    @property
    def reads_images(self) -> bool:
        """Whether images are needed to measure, not only to train; cost is the same on noise."""
        return self.measure in ("scores", "masks")

    def paper(self, variant: Variant, benchmark: str | None = None) -> dict[str, float]:
        """The paper's numbers for a variant, by column; empty where none are carried."""
        if self.key is None or variant.row is None:
            return {}
        row: Any = paper_results()["ablations"][self.key]["rows"][variant.row]
        if self.key == "rom_rum":
            rom, rum = row.get(benchmark or "pascal5i", (None, None))
            row = {} if rom is None else {"rom": rom, "rum": rum}
        return {name: float(value) for name, value in row.items()}


_FULL: Final = "1/4 + 1/8"

_TABLES: Final = (
    Experiment(
        "background",
        "Table 3",
        "Does attention to background support pixels help? The paper: without them mIoU falls by 2.0.",
        (
            Variant("with background", row="with background"),
            Variant("without background", options=("use_background=False",), row="without"),
        ),
        key="background",
    ),
    Experiment(
        "fusion",
        "Table 4",
        "One pass over all shots, against fusing one-shot predictions. The paper: one pass is best, by 0.8 mIoU.",
        (
            Variant("vote", fusion="vote", row="vote"),
            Variant("average", fusion="average", row="average"),
            Variant("HSNet's vote", fusion="hsnet-vote", row="hsnet vote"),
            Variant("SCL's guided average", fusion="guided", row="scl"),
            Variant("one pass", row="one pass"),
        ),
        trains="once",
        shots=(5,),
        key="fusion",
        setting="PASCAL-5i, Swin-B, 5-shot",
    ),
    Experiment(
        "regions",
        "Table S1",
        "How often masks fall apart (ROM) or run together (RUM), both better low. The paper: DCAMA falls apart less "
        "than HSNet on PASCAL-5i and COCO-20i, more on FSS-1000; RUM is about the same.",
        (Variant("HSNet", "hsnet", row="hsnet"), Variant("DCAMA", row="dcama")),
        columns=("rom", "rum", "miou"),
        key="rom_rum",
        setting="the same benchmark (PASCAL-5i for other datasets), Swin-B, 1-shot",
    ),
    Experiment(
        "cost",
        "Table S2",
        "Epochs to the best checkpoint, operations and time of a query. The paper: DCAMA trains in a quarter of "
        "HSNet's epochs, at the same cost of a query. Without --data nothing is trained, and epochs are left out.",
        (Variant("HSNet", "hsnet", row="hsnet"), Variant("DCAMA", row="dcama")),
        columns=("epochs", "gmacs", "backbone_gmacs", "seconds", "query_seconds"),
        measure="cost",
        key="cost",
        setting="COCO-20i, Swin-B, 1-shot, one NVIDIA T4",
    ),
    Experiment(
        "skip-scales",
        "Table S3",
        "Which of the backbone's maps the decoder should see. The paper: 1/4 and 1/8; without any, mIoU falls by 3.1. "
        "Its rows for one scale alone are not carried: the source is not legible there.",
        (
            Variant("none", options=("skip_scales=()",), row="none"),
            Variant("1/8", options=("skip_scales=(8,)",)),
            Variant("1/4", options=("skip_scales=(4,)",)),
            Variant(_FULL, row="1/4+1/8"),
        ),
        key="skip_scales",
    ),
    Experiment(
        "attention-scales",
        "Table S4",
        "At which scales to aggregate masks. The paper: all three; every scale left out costs mIoU, 1/8 2.1 and 1/16 "
        "another 8.5.",
        (
            Variant("1/8 + 1/16 + 1/32", row="1/8+1/16+1/32"),
            Variant("1/16 + 1/32", options=("attention_scales=(16,32)",), row="1/16+1/32"),
            Variant("1/32", options=("attention_scales=(32,)",), row="1/32"),
        ),
        key="attention_scales",
    ),
    Experiment(
        "support-pixels",
        "Table S5",
        "Support maps left out of the decoder, and 600 foreground and 600 background pixels in place of all. The "
        "paper: 0.4 and 3.6 mIoU less.",
        (
            Variant("all", row="full"),
            Variant("no support maps in the decoder", options=("skip_support=False",), row="no support skip"),
            Variant("600 + 600 pixels", options=("support_pixel_budget=600",), row="600 pixels"),
        ),
        key="skip_support",
    ),
    Experiment(
        "intermediate-masks",
        "Figure 6",
        "How good the aggregated masks of each scale are, cut at Otsu's threshold, before the decoder. The figure's "
        "values are not carried.",
        (Variant("DCAMA"),),
        measure="masks",
        trains="once",
    ),
    Experiment(
        "shots",
        "Figure S1",
        "Memory and time for 1 to 5 shots. The figure's values are not carried.",
        (
            Variant("DCAMA, one pass"),
            Variant("DCAMA, one shot at a time, averaged", fusion="average"),
            Variant("HSNet", "hsnet"),
        ),
        columns=("shots", "megabytes", "seconds", "query_seconds"),
        measure="shots",
        trains="never",
        shots=(1, 2, 3, 4, 5),
        setting="Swin-B",
    ),
)

EXPERIMENTS: Final[Mapping[str, Experiment]] = {experiment.name: experiment for experiment in _TABLES}
"""Every experiment by name, in the paper's order."""
