"""Methods as files that run without this package: ONNX, and torch's own `.pt2`."""

from fewseg.export.run import ExportOptions, ExportReport, export_method
from fewseg.export.supports import save_supports

__all__ = ["ExportOptions", "ExportReport", "export_method", "save_supports"]
