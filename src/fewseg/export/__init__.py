"""Methods as files that run without this package: ONNX, and torch's own `.pt2`."""

from fewseg.export.run import ExportOptions, ExportReport, export_method
from fewseg.export.supports import check_supports, save_supports

__all__ = ["ExportOptions", "ExportReport", "check_supports", "export_method", "save_supports"]
