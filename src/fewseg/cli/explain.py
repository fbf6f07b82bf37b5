"""`fewseg explain`: figures of what a method attends to, its aggregated masks and its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fewseg.cli.options import DeviceOptions, ImageSizeOptions, LogOptions, NamedModelOptions
from fewseg.core.errors import InvalidOption, InvalidSupport, unknown

if TYPE_CHECKING:
    from fewseg.models.methods import FewShotMethod
    from fewseg.tools.explain.attention import Point
    from fewseg.tools.explain.case import Case, Explained

FIGURES: Final = ("attention", "masks", "features")


@dataclass(frozen=True, kw_only=True)
class Options(NamedModelOptions, ImageSizeOptions, DeviceOptions, LogOptions):
    """Draw what a model does with one query: figures for a paper, as PNG, PDF or SVG.

    attention: what chosen points of the query attend to in the support (DCAMA, Fig. S5). masks: the masks that each
    scale aggregates before the decoder, cut by Otsu's threshold (Fig. 4b and 6). features: t-SNE of the features before
    the last layer, beside the backbone's (Fig. S6). Give images, with --query and --support, or episodes of a
    dataset, with --data and --episode-list.
    """

    out: Path
    """Folder for the figures."""
    query: Path | None = None
    """The image to segment."""
    support: tuple[Path, ...] = ()
    """Image, mask, image, mask ...; or one folder with LABEL/name.jpg and LABEL/name.png."""
    truth: Path | None = None
    """The query's true mask, for IoUs."""
    label: str = ""
    """The label, where the support folder has several."""
    data: str = ""
    """The dataset of the episodes, as for `fewseg evaluate`."""
    episode_list: Path | None = None
    """An episode list that `fewseg evaluate` saved."""
    entry: tuple[int, ...] = (0,)
    """Which of its episodes, counted from 0. Several: figures of each, and one t-SNE of all."""
    min_area: float = 0.02
    """Share of an image that a class must cover to be used, as the list was drawn with."""
    figures: tuple[str, ...] = ("attention", "masks")
    """Which: attention, masks, features (needs scikit-learn: pip install "fewseg[explain]")."""
    points: tuple[str, ...] = ()
    """Points of the query, ACROSS,DOWN: fractions (0.4,0.55) or pixels (120,80). One in the predicted
    foreground and one in the background if not given."""
    attention_scales: tuple[int, ...] = ()
    """Attention of these scales only, e.g. 16; all together if not given."""
    formats: tuple[str, ...] = ("png",)
    """Kinds of image files to write: png, pdf, svg."""
    pixels: int = 300
    """Foreground pixels, and background pixels, of each query in the t-SNE."""
    seed: int = 0
    """Of the t-SNE."""


def run(options: Options) -> int:
    """Draw and say where."""
    from fewseg.cli.common import log_to_terminal
    from fewseg.core.files import make_folder
    from fewseg.tools.explain import default_points, explain_case, point_attention
    from fewseg.tools.explain.features import require_last_layer
    from fewseg.tools.explain.figures import attention_figure, masks_figure

    log_to_terminal(options.verbose)
    _check(options)
    cases = _cases(options)
    given = [tuple(_point(text, case) for text in options.points) for case in cases.values()]
    method = _method(options)
    if "features" in options.figures:
        require_last_layer(method)  # before anything is drawn
    explained = {name: explain_case(method, case) for name, case in cases.items()}
    folder = make_folder(options.out)
    for (name, one), points in zip(explained.items(), given, strict=True):
        if "attention" in options.figures:
            chosen = points or default_points(one.probability)
            blocks = point_attention(one, chosen, options.attention_scales)
            _save(attention_figure(one, chosen, blocks), folder, f"attention{name}", options)
        if "masks" in options.figures:
            _save(masks_figure(one), folder, f"masks{name}", options)
    if "features" in options.figures:
        _features(list(explained.values()), folder, options)
    return 0


def _features(explained: list[Explained], folder: Path, options: Options) -> None:
    from fewseg.tools.explain import embed, feature_cloud
    from fewseg.tools.explain.figures import features_figure

    cloud = feature_cloud(explained, options.pixels, options.seed)
    planes = embed(cloud.backbone, options.seed), embed(cloud.penultimate, options.seed)
    _save(features_figure(cloud, planes), folder, "features", options)


