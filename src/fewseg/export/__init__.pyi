from .options import ExportOptions as ExportOptions
from .run import ExportReport as ExportReport
from .run import export_method as export_method
from .supports import check_supports as check_supports
from .supports import save_supports as save_supports

__all__ = ["ExportOptions", "ExportReport", "check_supports", "export_method", "save_supports"]
