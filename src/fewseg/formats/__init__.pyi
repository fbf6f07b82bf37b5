from .convert import write_results as write_results
from .examples import SupportExample as SupportExample
from .examples import Supports as Supports
from .manifest import check_folder as check_folder
from .read import read_supports as read_supports
from .records import FORMATS as FORMATS
from .records import ExportOptions as ExportOptions
from .records import ExportReport as ExportReport
from .records import MaskRecord as MaskRecord
from .records import check_formats as check_formats
from .write import export_masks as export_masks

__all__ = [
    "FORMATS",
    "ExportOptions",
    "ExportReport",
    "MaskRecord",
    "SupportExample",
    "Supports",
    "check_folder",
    "check_formats",
    "export_masks",
    "read_supports",
    "write_results",
]
