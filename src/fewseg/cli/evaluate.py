"""`fewseg evaluate`: score a model on the novel classes of datasets."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from fewseg.cli.common import load_model, progress_bar
from fewseg.core.devices import choose_dtype
from fewseg.core.distributed import join_processes
from fewseg.core.errors import InvalidOption
from fewseg.evaluation.evaluate import Scoring
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.plan import draw_trials, open_targets, read_trials
from fewseg.evaluation.protocols import Protocol, choose_protocol, default_protocol
from fewseg.evaluation.run import Evaluation, describe
from fewseg.images.transforms import Resize
from fewseg.models.methods import FewShotMethod, create_method
from fewseg.models.methods.options import method_options


@dataclass(frozen=True)
class Options:
    """Score a model on the novel classes of datasets, and print a table.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, the word `synthetic`, or a benchmark that `fewseg prepare` has read:
    pascal5i:FOLDER, coco20i:FOLDER, coco20i-panet:FOLDER, fss1000:FOLDER. The episodes that are drawn are saved beside
    the results: give them again with --episodes to measure another model on the same. A run that was killed goes on
    when the same command is given again; `torchrun --nproc-per-node N -m fewseg.cli evaluate ...` shares it among N
    processes, with the same numbers.
    """

    data: tuple[str, ...]
    """Datasets. ROOT@1/4 tests fold 1 of 4 (interleaved classes), ROOT@cat,dog these classes, ROOT@all all;
    pascal5i:FOLDER@1 its fold 1."""
    out: Path
    """Where results.json, the episode lists and images go."""
    checkpoint: str = "default"
    """The model: `default` (comes with fewseg), a file, a folder with model.safetensors, or a hub id user/name."""
    official: str | None = None
    """The checkpoint is the authors' release for this backbone: resnet50, resnet101 or swin_b. --method says of which
    method; dcama if not given."""
    method: str | None = None
    """Instead of a checkpoint: a method without training, e.g. prototype."""
    options: tuple[str, ...] = ()
    """Fields of the config of --method, as KEY=VALUE: `temperature=10 scales=(8,16)`."""
    backbone: str = "resnet50"
    """Backbone of --method: resnet50, resnet101, swin_b, or any timm model name."""
    backbone_weights: Path | None = None
    """Weights of that backbone; downloaded through timm if not given."""
    image_size: int | None = None
    """Input side in pixels; the model's own if not given."""
    protocol: str | None = None
    """How it is measured: hsnet (also DCAMA's), sccan, sccan-square, pfenet or folder. If not given: folder, but where
    all data are benchmarks hsnet, or sccan with --method sccan."""
    fold: tuple[int, ...] = ()
    """Folds to test, for datasets without @; if not given, all folds of a benchmark, all classes of another dataset."""
    folds: int = 4
    """Number of folds of a dataset that is no benchmark."""
    shots: tuple[int, ...] = (1, 5)
    """Numbers of support images to measure; on the same queries, but where a protocol draws anew for each."""
    count: int | None = None
    """Episodes of a fold, for every protocol but folder; the protocol's if not given."""
    per_class: int | None = None
    """Episodes of every class, for the protocol folder; 15 if not given."""
    seed: tuple[int, ...] = ()
    """Seeds of the episodes, each a list of its own; the protocol's if not given."""
    min_area: float = 0.02
    """Share of an image that a class must cover to be used; benchmarks have rules of their own."""
    episodes: tuple[Path, ...] = ()
    """Episode lists to use instead of drawing some."""
    scoring: Scoring | None = None
    """Compare at the query's original size, or at the model's input size; the protocol's if not given."""
    resize: Resize | None = None
    """Squash images to the input's square, or pad them; the protocol's if not given."""
    fusion: Fusion = "one-pass"
    """How several shots become one prediction. one-pass: the method's own way. The others fuse one-shot predictions:
    vote (majority of the masks), average (of the probabilities), hsnet-vote (half of the image's largest number of
    votes), guided (average weighted by how well each shot segments the support images, as in SCL)."""
    save_examples: int = 4
    """Best and worst episodes to draw, of each list; 0 for none."""
    batch: int = 1
    """Episodes that are segmented together."""
    workers: int | None = None
    """Threads that read images ahead; if not given, 4 for a GPU, and 0 for a CPU, whose times they would blur."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: str = "float32"
    """float32, so that numbers do not depend on the device; bfloat16, float16, or auto as `fewseg segment` chooses."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


