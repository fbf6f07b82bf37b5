from .options import GraphOptions as GraphOptions
from .run import GraphReport as GraphReport
from .run import export_method as export_method
from .supports import check_supports as check_supports
from .supports import save_supports as save_supports

__all__ = ["GraphOptions", "GraphReport", "check_supports", "export_method", "save_supports"]
