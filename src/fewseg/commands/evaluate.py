"""`fewseg evaluate`: score a model on the novel classes of datasets."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewseg.checkpoints import fingerprint, load_method, load_official
from fewseg.commands.common import ProgressCallback, progress_bar
from fewseg.datasets.base import Dataset
from fewseg.devices import choose_device, choose_dtype
from fewseg.draw import contact_sheet, overlay
from fewseg.episodes.draw import MIN_IMAGES, draw_test_episodes, list_dataset, load_episodes, save_episodes
from fewseg.episodes.sources import OpenSource, open_source
from fewseg.errors import InvalidDataset, InvalidOption
from fewseg.evaluation.evaluate import EpisodeScore, EvaluationResult, Scoring, evaluate, segment_episode
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.report import class_table, markdown_table, write_results
from fewseg.files import make_folder, replacing
from fewseg.method_options import method_options
from fewseg.methods import FewShotMethod, create_method
from fewseg.types import Episode


@dataclass(frozen=True)
class Options:
    """Score a model on the novel classes of datasets, and print a table.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, or the word `synthetic`. The episodes that are drawn are saved beside the
    results: give them again with --episodes to measure another model on the same.
    """

    data: tuple[str, ...]
    """Datasets. ROOT@1/4 tests fold 1 of 4 (interleaved classes), ROOT@cat,dog these classes, ROOT@all all."""
    out: Path
    """Where results.json, the episode lists and pictures go."""
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
    fold: int | None = None
    """Fold to test, for datasets without @; all classes are tested if not given."""
    folds: int = 4
    """Number of folds."""
    shots: tuple[int, ...] = (1, 5)
    """Numbers of support pictures to measure, all on the same queries."""
    per_class: int = 15
    """Episodes of every class."""
    seed: int = 0
    """Of the episodes."""
    min_area: float = 0.02
    """Share of a picture that a class must cover to be used."""
    episodes: tuple[Path, ...] = ()
    """Episode lists to use instead of drawing some."""
    scoring: Scoring = "original"
    """Compare at the query's original size, or at the model's input size."""
    fusion: Fusion = "one-pass"
    """How several shots become one prediction. one-pass: the method's own way. The others fuse one-shot predictions:
    vote (majority of the masks), average (of the probabilities), hsnet-vote (half of the picture's largest number of
    votes), guided (average weighted by how well each shot segments the support pictures, as in SCL)."""
    pictures: int = 4
    """Best and worst episodes to draw, of each list; 0 for none."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: str = "float32"
    """float32, so that numbers do not depend on the device; bfloat16, float16, or auto as `fewseg segment` chooses."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


@dataclass(frozen=True)
class _Test:
    dataset: Dataset
    episodes: list[Episode]


def run(options: Options) -> int:
    """Evaluate, write, print the table."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.data or not options.shots:
        raise InvalidOption("nothing to evaluate: give at least one dataset and one number of shots")
    if options.options and options.method is None:
        raise InvalidOption("a checkpoint brings its method's options: leave out --options, or give --method")
    if options.per_class < 1 or options.pictures < 0 or options.seed < 0:
        raise InvalidOption("per_class must be 1 or more, pictures and seed 0 or more")
    if options.method is not None and options.official is None and options.checkpoint != "default":
        raise InvalidOption(
            f"--checkpoint {options.checkpoint} and --method {options.method}: a checkpoint brings its method; "
            "leave out one of the two, or say with --official that it is the authors' release"
        )
    if options.backbone_weights is not None and (options.method is None or options.official is not None):
        raise InvalidOption("a checkpoint brings its backbone: leave out --backbone-weights, or give --method alone")
    tests = _tests(options)
    method = _method(options)
    about = _about(method, options)
    device = choose_device(options.device)
    method.to(device, choose_dtype(options.precision, device))
    make_folder(options.out)
    _save_lists(options, tests)
    with progress_bar("evaluating") as advance:
        results = _evaluate(method, tests, options, advance)
    write_results(options.out / "results.json", results, {**about, **_placed(method)})
    names: Counter[str] = Counter()
    for test, result in zip(tests, results, strict=True):
        _draw(method, test.dataset, result, options, _numbered(names, test))
    print(markdown_table(results))
    print()
    print(class_table(results))
    return 0


def _tests(options: Options) -> list[_Test]:
    opened = [open_source(t, fold=options.fold, folds=options.folds, min_area=options.min_area) for t in options.data]
    _check_names([source.dataset for source in opened])
    if options.episodes:
        return [_from_list(path, opened) for path in options.episodes]
    # The most shots decide which classes have enough pictures, so that all numbers of shots test the same.
    least = max(MIN_IMAGES, max(options.shots) + 1)
    tests = []
    for source in opened:
        for shots in options.shots:
            episodes = draw_test_episodes(
                source.dataset, source.novel, shots, options.per_class, options.seed, min_images=least
            )
            if not episodes:
                raise InvalidDataset(
                    f"{source.dataset.name}: no novel class has {least} usable pictures: lower --min-area or --shots"
                )
            tests.append(_Test(source.dataset, episodes))
    return tests


