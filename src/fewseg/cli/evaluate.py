"""`fewseg evaluate`: score a model on the novel classes of datasets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewseg.cli.options import ImageSizeOptions, LogOptions, NamedModelOptions, PrecisionOptions
from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.choices import Fusion, Resize, Scoring
from fewseg.core.errors import InvalidOption

if TYPE_CHECKING:
    from fewseg.evaluation.protocols import Protocol
    from fewseg.models.checkpoints import ModelName
    from fewseg.models.methods import FewShotMethod


@dataclass(frozen=True, kw_only=True)
class Options(NamedModelOptions, ImageSizeOptions, PrecisionOptions, LogOptions):
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
    model: str = "default"
    """The model: `default` (comes with fewseg), a name that `fewseg models` lists, a file, a folder with
    model.safetensors, a hub id user/name, a paper's release as METHOD:BACKBONE:FILE, e.g. dcama:resnet50:FILE, or a
    method without training as METHOD:BACKBONE, e.g. prototype:resnet50, over a named backbone or any timm model."""
    model_kwargs: tuple[str, ...] = ()
    """Fields of the config of a method that --model names, as KEY=VALUE: `temperature=10 scales=(8,16)`."""
    backbone_weights: Path | None = None
    """Weights of the backbone that --model names; downloaded if not given."""
    protocol: str | None = None
    """How it is measured: hsnet (also DCAMA's), sccan, sccan-square, pfenet or folder. If not given: folder, but where
    all data are benchmarks hsnet, or sccan for models of SCCAN that --model names."""
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
    from fewseg.models.checkpoints import ModelName

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
        "checkpoint": _checkpoint(ModelName.parse(options.model)),
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


def _checkpoint(named: ModelName) -> str | None:
    """The file, folder or id that the weights are from, as it was given; None for a method over published weights."""
    if named.file is not None:
        return named.file
    return named.text if named.is_checkpoint or named.zoo is not None else None


def _check(options: Options) -> None:
    from fewseg.models.checkpoints import ModelName

    if not options.data or not options.shots:
        raise InvalidOption("nothing to evaluate: give at least one dataset and one number of shots")
    named = ModelName.parse(options.model)
    if options.model_kwargs and named.is_checkpoint:
        raise InvalidOption(
            "a checkpoint brings its method's options: leave out --model-kwargs, or give --model METHOD:BACKBONE"
        )
    if options.backbone_weights is not None and (named.is_checkpoint or named.file is not None):
        raise InvalidOption(
            "a checkpoint brings its backbone: leave out --backbone-weights, or give --model METHOD:BACKBONE"
        )
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


def _protocol(options: Options) -> Protocol:
    from fewseg.evaluation.protocols import choose_protocol, default_protocol
    from fewseg.models.checkpoints import ModelName
    from fewseg.models.methods import METHODS, FewShotMethod

    kind = METHODS.get(ModelName.parse(options.model).method or "", FewShotMethod)
    name = options.protocol or default_protocol(options.data, kind)
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
    from fewseg.models.checkpoints import ModelName, open_model
    from fewseg.models.methods.options import method_options

    named = ModelName.parse(options.model)
    config = {} if named.method is None else method_options(named.method, options.model_kwargs)
    return open_model(
        options.model, image_size=options.image_size, backbone_weights=options.backbone_weights, **config
    ).eval()