def run(options: Options) -> int:
    """Evaluate, write, print the tables."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    _check(options)
    protocol = _protocol(options)
    targets = open_targets(options.data, protocol, fold=options.fold, folds=options.folds, min_area=options.min_area)
    if options.episodes:
        trials = read_trials(options.episodes, targets)
        protocol = dataclasses.replace(protocol, changed=(*protocol.changed, "saved episodes"))
    else:
        trials = draw_trials(targets, protocol, options.shots)
    method = _method(options)
    about = describe(method) | {
        "checkpoint": options.checkpoint if options.official or not options.method else None,
        "min_area": options.min_area,
        "protocol": protocol.to_json(),
        "batch": options.batch,
    }
    with join_processes(options.device) as processes:
        device = torch.device(processes.device)
        method.to(device, choose_dtype(options.precision, device, method.bfloat16_on))
        about |= {"device": method.device.type, "dtype": str(method.dtype).removeprefix("torch.")}
        evaluation = Evaluation(
            method, protocol, options.out, about, options.fusion, options.batch, options.workers, processes
        )
        evaluation.check(trials)
        if not processes.main:
            evaluation.run(trials)
            return 0
        if not options.episodes:
            evaluation.save_lists(trials, min_area=options.min_area)
        with progress_bar("evaluating") as advance:
            results = evaluation.run(trials, progress=advance)
        print(evaluation.report(trials, results, sheets=options.save_examples))
    return 0


def _check(options: Options) -> None:
    if not options.data or not options.shots:
        raise InvalidOption("nothing to evaluate: give at least one dataset and one number of shots")
    if options.options and options.method is None:
        raise InvalidOption("a checkpoint brings its method's options: leave out --options, or give --method")
    if options.fold and all("@" in text for text in options.data):
        raise InvalidOption("--fold is for datasets without @: leave it out, or name no classes behind @")
    numbers = (options.per_class, options.count, options.batch)
    if (
        any(n is not None and n < 1 for n in numbers)
        or min(options.save_examples, options.workers or 0, *options.seed, 0) < 0
    ):
        raise InvalidOption("per_class, count and batch must be 1 or more, save_examples, workers and seed 0 or more")
    if options.method is not None and options.official is None and options.checkpoint != "default":
        raise InvalidOption(
            f"--checkpoint {options.checkpoint} and --method {options.method}: a checkpoint brings its method; "
            "leave out one of the two, or say with --official that it is the authors' release"
        )
    if options.backbone_weights is not None and (options.method is None or options.official is not None):
        raise InvalidOption("a checkpoint brings its backbone: leave out --backbone-weights, or give --method alone")


def _protocol(options: Options) -> Protocol:
    name = options.protocol or default_protocol(options.data, options.method or "")
    by_class = name == "folder"
    if (options.count if by_class else options.per_class) is not None:
        wrong, right = ("--count", "--per-class") if by_class else ("--per-class", "--count")
        raise InvalidOption(f"{wrong} does not go with protocol {name}: give {right}")
    return choose_protocol(
        name,
        count=options.per_class if by_class else options.count,
        seeds=options.seed,
        resize=options.resize,
        scoring=options.scoring,
    )


def _method(options: Options) -> FewShotMethod:
    if options.official is not None or options.method is None:
        name = options.method or "dcama"
        given = {} if options.official is None else method_options(name, options.options)
        method = load_model(options.checkpoint, options.official, name, options.image_size, **given)
    else:
        weights = options.backbone_weights
        size: dict[str, Any] = {} if options.image_size is None else {"image_size": options.image_size}
        method = create_method(
            options.method,
            backbone=options.backbone,
            pretrained=weights is None,
            backbone_weights=weights,
            **size,
            **method_options(options.method, options.options),
        )
        if any(True for _ in method.trainable_parameters()):
            raise InvalidOption(f"{options.method} has to be trained: give what `fewseg train` made with --checkpoint")
    return method.eval()