def _check_names(datasets: Sequence[Dataset]) -> None:
    """Raise `InvalidDataset` where two would share their lines in the tables and their files."""
    seen: dict[str, str] = {}
    for dataset in datasets:
        if (stem := _stem(dataset)) in seen:
            both = f"{seen[stem]} and {dataset.name}"
            raise InvalidDataset(f"two datasets would write the same files ({both}): evaluate each into its own --out")
        seen[stem] = dataset.name


def _from_list(path: Path, opened: Sequence[OpenSource]) -> _Test:
    name = list_dataset(path)
    for source in opened:
        if source.dataset.name == name:
            return _Test(source.dataset, load_episodes(path, source.dataset))
    raise InvalidDataset(f"{path} was drawn from a dataset named {name}: give its folder with --data")


def _method(options: Options) -> FewShotMethod:
    size: dict[str, Any] = {} if options.image_size is None else {"image_size": options.image_size}
    if options.official is not None:
        given = method_options(options.method or "dcama", options.options)
        method = load_official(options.checkpoint, options.method or "dcama", options.official, **size, **given)
    elif options.method is None:
        method = load_method(options.checkpoint, image_size=options.image_size)
    else:
        weights = options.backbone_weights
        method = create_method(
            options.method,
            backbone=options.backbone,
            pretrained=weights is None,
            backbone_weights=weights,
            **size,
            **method_options(options.method, options.options),
        )
    return method.eval()


def _evaluate(
    method: FewShotMethod, tests: Sequence[_Test], options: Options, advance: ProgressCallback
) -> list[EvaluationResult]:
    total, before, results = sum(len(test.episodes) for test in tests), 0, []
    for test in tests:
        word = f"{test.dataset.name}, {len(test.episodes[0].support)}-shot"

        def moved(done: int, _: int, before: int = before, word: str = word) -> None:
            advance(before + done, total, word)

        results.append(
            evaluate(
                method,
                test.dataset,
                test.episodes,
                scoring=options.scoring,
                fusion=options.fusion,
                progress=moved,
            )
        )
        before += len(test.episodes)
    return results


def _stem(dataset: Dataset) -> str:
    """The dataset's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", dataset.name)


def _numbered(seen: Counter[str], test: _Test) -> str:
    """File name part of a test; the second of the same dataset and shots (from --episodes) is numbered."""
    name = f"{_stem(test.dataset)}_{len(test.episodes[0].support)}shot"
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name]}"


def _save_lists(options: Options, tests: Sequence[_Test]) -> None:
    folder = make_folder(options.out / "episodes")
    for test in tests:
        if not options.episodes:
            shots = len(test.episodes[0].support)
            about = {"shots": shots, "seed": options.seed, "min_area": options.min_area}
            save_episodes(folder / f"{_stem(test.dataset)}_{shots}shot.json", test.episodes, test.dataset, **about)


def _about(method: FewShotMethod, options: Options) -> dict[str, Any]:
    """What is measured, from the method as it was loaded: another precision must not give it another fingerprint."""
    return {
        "method": method.name,
        "backbone": method.backbone.name,
        "checkpoint": options.checkpoint if options.official or not options.method else None,
        "fingerprint": fingerprint(method),
        "config": dataclasses.asdict(method.config),
        "image_size": method.config.image_size,
        "seed": options.seed,
        "min_area": options.min_area,
    }


def _placed(method: FewShotMethod) -> dict[str, str]:
    return {"device": str(method.device), "dtype": str(method.dtype).removeprefix("torch.")}


def _draw(method: FewShotMethod, dataset: Dataset, result: EvaluationResult, options: Options, name: str) -> None:
    """A sheet of the best and one of the worst episodes: first support, truth, prediction."""
    ranked = sorted(result.scores, key=lambda score: score.iou)
    for word, chosen in (("worst", ranked[: options.pictures]), ("best", ranked[::-1][: options.pictures])):
        if chosen:
            pictures, titles = [], []
            for score in chosen:
                pictures += _row(method, dataset, score.episode, result.fusion)
                titles += _titles(dataset, score)
            sheet = contact_sheet(pictures, titles, columns=3, side=240)
            path = options.out / f"{word}_{name}.jpg"
            with replacing(path) as temporary:
                sheet.save(temporary, "JPEG", quality=88)


def _titles(dataset: Dataset, score: EpisodeScore) -> list[str]:
    return [dataset.classes[score.episode.class_id], "truth", f"IoU {score.iou:.2f}"]


def _row(method: FewShotMethod, dataset: Dataset, episode: Episode, fusion: Fusion) -> list[Any]:
    found, truth, _ = segment_episode(method, dataset, episode, "original", fusion)
    first, query = episode.support[0], dataset.image(episode.query)
    shown = (
        (dataset.image(first), dataset.mask(first, episode.class_id) == 1),
        (query, truth == 1),
        (query, found == 1),
    )
    return [overlay(picture, {"": mask}, legend=False) for picture, mask in shown]