def _check(options: Options) -> None:
    from fewseg.tools.explain.figures import FORMATS

    for kind, words, known in (("figure", options.figures, FIGURES), ("format", options.formats, FORMATS)):
        if not words:
            raise InvalidOption(f"no {kind} asked for: choose among {', '.join(known)}")
        if wrong := [word for word in words if word not in known]:
            raise unknown(kind, wrong[0], known)
    if options.pixels < 4:
        raise InvalidOption(f"pixels is {options.pixels}: give at least 4")
    if (options.query is None) == (options.episode_list is None):
        raise InvalidOption("give an image with --query and --support, or episodes with --data and --episode-list")
    if options.query is None and (options.support or options.truth or options.label):
        raise InvalidOption("episodes bring their examples and masks: leave out --support, --truth and --label")
    if options.query is not None and (options.data or options.entry != (0,)):
        raise InvalidOption("--data and --entry are for episodes: leave them out, or give --episode-list for --query")
    if "attention" not in options.figures and (options.points or options.attention_scales):
        raise InvalidOption(
            "--points and --attention-scales are for the figure of attention: ask for it, or leave them out"
        )


def _cases(options: Options) -> dict[str, Case]:
    """Cases by what is added to their files' names."""
    from fewseg.data.episodes.draw import load_episodes
    from fewseg.data.episodes.sources import open_source
    from fewseg.tools.explain.case import Case

    if options.query is not None:
        label, pairs = _support(options)
        return {"": Case.from_images(options.query, pairs, truth=options.truth, label=label)}
    if not options.data or options.episode_list is None:
        raise InvalidOption("an episode list names images of a dataset: give it with --data")
    dataset = open_source(options.data, min_area=options.min_area).dataset
    episodes = load_episodes(options.episode_list, dataset)
    if wrong := [n for n in options.entry if not 0 <= n < len(episodes)]:
        raise InvalidOption(f"no entry {wrong[0]}: {options.episode_list} has {len(episodes)}, counted from 0")
    several = len(set(options.entry)) > 1
    return {f"_{n}" if several else "": Case.from_episode(dataset, episodes[n]) for n in options.entry}


def _support(options: Options) -> tuple[str, list[tuple[Path, Path]]]:
    from fewseg.formats.mask_folders import is_prompts, read_mask_folders, require_apart

    given = options.support
    if len(given) == 1 and not given[0].is_file():
        require_apart(given[0], options.out)
        examples = read_mask_folders(given[0])
        label = options.label or next(iter(examples))
        if label not in examples:
            raise unknown("label of the support folder", label, examples)
        if len(examples) > 1 and not options.label:
            raise InvalidOption(f"{given[0]} has several labels: choose with --label, e.g. --label {label}")
        if prompts := [mask for _, mask in examples[label] if is_prompts(mask)]:
            raise InvalidSupport(f"{prompts[0]} holds prompts: fewseg explain needs a mask, saved as PNG beside it")
        return label, examples[label]
    if not given or len(given) % 2:
        raise InvalidSupport(f"{len(given)} support files: give pairs, IMAGE MASK IMAGE MASK ..., or one folder")
    return options.label, list(zip(given[::2], given[1::2], strict=True))


def _point(text: str, case: Case) -> Point:
    """`0.4,0.55` or `120,80` as fractions."""
    try:
        across, down = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidOption(f"point {text!r}: write it ACROSS,DOWN, as 0.4,0.55 or, in pixels, 120,80") from None
    if "." not in text:
        across, down = (across + 0.5) / case.query.width, (down + 0.5) / case.query.height
    if not (0 <= across < 1 and 0 <= down < 1):
        size = f"{case.query.width}x{case.query.height}"
        raise InvalidOption(f"point {text} lies outside the query ({size}): give fractions below 1, or whole pixels")
    return across, down


def _method(options: Options) -> FewShotMethod:
    from fewseg.core.devices import choose_device
    from fewseg.models.checkpoints import open_model

    method = open_model(options.model, image_size=options.image_size)
    return method.to(choose_device(options.device)).eval()


def _save(figure: Any, folder: Path, name: str, options: Options) -> None:
    from fewseg.tools.explain.figures import save_figure

    for kind in options.formats:
        path = folder / f"{name}.{kind}"
        save_figure(figure, path)
        print(path)
