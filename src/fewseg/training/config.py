"""Every choice of a training run; the field comments are the help of `fewseg train`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from fewseg.core.choices import Queries
from fewseg.core.errors import InvalidOption
from fewseg.training.config_checks import check_config

Loss = Literal["ce", "dice", "ce+dice", "gce+dice"]
Optimiser = Literal["sgd", "adam", "adamw", "sgd+adamw"]
Augment = Literal["none", "sccan", "sccan-coco", "strong"]
Schedule = Literal["constant", "cosine", "poly"]
ValidateOn = Literal["base", "novel", "test"]
Selection = Literal["hsnet", "sccan"]
IgnoredPixels = Literal["ignore", "background"]

RESUMABLE: Final = frozenset(
    {
        "workers",
        "threads",
        "checkpoint_every",
        "cache_megabytes",
        "device",
        "tensorboard",
        "log_every",
        "random_backbone",
        "grad_accum_steps",
        "cache_folder",
        "patience",
    }
)
"""Fields that may change between a run and its resumption: they choose how, not what is computed."""

RENAMED_FIELDS: Final = {
    "options": "model_kwargs",
    "absent": "negative_episodes",
    "joined": "splice",
    "batch": "batch_size",
    "accumulate": "grad_accum_steps",
    "episodes": "episodes_per_epoch",
    "cache_views": "cached_views",
    "clip": "clip_grad",
    "average": "ema_decay",
}
"""Old to new names of fields: runs that an earlier version began are resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. Defaults are the DCAMA paper's where it has one (section 4.1), for one machine."""

    data: tuple[str, ...]
    """Datasets: folders, or `synthetic`. ROOT@1/4 keeps fold 1 of 4 out of training, ROOT@cat,dog these classes."""
    weights: tuple[float, ...] = ()
    """How often each dataset is drawn, relative to the others; equal if not given."""
    fold: int | None = None
    """Fold to keep out of training, for datasets without @; all classes are trained on if not given."""
    folds: int = 4
    """Number of folds."""
    selection: Selection = "hsnet"
    """Training images of a benchmark. hsnet (DCAMA too): those that also show novel classes are used, these classes
    being background. sccan: they are not, nor are objects under 2048 pixels."""
    min_area: float = 0.0
    """Share of an image that a class must cover to be used."""
    queries: Queries = "classes"
    """How queries are drawn. classes: a class uniformly, then an image of it, with replacement. pairs: each (image,
    class) once an epoch, shuffled (DCAMA and HSNet on PASCAL). images: each image once an epoch, its class uniformly
    among the base classes that it shows (SCCAN)."""
    small_queries: bool = False
    """With queries images: count classes that an image shows on too few pixels for a support, too (SCCAN)."""
    ignored_pixels: IgnoredPixels = "ignore"
    """Pixels of a dataset's masks that are 255, in the loss: ignore, or background (DCAMA and HSNet)."""

    method: str = "dcama"
    """Method to train."""
    model_kwargs: tuple[str, ...] = ()
    """Fields of the method's config, as KEY=VALUE: `heads=4 attention=cosine`."""
    backbone: str = "resnet50"
    """resnet50, resnet101, swin_b, tiny, dinov3-small, dinov2-base, ... or any timm model name."""
    pretrained: bool = False
    """Download the backbone's ImageNet weights."""
    backbone_weights: str | None = None
    """Read the backbone's weights from this file instead."""
    random_backbone: bool = False
    """Allow a frozen backbone with random weights, for trials: without this, one is refused."""
    init_from: str | None = None
    """Start from this fewseg checkpoint; its method, backbone and input size replace the ones given here."""
    image_size: int = 384
    """Side of the square input, in pixels."""
    train_backbone: bool = False
    """Fine-tune the backbone too (its batch norm statistics stay as they are)."""
    backbone_lr_factor: float = 0.1
    """Learning rate of the backbone relative to the head's."""

    shots: tuple[int, ...] = (1,)
    """Support images of an episode; of several numbers, each batch draws one."""
    negative_episodes: float = 0.0
    """Fraction of episodes whose query shows another class, so that the right mask is empty: teaches `present`."""
    splice: float = 0.0
    """Fraction of episodes whose images are spliced half-and-half with images of another class, so that saliency alone
    cannot solve them."""
    batch_size: int = 8
    """Episodes of a step, over all processes together. The paper: 48 over four GPUs."""
    grad_accum_steps: int = 1
    """Micro-batches that a process splits its shard of the batch into: less memory, the same update."""
    epochs: int = 100
    """Passes of `episodes_per_epoch` episodes."""
    episodes_per_epoch: int = 2000
    """Episodes of an epoch; 0 for as many as there are queries: pairs with queries pairs, else images."""
    drop_last: bool = True
    """Round an epoch down to whole batches, instead of ending it with a smaller one (DCAMA and HSNet)."""
    augment: Augment = "none"
    """How images are varied: none (DCAMA), sccan or sccan-coco (SCCAN's for PASCAL and COCO), strong (ours)."""
    cached_views: int = 0
    """Views of every image whose backbone maps are computed once and cached in memory (bfloat16 with amp): 1 the plain
    image, more augmented ones too. 0 runs the backbone at every step."""
    cache_folder: str | None = None
    """Cache these maps in files there instead of in memory; later runs over the same backbone and images use them."""

    optimiser: Optimiser = "sgd"
    """sgd (Nesterov momentum, as DCAMA), adam (as HSNet), adamw, or sgd+adamw (as SCCAN: plain sgd, but adamw at
    `attention_lr` for the attention blocks)."""
    lr: float = 1e-3
    """Learning rate."""
    attention_lr: float = 6e-5
    """Constant learning rate of the attention blocks with sgd+adamw."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 1e-4
    """Weight decay."""
    schedule: Schedule = "constant"
    """How the learning rate falls: constant, cosine, or poly (power 0.9)."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly at first."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    loss: Loss = "ce"
    """ce (cross-entropy), dice, or their sum; with gce+dice (generalised cross-entropy where the mask says background)
    predicting objects that nobody labelled costs little."""
    amp: bool = False
    """Compute in bfloat16 where that is safe."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then validated and saved; 0 for none."""

    validate_on: ValidateOn = "base"
    """What chooses the best checkpoint. base: classes kept from training. novel: the test classes themselves; scores
    on them are then no longer those of classes never seen. test: these too, by episodes, image size and scoring of the
    test protocol of the method, as the papers' code does (FSS-1000: its validation classes)."""
    validation_classes: tuple[int, ...] = (4,)
    """Base classes kept from training to choose the best checkpoint, one number for all datasets or one for each; 0
    for none."""
    validation_episodes: int = 100
    """Validation episodes of each dataset and of the least and the largest number of shots."""
    validate_every: float = 1.0
    """Epochs between validations; 0.5 for half-way through epochs, too."""
    patience: int = 0
    """Stop after so many validations without a better one; 0 to go on to the last epoch."""

    seed: int = 0
    """Of everything that is drawn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    workers: int = 2
    """Processes that read images; 0 reads in the training process."""
    threads: int = 0
    """Threads of torch; 0 leaves them as they are."""
    cache_megabytes: float = 256.0
    """Memory for decoded images, for each dataset in every worker."""
    checkpoint_every: int = 200
    """Steps between checkpoints to resume from, beside those at the end of every epoch."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard events too."""

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for values that cannot work."""
        check_config(self)

    @property
    def steps_per_epoch(self) -> int:
        return (self.episodes_per_epoch + (0 if self.drop_last else self.batch_size - 1)) // self.batch_size

    @property
    def epoch_episodes(self) -> int:
        """Episodes of an epoch that are trained on."""
        return self.steps_per_epoch * self.batch_size if self.drop_last else self.episodes_per_epoch

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        return bool(self.validation_episodes and (self.validate_on != "base" or any(self.validation_classes)))

    def validation_classes_of(self, dataset: int) -> int:
        """How many base classes of the dataset of that number are kept for validation."""
        return self.validation_classes[dataset if len(self.validation_classes) > 1 else 0]

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The config that `to_json` wrote, of this version or an earlier one."""
        return cls(**_upgraded(values))

    def check_resumes(self, before: dict[str, Any], where: str) -> None:
        """Raise `InvalidOption` where this config would not go on with the run that `before` (JSON values) began.

        A run at constant learning rate may be made longer. What an earlier version did not write down is the default.
        """
        from fewseg.models.methods.options import complete_options  # torch, which a command's help does without

        free = RESUMABLE | ({"epochs"} if self.schedule == "constant" else set())
        earlier = _upgraded(before)
        for field in dataclasses.fields(TrainConfig):
            name, value = field.name, getattr(self, field.name)
            old = earlier.get(name, value if field.default is dataclasses.MISSING else field.default)
            if name == "model_kwargs" and complete_options(self.method, old) == complete_options(self.method, value):
                continue
            if name not in free and old != value:
                raise InvalidOption(
                    f"{where} holds a run with {name} {old!r}, not {value!r}: "
                    "give the same settings to go on with it, or another folder to begin anew"
                )


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """JSON values of a config as fields of this version."""
    from fewseg.models.methods.saved_names import upgraded_words  # torch, which a command's help does without

    fields: dict[str, Any] = {
        RENAMED_FIELDS.get(key, key): tuple(v) if isinstance(v, list) else v for key, v in values.items()
    }
    words = fields.get("model_kwargs", ())
    fields["method"], fields["model_kwargs"] = upgraded_words(fields.get("method", "dcama"), words)
    return fields
