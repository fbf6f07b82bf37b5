"""`fewseg evaluate`: score a model on the novel classes of datasets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewseg.cli.options import ImageSizeOptions, LogOptions, PrecisionOptions, ReleaseOptions
from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.choices import Fusion, Resize, Scoring
from fewseg.core.errors import InvalidOption

if TYPE_CHECKING:
    from fewseg.evaluation.protocols import Protocol
    from fewseg.models.methods import FewShotMethod


@dataclass(frozen=True, kw_only=True)
class Options(ReleaseOptions, ImageSizeOptions, PrecisionOptions, LogOptions):
    """Score a model on the novel classes of datasets, and print a table.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, the word `synthetic`, or a benchmark that `fewseg prepare` has read:
    pascal5i:FOLDER, coco20i:FOLDER, coco20i-panet:FOLDER, fss1000:FOLDER. The episodes that are drawn are saved beside
    the results: give them again with --episode-lists to measure another model on the same. A run that was killed goes
    on when the same command is given again; `torchrun --nproc-per-node N -m fewseg.cli evaluate ...` shares it among N
    processes, with the same numbers.
    """

    data: tuple[str, ...]
    """Datasets. ROOT@1/4 tests fold 1 of 4 (interleaved classes), ROOT@cat,dog these classes, ROOT@all all;
    pascal5i:FOLDER@1 its fold 1."""
    out: Path
    """Where results.json, the episode lists and images go."""
    method: str | None = None
    """With --official: whose release that is, dcama (also if not given), sccan or hsnet. Without: a method that needs
    no training in place of a checkpoint, e.g. prototype."""
    model_kwargs: tuple[str, ...] = ()
    """Fields of the config of --method, as KEY=VALUE: `temperature=10 scales=(8,16)`."""
    backbone: str = "resnet50"
    """Backbone of --method: resnet50, resnet101, swin_b, or any timm model name."""
    backbone_weights: Path | None = None
    """Weights of that backbone; downloaded through timm if not given."""
    protocol: str | None = None
    """How it is measured: hsnet (also DCAMA's), sccan, sccan-square, pfenet or folder. If not given: folder, but where
    all data are benchmarks hsnet, or sccan with --method sccan."""
    fold: tuple[int, ...] = ()
    """Folds to test, for datasets without @; if not given, all folds of a benchmark, all classes of another dataset."""
    folds: int = 4
    """Number of folds of a dataset that is no benchmark."""
    shots: tuple[int, ...] = (1, 5)
    """Numbers of support images to measure; on the same queries, but where a protocol draws anew for each."""
    episodes: int | None = None
    """Episodes of a fold, for every protocol but folder; the protocol's if not given."""
    episodes_per_class: int | None = None
    """Episodes of every class, for the protocol folder; 15 if not given."""
    seed: tuple[int, ...] = ()
    """Seeds of the episodes, each a list of its own; the protocol's if not given."""
    min_area: float = 0.02
    """Share of an image that a class must cover to be used; benchmarks have rules of their own."""
    episode_lists: tuple[Path, ...] = ()
    """Episode lists to use instead of drawing some."""
    scoring: Scoring | None = None
    """Compare at the query's original size, or at the model's input size; the protocol's if not given."""
    resize: Resize | None = None
    """Squash images to the input's square, or pad them; the protocol's if not given."""
    small_queries: bool | None = None
    """Test queries in which a class covers too few pixels for a support, too; the protocol's if not given."""
    fusion: Fusion = "one-pass"
    """How several shots become one prediction. one-pass: the method's own way. The others fuse one-shot predictions:
    vote (majority of the masks), average (of the probabilities), hsnet-vote (half of the image's largest number of
    votes), guided (average weighted by how well each shot segments the support images, as in SCL)."""
    save_examples: int = 4
    """Best and worst episodes to draw, of each list; 0 for none."""
    batch_size: int = 1
    """Episodes that are segmented together."""
    workers: int | None = None
    """Threads that read images ahead; if not given, 4 for a GPU, and 0 for a CPU, whose times they would blur."""
    precision: str = "float32"
    """float32, so that numbers do not depend on the device; bfloat16, float16, or auto as `fewseg segment` chooses."""


def run(options: Options) -> int:
    """Evaluate, write, print the tables."""
    import torch

    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg.core.devices import choose_dtype
    from fewseg.core.distributed import join_processes
    from fewseg.evaluation.plan import draw_trials, open_targets, read_trials
    from fewseg.evaluation.run import Evaluation, describe

    log_to_terminal(options.verbose)
    _check(options)
    protocol = _protocol(options)
    targets = open_targets(options.data, protocol, fold=options.fold, folds=options.folds, min_area=options.min_area)
    if options.episode_lists:
        trials = read_trials(options.episode_lists, targets)
        protocol = dataclasses.replace(protocol, changed=(*protocol.changed, "saved episodes"))
    else:
        trials = draw_trials(targets, protocol, options.shots)
    method = _method(options)
    about = describe(method) | {
        "checkpoint": options.checkpoint if options.official or not options.method else None,
        "min_area": options.min_area,
        "protocol": protocol.to_json(),
        "batch": options.batch_size,
    }
    with join_processes(options.device) as processes:
        device = torch.device(processes.device)
        method.to(device, choose_dtype(options.precision, device, method.bfloat16_devices))
        about |= {"device": method.device.type, "dtype": str(method.dtype).removeprefix("torch.")}
        evaluation = Evaluation(
            method, protocol, options.out, about, options.fusion, options.batch_size, options.workers, processes
        )
        with evaluation.locked():
            evaluation.check(trials)
            if not processes.main:
                evaluation.run(trials)
                return 0
            if not options.episode_lists:
                evaluation.save_lists(trials, min_area=options.min_area)
            with progress_bar("evaluating") as advance:
                results = evaluation.run(trials, progress=advance)
            print(evaluation.report(trials, results, sheets=options.save_examples))
    return 0


def _check(options: Options) -> None:
    if not options.data or not options.shots:
        raise InvalidOption("nothing to evaluate: give at least one dataset and one number of shots")
    if options.model_kwargs and options.method is None:
        raise InvalidOption("a checkpoint brings its method's options: leave out --model-kwargs, or give --method")
    if options.fold and all("@" in text for text in options.data):
        raise InvalidOption("--fold is for datasets without @: leave it out, or name no classes behind @")
    numbers = (options.episodes_per_class, options.episodes, options.batch_size)
    if (
        any(n is not None and n < 1 for n in numbers)
        or min(options.save_examples, options.workers or 0, *options.seed, 0) < 0
    ):
        raise InvalidOption(
            "--episodes, --episodes-per-class and --batch-size must be 1 or more, "
            "--save-examples, --workers and --seed 0 or more"
        )
    for name in ("batch_size", "save_examples", "workers", "folds"):
        check_number(name, getattr(options, name) or 0, MOST_AT_ONCE)
    if options.method is not None and options.official is None and options.checkpoint != "default":
        raise InvalidOption(
            f"--checkpoint {options.checkpoint} and --method {options.method}: a checkpoint brings its method; "
            "leave out one of the two, or say with --official that it is the authors' release"
        )
    if options.backbone_weights is not None and (options.method is None or options.official is not None):
        raise InvalidOption("a checkpoint brings its backbone: leave out --backbone-weights, or give --method alone")


def _protocol(options: Options) -> Protocol:
    from fewseg.evaluation.protocols import choose_protocol, default_protocol
    from fewseg.models.methods import METHODS, FewShotMethod

    name = options.protocol or default_protocol(options.data, METHODS.get(options.method or "", FewShotMethod))
    by_class = name == "folder"
    if (options.episodes if by_class else options.episodes_per_class) is not None:
        wrong, right = ("--episodes", "--episodes-per-class") if by_class else ("--episodes-per-class", "--episodes")
        raise InvalidOption(f"{wrong} does not go with protocol {name}: give {right}")
    return choose_protocol(
        name,
        count=options.episodes_per_class if by_class else options.episodes,
        seeds=options.seed,
        resize=options.resize,
        scoring=options.scoring,
        small_queries=options.small_queries,
    )


def _method(options: Options) -> FewShotMethod:
    from fewseg.cli.common import DEFAULT_METHOD, load_model
    from fewseg.models.methods import create_method
    from fewseg.models.methods.options import method_options

    if options.official is not None or options.method is None:
        name = options.method or DEFAULT_METHOD
        given = {} if options.official is None else method_options(name, options.model_kwargs)
        method = load_model(options, options.image_size, **given)
    else:
        weights = options.backbone_weights
        size: dict[str, Any] = {} if options.image_size is None else {"image_size": options.image_size}
        method = create_method(
            options.method,
            backbone=options.backbone,
            pretrained=weights is None,
            backbone_weights=weights,
            **size,
            **method_options(options.method, options.model_kwargs),
        )
        if any(True for _ in method.trainable_parameters()):
            raise InvalidOption(f"{options.method} has to be trained: give what `fewseg train` made with --checkpoint")
    return method.eval()
