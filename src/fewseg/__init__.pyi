from .batch.files import BatchReport as BatchReport
from .batch.files import segment_files as segment_files
from .batch.options import BatchOptions as BatchOptions
from .core.errors import FewsegError as FewsegError
from .core.errors import InvalidCheckpoint as InvalidCheckpoint
from .core.errors import InvalidDataset as InvalidDataset
from .core.errors import InvalidImage as InvalidImage
from .core.errors import InvalidMask as InvalidMask
from .core.errors import InvalidOption as InvalidOption
from .core.errors import InvalidSupport as InvalidSupport
from .core.errors import OutputError as OutputError
from .core.errors import WorkerError as WorkerError
from .core.types import IGNORE as IGNORE
from .core.types import Episode as Episode
from .core.types import Prediction as Prediction
from .core.types import QueryFeatures as QueryFeatures
from .core.types import SupportSet as SupportSet
from .core.version import __version__ as __version__
from .evaluation.evaluate import EvaluationResult as EvaluationResult
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.run import evaluate_datasets as evaluate_datasets
from .evaluation.scoring import EvaluationSettings as EvaluationSettings
from .export.run import export_method as export_method
from .formats.convert import write_results as write_results
from .formats.examples import Supports as Supports
from .formats.read import read_supports as read_supports
from .formats.write import export_masks as export_masks
from .images.masks import read_mask as read_mask
from .images.prompts import Prompt as Prompt
from .images.read import read_image as read_image
from .inference.adaptation.report import Adaptation as Adaptation
from .inference.segmenter import Segmenter as Segmenter
from .inference.tiles import segment_tiled as segment_tiled
from .inference.tiles import teach_tiled as teach_tiled
from .models.checkpoints.native import load_method as load_method
from .models.checkpoints.native import save_method as save_method
from .models.checkpoints.official import load_official as load_official
from .models.methods.base import FewShotMethod as FewShotMethod
from .models.methods.contract import check_method as check_method
from .models.methods.create import create_method as create_method
from .models.methods.create import register_method as register_method
from .training.config import TrainConfig as TrainConfig
from .training.train import TrainReport as TrainReport
from .training.train import train as train

__all__ = [
    "IGNORE",
    "Adaptation",
    "BatchOptions",
    "BatchReport",
    "Episode",
    "EvaluationResult",
    "EvaluationSettings",
    "FewShotMethod",
    "FewsegError",
    "InvalidCheckpoint",
    "InvalidDataset",
    "InvalidImage",
    "InvalidMask",
    "InvalidOption",
    "InvalidSupport",
    "OutputError",
    "Prediction",
    "Prompt",
    "QueryFeatures",
    "Segmenter",
    "SupportSet",
    "Supports",
    "TrainConfig",
    "TrainReport",
    "WorkerError",
    "__version__",
    "check_method",
    "create_method",
    "evaluate",
    "evaluate_datasets",
    "export_masks",
    "export_method",
    "load_method",
    "load_official",
    "read_image",
    "read_mask",
    "read_supports",
    "register_method",
    "save_method",
    "segment_files",
    "segment_tiled",
    "teach_tiled",
    "train",
    "write_results",
]
