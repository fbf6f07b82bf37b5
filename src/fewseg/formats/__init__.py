"""Other tools' formats: supports read from them, results written to them."""

from fewseg.formats.examples import SupportExample, Supports
from fewseg.formats.export import export_masks
from fewseg.formats.kept import check_folder
from fewseg.formats.records import FORMATS, ExportOptions, ExportReport, MaskRecord, check_formats
from fewseg.formats.results import write_results
from fewseg.formats.supports import read_supports

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
