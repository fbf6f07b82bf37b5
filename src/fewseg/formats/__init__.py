"""Other tools' formats: supports read from them, results written to them."""

from fewseg.formats.export import export_masks
from fewseg.formats.records import FORMATS, ExportOptions, ExportReport, MaskRecord

__all__ = ["FORMATS", "ExportOptions", "ExportReport", "MaskRecord", "export_masks"]
